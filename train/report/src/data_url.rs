//! Images inside a page, as `data:` URLs: JPEG as stored, spectrograms as gray BMP.

use media::mel::Mel;

/// Encodes as standard base64 with padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .enumerate()
            .fold(0u32, |word, (i, b)| word | u32::from(*b) << (16 - 8 * i));
        for i in 0..4 {
            if i <= chunk.len() {
                let character = ALPHABET[(word >> (18 - 6 * i)) as usize & 63];
                out.push(char::from(character));
            } else {
                out.push('=');
            }
        }
    }
    out
}

/// Returns the URL of a JPEG file's bytes.
pub fn jpeg(bytes: &[u8]) -> String {
    format!("data:image/jpeg;base64,{}", base64(bytes))
}

/// The largest width of a spectrogram's image; neighbouring mel frames are averaged.
const MAX_WIDTH: usize = 256;
/// The largest height of a spectrogram's image; neighbouring mel bands are averaged.
const MAX_HEIGHT: usize = 64;

/// Returns the URL of a spectrogram's image: time goes to the right, frequency upwards, and the
/// largest energy is white.
pub fn spectrogram(mel: &Mel) -> String {
    let frames = mel.values.len() / mel.bins.max(1);
    let width = frames.clamp(1, MAX_WIDTH);
    let height = mel.bins.clamp(1, MAX_HEIGHT);
    let mut cells = vec![0.0f32; width * height];
    for x in 0..width {
        for y in 0..height {
            let (mut sum, mut n) = (0.0, 0);
            for frame in x * frames / width..(x + 1) * frames / width {
                for bin in y * mel.bins / height..(y + 1) * mel.bins / height {
                    sum += mel.values[frame * mel.bins + bin];
                    n += 1;
                }
            }
            // The first row of a BMP is its lowest, as the first band is.
            cells[y * width + x] = sum / n.max(1) as f32;
        }
    }
    let (low, high) = cells
        .iter()
        .fold((f32::MAX, f32::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
    let span = (high - low).max(1e-6);
    let gray: Vec<u8> = cells
        .iter()
        .map(|v| (255.0 * (v - low) / span) as u8)
        .collect();
    format!(
        "data:image/bmp;base64,{}",
        base64(&bmp(&gray, width, height))
    )
}

/// Encodes an 8-bit gray BMP. The rows go from the bottom up.
fn bmp(gray: &[u8], width: usize, height: usize) -> Vec<u8> {
    const HEADER: u32 = 14 + 40 + 256 * 4;
    let stride = width.next_multiple_of(4);
    let size = HEADER + (stride * height) as u32;
    let mut out = b"BM".to_vec();
    for word in [size, 0, HEADER, 40, width as u32, height as u32] {
        out.extend(word.to_le_bytes());
    }
    // One plane, 8 bits per pixel, no compression, 2835 pixels per metre, 256 colours.
    out.extend([1u8, 0, 8, 0]);
    for word in [0u32, (stride * height) as u32, 2835, 2835, 256, 0] {
        out.extend(word.to_le_bytes());
    }
    (0..=255u8).for_each(|v| out.extend([v, v, v, 0]));
    for row in gray.chunks_exact(width) {
        out.extend_from_slice(row);
        out.extend(std::iter::repeat_n(0, stride - width));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_encodes_the_test_vectors_of_rfc_4648() {
        for (bytes, want) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), want);
        }
    }

    #[test]
    fn a_decoder_reads_the_bmp() {
        let mut values = vec![0.0; 3 * 4];
        values[4 + 3] = 1.0;
        let url = spectrogram(&Mel { bins: 4, values });
        assert!(url.starts_with("data:image/bmp;base64,Qk"));
        // The last row of a BMP is its highest: the pixel lies in the top row, second column.
        let bytes = bmp(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 0], 3, 4);
        let image = media::image::decode(&bytes).unwrap();
        assert_eq!((image.width, image.height), (3, 4));
        let bright = image.pixels.iter().position(|v| *v == 255).unwrap();
        assert_eq!(bright, 3);
    }
}
