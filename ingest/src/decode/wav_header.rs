//! The format of WAV and Wave64 files, where libav reads it wrongly.
//!
//! WAVE_FORMAT_EXTENSIBLE gives two sizes of a sample: that of its container, and how many of the
//! container's upper bits are valid. libav takes the second one for the size: 24 bits in 32 for
//! floats, 20 in 32 for samples of three bytes. The container is right, as libsndfile reads it, and
//! the bits that are not valid are zero.

use ffmpeg_next::codec::Id;

/// Number of chunks that are looked through.
const MAX_CHUNKS: usize = 64;

const PCM: u16 = 1;
const IEEE_FLOAT: u16 = 3;
const EXTENSIBLE: u16 = 0xfffe;

/// The second half of the GUID that begins with a format tag in WAVE_FORMAT_EXTENSIBLE.
const GUID_OF_TAGS: &[u8] = b"\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71";

/// How the samples of a file are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampleFormat {
    /// The codec of the samples.
    pub codec: Id,
    /// Bytes of one sample.
    pub bytes: usize,
}

/// Returns the format of the samples from the first bytes of a file. `None` where libav reads it
/// rightly, and for a file of another kind.
pub fn sample_format(head: &[u8]) -> Option<SampleFormat> {
    parse(fmt_chunk(head)?)
}

/// Parses a `fmt ` chunk.
fn parse(chunk: &[u8]) -> Option<SampleFormat> {
    let field = |at: usize| Some(u16::from_le_bytes(chunk.get(at..at + 2)?.try_into().ok()?));
    let (tag, channels, block) = (field(0)?, field(2)?, field(12)?);
    let bits = field(14)?;
    let tag = match tag {
        EXTENSIBLE if chunk.get(26..40)? == GUID_OF_TAGS => field(24)?,
        // Syntrillium's 24 bits in 32, which libav takes for floats. libsndfile does not.
        PCM if bits == 24 && block == channels.checked_mul(4)? => PCM,
        _ => return None,
    };
    if channels == 0 || block % channels != 0 {
        return None;
    }
    let bytes = usize::from(block / channels);
    let codec = match (tag, bytes) {
        (PCM, 1) => Id::PCM_U8,
        (PCM, 2) => Id::PCM_S16LE,
        (PCM, 3) => Id::PCM_S24LE,
        (PCM, 4) => Id::PCM_S32LE,
        (PCM, 8) => Id::PCM_S64LE,
        (IEEE_FLOAT, 4) => Id::PCM_F32LE,
        (IEEE_FLOAT, 8) => Id::PCM_F64LE,
        _ => return None,
    };
    Some(SampleFormat { codec, bytes })
}

/// Returns the contents of the `fmt ` chunk, as far as `head` holds it.
fn fmt_chunk(head: &[u8]) -> Option<&[u8]> {
    let is_wav =
        matches!(head.get(..4)?, b"RIFF" | b"RF64" | b"BW64") && head.get(8..12) == Some(b"WAVE");
    let is_w64 = head.starts_with(b"riff\x2e\x91\xcf\x11") && head.get(24..28)? == b"wave";
    // The size of a chunk's header, and of what the chunks are padded to.
    let (mut at, header, padding) = match (is_wav, is_w64) {
        (true, _) => (12, 8, 2),
        (_, true) => (40, 24, 8),
        _ => return None,
    };
    for _ in 0..MAX_CHUNKS {
        let chunk = head.get(at..)?;
        let size = match is_wav {
            true => u32::from_le_bytes(chunk.get(4..8)?.try_into().ok()?).into(),
            // The size in Wave64 includes the header.
            false => u64::from_le_bytes(chunk.get(16..24)?.try_into().ok()?).checked_sub(24)?,
        };
        let size = usize::try_from(size).ok()?;
        let contents = chunk.get(header..)?;
        if chunk.starts_with(b"fmt ") {
            return Some(&contents[..size.min(contents.len())]);
        }
        let size = size.checked_next_multiple_of(padding)?;
        at = at.checked_add(header)?.checked_add(size)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wav(tag: u16, channels: u16, block: u16, bits: u16, rest: &[u8]) -> Vec<u8> {
        let mut fmt = [tag, channels, 0x3e80, 0, 0, 0, block, bits]
            .map(u16::to_le_bytes)
            .concat();
        fmt.extend(rest);
        let mut file = b"RIFF\0\0\0\0WAVEJUNK\x03\0\0\0abc\0fmt ".to_vec();
        file.extend((fmt.len() as u32).to_le_bytes());
        file.extend(fmt);
        file
    }

    /// The end of a `fmt ` chunk: its size, the valid bits, the speakers and the GUID.
    fn extension(valid: u16, tag: u16) -> Vec<u8> {
        let fields = [22, valid, 0, 0, tag].map(u16::to_le_bytes).concat();
        [&fields, GUID_OF_TAGS].concat()
    }

    #[test]
    fn the_container_of_a_sample_decides() {
        let read = |tag, channels, block, bits, rest: &[u8]| {
            sample_format(&wav(tag, channels, block, bits, rest)).map(|format| format.codec)
        };
        let extensible = |channels, block, bits, valid, tag| {
            read(EXTENSIBLE, channels, block, bits, &extension(valid, tag))
        };
        assert_eq!(extensible(1, 4, 32, 24, PCM), Some(Id::PCM_S32LE));
        assert_eq!(extensible(2, 8, 32, 20, PCM), Some(Id::PCM_S32LE));
        assert_eq!(extensible(2, 6, 24, 20, PCM), Some(Id::PCM_S24LE));
        assert_eq!(extensible(1, 2, 16, 12, PCM), Some(Id::PCM_S16LE));
        assert_eq!(extensible(1, 1, 8, 8, PCM), Some(Id::PCM_U8));
        assert_eq!(extensible(6, 24, 32, 24, IEEE_FLOAT), Some(Id::PCM_F32LE));
        assert_eq!(extensible(1, 8, 64, 64, IEEE_FLOAT), Some(Id::PCM_F64LE));
        assert_eq!(read(PCM, 1, 4, 24, b""), Some(Id::PCM_S32LE));
        // libav reads these rightly, or knows better: A-law, and headers that cannot be true.
        assert_eq!(read(PCM, 2, 4, 16, b""), None);
        assert_eq!(extensible(1, 1, 8, 8, 6), None);
        assert_eq!(extensible(0, 4, 32, 24, PCM), None);
        assert_eq!(extensible(3, 4, 32, 24, PCM), None);
        let whole = wav(EXTENSIBLE, 1, 4, 32, &extension(24, PCM));
        for end in 0..whole.len() {
            assert_eq!(sample_format(&whole[..end]), None, "{end}");
        }
        // Sizes of chunks that cannot be.
        let mut wrong = whole.clone();
        wrong[16..20].fill(0xff);
        assert_eq!(sample_format(&wrong), None);
        let head = [&b"riff\x2e\x91\xcf\x11"[..], &[0; 16], b"wave", &[0; 12]].concat();
        assert_eq!(sample_format(&[&head[..], &[0xff; 48]].concat()), None);
    }
}
