//! The chunks of a PNG file (PNG, third edition, 5.3), and files that lack their end.

/// The first bytes of every PNG file.
pub(super) const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// A chunk.
pub(super) struct Chunk<'a> {
    pub kind: [u8; 4],
    pub data: &'a [u8],
}

/// Iterates over the chunks up to the end of the image or the file. The last one may be cut short.
pub(super) fn chunks(file: &[u8]) -> impl Iterator<Item = Chunk<'_>> {
    let mut rest = file.strip_prefix(SIGNATURE).unwrap_or_default();
    std::iter::from_fn(move || {
        let (head, after) = rest.split_first_chunk::<8>()?;
        let [l0, l1, l2, l3, kind @ ..] = *head;
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        let (data, after) = after.split_at_checked(length).unwrap_or((after, &[]));
        // A checksum follows.
        rest = match &kind {
            b"IEND" => &[],
            _ => after.get(4..).unwrap_or_default(),
        };
        Some(Chunk { kind, data })
    })
}

/// Returns a PNG file that lacks its end, such as the chunk that says that it has ended, with an
/// end: its image data as far as they are there, and nothing after them. Pillow reads such a file
/// if no pixel is missing, and a decoder of the result finds out whether one is.
pub(super) fn with_end(file: &[u8]) -> Option<Vec<u8>> {
    if !file.starts_with(SIGNATURE) || chunks(file).any(|chunk| &chunk.kind == b"IEND") {
        return None;
    }
    let mut mended = SIGNATURE.to_vec();
    for chunk in chunks(file) {
        // The other chunks change no colour, and the last may be cut.
        if matches!(&chunk.kind, b"IHDR" | b"PLTE" | b"IDAT") {
            append(&mut mended, chunk.kind, chunk.data);
        }
    }
    append(&mut mended, *b"IEND", &[]);
    Some(mended)
}

fn append(file: &mut Vec<u8>, kind: [u8; 4], data: &[u8]) {
    file.extend((data.len() as u32).to_be_bytes());
    let start = file.len();
    file.extend(kind);
    file.extend(data);
    let mut sum = flate2::Crc::new();
    sum.update(&file[start..]);
    file.extend(sum.sum().to_be_bytes());
}
