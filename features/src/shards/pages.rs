//! Reads spectrograms and images straight from the data pages of a Parquet file.
//!
//! Arrow builds a list of lists value by value and copies every image, which takes several times as
//! long. The pages read here are those that [`crate::schema::writer_properties`] asks for: one row
//! per page, no dictionary, one encoding per column. Everything else is left to Arrow.

use super::Content;
use super::shard::Shard;
use crate::schema::content_column;
use arrow_buffer::Buffer;
use bytes::{Buf, Bytes};
use datasets::{InputName, Modality};
use media::mel::{MEL_BINS, Mel};
use parquet::basic::{Encoding, Type};
use parquet::column::page::{Page, PageReader};
use parquet::errors::ParquetError;
use parquet::file::serialized_reader::SerializedPageReader;
use std::sync::Arc;
use store::StoredFile;

/// Reads an input's contents in the given rows of a row group, ascending. Returns `None` if its
/// pages are of another kind than described above, or hold text.
///
/// # Errors
/// A page cannot be read.
pub(super) fn read(
    shard: &Shard,
    file: StoredFile,
    group: usize,
    input: InputName,
    rows: &[(u32, usize)],
) -> Result<Option<Vec<Content>>, ParquetError> {
    let metadata = shard.metadata.metadata();
    let columns = metadata.file_metadata().schema_descr();
    let name = content_column(input);
    let (kind, expected) = match input.modality {
        Modality::Audio => (Type::FLOAT, Encoding::BYTE_STREAM_SPLIT),
        Modality::Video | Modality::Image => (Type::BYTE_ARRAY, Encoding::PLAIN),
        Modality::Text => return Ok(None),
    };
    // The first leaf: of an image that is its bytes, before its path.
    let leaf = (0..columns.num_columns())
        .find(|i| columns.column(*i).path().parts()[0] == name)
        .filter(|i| columns.column(*i).physical_type() == kind);
    let count = (shard.starts[group + 1] - shard.starts[group]) as usize;
    let locations = leaf.and_then(|leaf| {
        let index = metadata.page_index_for_row_group(group);
        Some((leaf, index.page_locations(leaf)?.clone()))
    });
    let Some((leaf, locations)) = locations.filter(|(_, locations)| locations.len() == count)
    else {
        return Ok(None);
    };
    let (column, chunk) = (columns.column(leaf), metadata.row_group(group).column(leaf));
    if locations[0].offset as u64 != chunk.byte_range().0 {
        return Ok(None);
    }
    let levels = [column.max_rep_level(), column.max_def_level()];
    let mut pages = SerializedPageReader::new(Arc::new(file), chunk, count, Some(locations))?;
    let (mut contents, mut at) = (Vec::with_capacity(rows.len()), 0);
    for (row, _) in rows {
        for _ in at..*row {
            pages.skip_next_page()?;
        }
        at = *row + 1;
        let Some(Page::DataPage {
            buf,
            num_values,
            encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            ..
        }) = pages.get_next_page()?
        else {
            return Ok(None);
        };
        let content = without_levels(buf, levels).filter(|_| encoding == expected);
        let content = content.and_then(|bytes| match input.modality {
            Modality::Audio => mel(&bytes, num_values as usize),
            _ => images(&bytes, num_values as usize),
        });
        let Some(content) = content else {
            return Ok(None);
        };
        contents.push(content);
    }
    Ok(Some(contents))
}

/// Returns the values of a page, which follow its repetition and definition levels. Each kind of
/// level that the column has is preceded by its length in 4 bytes (Parquet's encoding RLE).
fn without_levels(mut page: Bytes, levels: [i16; 2]) -> Option<Bytes> {
    for _ in levels.into_iter().filter(|highest| *highest > 0) {
        let length = u32::from_le_bytes(*page.first_chunk()?) as usize;
        if page.len() - 4 < length {
            return None;
        }
        page.advance(4 + length);
    }
    Some(page)
}

/// Decodes `count` f32 values in the encoding BYTE_STREAM_SPLIT: the first bytes of all values,
/// then the second ones, and so on. Returns `None` if there are more or fewer bytes.
fn mel(bytes: &[u8], count: usize) -> Option<Content> {
    if bytes.len() != 4 * count || !count.is_multiple_of(MEL_BINS) {
        return None;
    }
    let (lower, upper) = bytes.split_at(2 * count);
    let ((a, b), (c, d)) = (lower.split_at(count), upper.split_at(count));
    let numbers = a.iter().zip(b).zip(c.iter().zip(d));
    let numbers = numbers.map(|((a, b), (c, d))| f32::from_le_bytes([*a, *b, *c, *d]));
    Some(Content::Mel(Mel {
        bins: MEL_BINS,
        values: numbers.collect(),
    }))
}

/// Decodes `count` images in the encoding PLAIN of byte arrays: each after its length. Returns
/// `None` if there are more or fewer bytes.
fn images(bytes: &Bytes, count: usize) -> Option<Content> {
    let (mut images, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let length = u32::from_le_bytes(*bytes[at..].first_chunk()?) as usize;
        let end = (at + 4).checked_add(length)?;
        if end > bytes.len() {
            return None;
        }
        images.push(Buffer::from(bytes.slice(at + 4..end)));
        at = end;
    }
    (images.len() == count).then_some(Content::Images(images))
}
