//! A decode worker that decodes nothing, for `ingest run --decoder`. It replies at once with fixed
//! frames and made-up spectrograms, or misbehaves if the name of the clip contains `crash`, `hang`,
//! `garbage`, `exit`, `truncate` or `lie`.

use std::io::{self, Read, Write};
use std::time::Duration;

use serde_json::{Value, json};

/// A brown image of 16 x 16 pixels.
const JPEG: &[u8] = include_bytes!("stand-in.jpg");

/// The number of frames of a spectrogram, of 128 log-mel values each.
const MEL_FRAMES: usize = 4;

/// Reads a message: its length, then JSON. Returns `None` at the end of the input.
fn receive(from: &mut impl Read) -> io::Result<Option<Value>> {
    let mut length = [0; 4];
    if from.read_exact(&mut length).is_err() {
        return Ok(None);
    }
    let mut json = vec![0; u32::from_le_bytes(length) as usize];
    from.read_exact(&mut json)?;
    Ok(Some(serde_json::from_slice(&json)?))
}

/// Writes a message: its length, JSON, then blobs.
fn send(to: &mut impl Write, message: &Value, blobs: &[Vec<u8>]) -> io::Result<()> {
    let json = serde_json::to_vec(message)?;
    to.write_all(&(json.len() as u32).to_le_bytes())?;
    to.write_all(&json)?;
    blobs.iter().try_for_each(|blob| to.write_all(blob))?;
    to.flush()
}

fn main() -> io::Result<()> {
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    // The folders that the sandbox would admit.
    receive(&mut input)?;
    let hello = json!({"version": env!("CARGO_PKG_VERSION"), "sandbox_gaps": []});
    send(&mut output, &hello, &[])?;
    while let Some(request) = receive(&mut input)? {
        for task in request["tasks"].as_array().into_iter().flatten() {
            let name = task["files"][0]["name"].as_str().unwrap_or_default();
            let is_told_to = |word: &str| name.contains(word);
            if is_told_to("crash") {
                std::process::abort();
            }
            if is_told_to("hang") {
                std::thread::sleep(Duration::from_secs(3600));
            }
            if is_told_to("garbage") {
                output.write_all(&[0xff; 1000])?;
                output.flush()?;
            }
            if is_told_to("exit") {
                return Ok(());
            }
            let audio = task["modality"] == "audio";
            // Another value for every clip, so that a mix-up is noticed.
            let value = name
                .bytes()
                .fold(0u32, |sum, byte| sum * 31 % 9973 + u32::from(byte))
                as f32;
            let blobs = if audio {
                vec![value.to_le_bytes().repeat(MEL_FRAMES * 128)]
            } else {
                vec![JPEG.to_vec(), JPEG.to_vec()]
            };
            let times = if audio { vec![] } else { vec![0.0, 0.5] };
            let mut lengths: Vec<u64> = blobs.iter().map(|blob| blob.len() as u64).collect();
            if is_told_to("lie") {
                lengths = vec![u64::MAX, 1];
            }
            let reply = json!({
                "failure": null, "warnings": [], "seconds": 1.0, "times": times, "blobs": lengths,
            });
            if is_told_to("truncate") {
                send(&mut output, &reply, &[blobs[0][..10].to_vec()])?;
                return Ok(());
            }
            send(&mut output, &reply, &blobs)?;
        }
    }
    Ok(())
}
