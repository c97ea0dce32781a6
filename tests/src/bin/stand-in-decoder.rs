//! A decode worker that decodes nothing, for `ingest run --decoder`: it answers at once, or does what the name of the clip
//! says: `crash`, `hang`, `garbage`, `deaf`, `half`, `lie`. Speaks the protocol of `ingest`'s workers.

use std::io::{self, Read, Write};
use std::time::Duration;

use serde_json::{Value, json};

/// 16 x 16 pixels, brown.
const JPEG: &[u8] = include_bytes!("stand-in.jpg");

/// Frames of 128 log-mel values.
const MEL_FRAMES: usize = 4;

fn receive(from: &mut impl Read) -> io::Result<Option<Value>> {
    let mut length = [0; 4];
    if from.read_exact(&mut length).is_err() {
        return Ok(None);
    }
    let mut json = vec![0; u32::from_le_bytes(length) as usize];
    from.read_exact(&mut json)?;
    Ok(Some(serde_json::from_slice(&json)?))
}

fn send(to: &mut impl Write, message: &Value, blobs: &[Vec<u8>]) -> io::Result<()> {
    let json = serde_json::to_vec(message)?;
    to.write_all(&(json.len() as u32).to_le_bytes())?;
    to.write_all(&json)?;
    blobs.iter().try_for_each(|blob| to.write_all(blob))?;
    to.flush()
}

fn main() -> io::Result<()> {
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    // What may be read; nothing is.
    receive(&mut input)?;
    let hello = json!({"version": env!("CARGO_PKG_VERSION"), "sandbox_gaps": []});
    send(&mut output, &hello, &[])?;
    while let Some(request) = receive(&mut input)? {
        for task in request["tasks"].as_array().into_iter().flatten() {
            let name = task["files"][0]["name"].as_str().unwrap_or_default();
            let does = |what: &str| name.contains(what);
            if does("crash") {
                std::process::abort();
            }
            if does("hang") {
                std::thread::sleep(Duration::from_secs(3600));
            }
            if does("garbage") {
                output.write_all(&[0xff; 1000])?;
                output.flush()?;
            }
            if does("deaf") {
                return Ok(());
            }
            let audio = task["modality"] == "audio";
            // Not the same for every clip, so that a mix-up shows.
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
            if does("lie") {
                lengths = vec![u64::MAX, 1];
            }
            let reply = json!({
                "failure": null, "warnings": [], "seconds": 1.0, "times": times, "blobs": lengths,
            });
            if does("half") {
                send(&mut output, &reply, &[blobs[0][..10].to_vec()])?;
                return Ok(());
            }
            send(&mut output, &reply, &blobs)?;
        }
    }
    Ok(())
}
