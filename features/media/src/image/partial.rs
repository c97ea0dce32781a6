//! Decodes a part of the JPEG files that shards hold (ITU-T T.81): baseline, 8 bits, YCbCr without subsampling, one
//! restart interval per row of blocks. The values are those of libjpeg-turbo, bit for bit.
//!
//! Of most frames a training crop shows half. libjpeg-turbo can skip the inverse transform of what is beside it, but has
//! to decode the Huffman codes of whole rows, which is most of the work; by restart intervals the rows above and below
//! and the blocks right of the part need no decoding at all. Two intervals are decoded in turns, because each code
//! begins where the one before it ends: one is looked up while the other waits.
//!
//! Invariant: `None` for every other kind of file and for all damage; libjpeg-turbo then reads the file, or says what is
//! wrong with it. What lies outside the part's rows of blocks, or right of it, is not checked.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

mod idct;

use super::check_size;
use idct::{Coefficients, NATURAL_ORDER, PLAIN};

/// Part of an image: whole blocks, as far as the image goes.
pub(super) struct Part {
    pub columns: Range<usize>,
    pub rows: Range<usize>,
}

impl Part {
    /// The blocks that hold these columns and rows.
    pub fn around(scan: &Scan, columns: Range<usize>, rows: Range<usize>) -> Part {
        let around = |range: Range<usize>, side: usize| {
            range.start / 8 * 8..range.end.next_multiple_of(8).min(side)
        };
        Part {
            columns: around(columns, scan.width),
            rows: around(rows, scan.height),
        }
    }

    /// Bytes of its pixels, packed RGB.
    pub fn len(&self) -> usize {
        self.columns.len() * self.rows.len() * 3
    }
}

/// A file whose headers were read, up to its only scan.
pub(super) struct Scan<'a> {
    pub width: usize,
    pub height: usize,
    /// Y, Cb, Cr.
    components: [Component; 3],
    /// From the first entropy-coded byte on.
    data: &'a [u8],
}

struct Component {
    /// Step sizes of the coefficients, stored as [`Coefficients`].
    quantization_table: Coefficients,
    dc: Rc<Huffman>,
    ac: Rc<Huffman>,
}

/// Width, height, and each component's identifier and quantisation table.
type Frame = (usize, usize, Vec<(u8, u8)>);

impl<'a> Scan<'a> {
    /// Reads the headers. `None` if the file is not one that this module decodes, or is too large.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(&[0xFF, 0xD8])?;
        let mut quantization: [Option<Coefficients>; 4] = [None; 4];
        // DC tables, then AC tables.
        let mut tables: [[Option<Rc<Huffman>>; 4]; 2] = Default::default();
        let mut frame: Option<Frame> = None;
        let (mut jfif, mut interval) = (false, 0);
        loop {
            let (head, tail) = rest.split_first_chunk::<4>()?;
            let [0xFF, marker, high, low] = *head else {
                return None;
            };
            let length = usize::from(u16::from_be_bytes([high, low])).checked_sub(2)?;
            let mut segment = tail.get(..length)?;
            rest = &tail[length..];
            match marker {
                // Quantisation tables of 8 bits.
                0xDB => {
                    while let Some((&id, values)) = segment.split_first() {
                        let (values, more) = values.split_first_chunk::<64>()?;
                        let mut table = [0; 64];
                        for (place, value) in NATURAL_ORDER.iter().zip(values) {
                            table[usize::from(*place)] = i16::from(*value);
                        }
                        *quantization.get_mut(usize::from(id))? = Some(table);
                        segment = more;
                    }
                }
                0xC4 => {
                    while let Some((&class, table)) = segment.split_first() {
                        let (table, more) = Huffman::cached(table)?;
                        let tables = tables.get_mut(usize::from(class >> 4))?;
                        *tables.get_mut(usize::from(class & 15))? = Some(table);
                        segment = more;
                    }
                }
                0xC0 => {
                    let (head, parts) = segment.split_first_chunk::<6>()?;
                    let [8, h0, h1, w0, w1, count] = *head else {
                        return None;
                    };
                    let parts = parts.as_chunks::<3>().0.iter().map(|part| match part {
                        [id, 0x11, table] => Some((*id, *table)),
                        _ => None,
                    });
                    let parts: Vec<_> = parts.collect::<Option<_>>()?;
                    // Without JFIF's segment the component identifiers alone tell that the three are YCbCr.
                    let ycc = jfif || parts.iter().map(|(id, _)| id).eq(&[1, 2, 3]);
                    if parts.len() != 3 || count != 3 || !ycc {
                        return None;
                    }
                    let size = |high, low| usize::from(u16::from_be_bytes([high, low]));
                    frame = Some((size(w0, w1), size(h0, h1), parts));
                }
                0xDA => {
                    let (width, height, parts) = frame?;
                    check_size(width, height).ok()?;
                    if interval != width.div_ceil(8) {
                        return None;
                    }
                    let (&count, choices) = segment.split_first()?;
                    let (choices, band) = choices.split_at_checked(2 * parts.len())?;
                    if usize::from(count) != parts.len() || band != [0, 63, 0] {
                        return None;
                    }
                    let components = parts.iter().zip(choices.as_chunks::<2>().0);
                    let components = components.map(|(&(id, step), &[same, choice])| {
                        let table =
                            |class: usize, id: u8| tables[class].get(usize::from(id))?.clone();
                        (same == id).then_some(Component {
                            quantization_table: (*quantization.get(usize::from(step))?)?,
                            dc: table(0, choice >> 4)?,
                            ac: table(1, choice & 15)?,
                        })
                    });
                    let components: Vec<_> = components.collect::<Option<_>>()?;
                    return Some(Scan {
                        width,
                        height,
                        components: components.try_into().ok()?,
                        data: rest,
                    });
                }
                0xDD => interval = usize::from(u16::from_be_bytes(*segment.first_chunk()?)),
                0xE0 => jfif |= segment.starts_with(b"JFIF\0"),
                // Comments and APPn, but not Adobe's APP14, which can declare another colour model.
                0xE1..=0xED | 0xEF | 0xFE => {}
                _ => return None,
            }
        }
    }

    /// Decodes a part to packed RGB of [`Part::len`] bytes.
    pub fn decode(&self, part: &Part, pixels: &mut [u8]) -> Option<()> {
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2,bmi2")]
            fn avx2(scan: &Scan, part: &Part, pixels: &mut [u8]) -> Option<()> {
                scan.blocks::<{ idct::AVX2 }>(part, pixels)
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2") {
                // SAFETY: the processor has AVX2 and BMI2.
                return unsafe { avx2(self, part, pixels) };
            }
        }
        self.blocks::<PLAIN>(part, pixels)
    }

    /// Inlined, as is all that it calls, so that it is compiled for the instructions that its caller may use.
    #[inline(always)]
    fn blocks<const LEVEL: u8>(&self, part: &Part, pixels: &mut [u8]) -> Option<()> {
        let (first, end) = (part.rows.start / 8, part.rows.end.div_ceil(8));
        let mut rows = pixels.chunks_mut(8 * 3 * part.columns.len());
        let intervals = self.restart_intervals(end)?;
        let whole = part.columns.end == self.width;
        for number in (first..end).step_by(2) {
            // One for each row of blocks of the part.
            match (rows.next()?, rows.next()) {
                (row, Some(next)) => {
                    let mut readers = [intervals.reader(number), intervals.reader(number + 1)];
                    self.row::<LEVEL, 2>(&intervals, &mut readers, part, [row, next])?;
                    intervals.check_consumed(number, &readers[0], whole)?;
                    intervals.check_consumed(number + 1, &readers[1], whole)?;
                }
                (row, None) => {
                    let mut readers = [intervals.reader(number)];
                    self.row::<LEVEL, 1>(&intervals, &mut readers, part, [row])?;
                    intervals.check_consumed(number, &readers[0], whole)?;
                }
            }
        }
        Some(())
    }

    /// Decodes the part's columns of one or two rows of blocks, in turns.
    #[inline(always)]
    fn row<const LEVEL: u8, const N: usize>(
        &self,
        intervals: &RestartIntervals,
        readers: &mut [Reader; N],
        part: &Part,
        mut rows: [&mut [u8]; N],
    ) -> Option<()> {
        self.skip(intervals, readers, part.columns.start / 8)?;
        let width = 3 * part.columns.len();
        for at in (0..width).step_by(24) {
            let mut blocks = [[[0; 64]; 3]; N];
            for (channel, component) in self.components.iter().enumerate() {
                component.blocks(&intervals.bytes, readers, channel, &mut blocks)?;
            }
            for (blocks, rows) in blocks.iter().zip(&mut rows) {
                let made = idct::pixels::<LEVEL>(blocks);
                for (row, made) in rows.chunks_mut(width).zip(&made) {
                    let row = &mut row[at..(at + 24).min(width)];
                    row.copy_from_slice(&made[..row.len()]);
                }
            }
        }
        Some(())
    }

    /// Skips `count` blocks of each component.
    #[inline(always)]
    fn skip<const N: usize>(
        &self,
        intervals: &RestartIntervals,
        readers: &mut [Reader; N],
        count: usize,
    ) -> Option<()> {
        for reader in readers {
            for _ in 0..count {
                for (channel, component) in self.components.iter().enumerate() {
                    component.skip(&intervals.bytes, reader, channel)?;
                }
            }
        }
        Some(())
    }

    /// The first `count` restart intervals.
    fn restart_intervals(&self, count: usize) -> Option<RestartIntervals> {
        let total = self.height.div_ceil(8);
        let mut bytes = Vec::with_capacity(self.data.len() + PADDING);
        let mut ends = Vec::with_capacity(count);
        let mut data = self.data;
        while ends.len() < count {
            if let Some((next, rest)) = data.split_first_chunk::<8>()
                && !has_ff(next)
            {
                bytes.extend_from_slice(next);
                data = rest;
                continue;
            }
            data = match data {
                // Byte stuffing: 0xFF in the data is written as FF 00 (T.81 B.1.1.5).
                [0xFF, 0, rest @ ..] => {
                    bytes.push(0xFF);
                    rest
                }
                [0xFF, marker, rest @ ..] => {
                    // RST markers count from 0 to 7 and from 0 again; after the last interval stands EOI.
                    let expected = match ends.len() + 1 == total {
                        true => 0xD9,
                        false => 0xD0 + (ends.len() % 8) as u8,
                    };
                    if *marker != expected {
                        return None;
                    }
                    ends.push(bytes.len());
                    rest
                }
                [byte, rest @ ..] if *byte != 0xFF => {
                    bytes.push(*byte);
                    rest
                }
                _ => return None,
            };
        }
        bytes.extend([0; PADDING]);
        Some(RestartIntervals { bytes, ends })
    }
}

/// Whether one of the bytes is 0xFF: then a byte of the complement is 0.
fn has_ff(bytes: &[u8; 8]) -> bool {
    let word = u64::from_ne_bytes(*bytes);
    (!word).wrapping_sub(0x0101_0101_0101_0101) & word & 0x8080_8080_8080_8080 != 0
}

/// The entropy-coded segments, byte stuffing and RST markers removed.
struct RestartIntervals {
    /// After the last one, [`PADDING`] zeros.
    bytes: Vec<u8>,
    /// Where each interval ends.
    ends: Vec<usize>,
}

impl RestartIntervals {
    /// `None` if more was read than the interval has, or, where `whole` rows were decoded, a byte or more is left.
    fn check_consumed(&self, number: usize, reader: &Reader, whole: bool) -> Option<()> {
        let left = reader.bits.left(self.ends[number]);
        (left >= 0 && (left < 8 || !whole)).then_some(())
    }

    /// A reader at the start of an interval.
    fn reader(&self, number: usize) -> Reader {
        Reader {
            bits: Bits {
                at: number.checked_sub(1).map_or(0, |before| self.ends[before]),
                window: 0,
                count: 0,
            },
            previous: [0; 3],
        }
    }
}

/// How far an interval has been decoded.
#[derive(Clone, Copy)]
struct Reader {
    bits: Bits,
    /// DC coefficient of each component's last block, not yet times its step size.
    previous: [i32; 3],
}

impl Component {
    /// Decodes the DC coefficient, which is stored as the difference to the previous block's (T.81 F.2.2.1).
    #[inline(always)]
    fn decode_dc(&self, bytes: &[u8], reader: &mut Reader, channel: usize) -> Option<i32> {
        reader.bits.refill(bytes)?;
        let size = self.dc.symbol(&mut reader.bits)?;
        let dc = &mut reader.previous[channel];
        *dc = dc.wrapping_add(reader.bits.number(size)?);
        Some(*dc)
    }

    /// Skips the next block.
    #[inline(always)]
    fn skip(&self, bytes: &[u8], reader: &mut Reader, channel: usize) -> Option<()> {
        self.decode_dc(bytes, reader, channel)?;
        let bits = &mut reader.bits;
        let mut at = 1;
        while at < 64 {
            bits.refill(bytes)?;
            let entry = self.ac.skip[bits.peek(SKIP_BITS) as usize];
            // What follows the last coefficient is the next block's.
            if entry.length > 0 && at + usize::from(entry.coefficients) < 64 {
                bits.skip(entry.length.into());
                if entry.ends {
                    return Some(());
                }
                at += usize::from(entry.coefficients);
                continue;
            }
            let symbol = self.ac.symbol(bits)?;
            let (zeros, size) = (usize::from(symbol >> 4), symbol & 15);
            if size == 0 {
                if zeros != 15 {
                    return Some(());
                }
                at += 16;
                continue;
            }
            bits.number(size)?;
            at += zeros + 1;
            if at > 64 {
                return None;
            }
        }
        Some(())
    }

    /// Decodes the next block of each reader into `blocks`, whose coefficients of this channel are 0 before.
    #[inline(always)]
    fn blocks<const N: usize>(
        &self,
        bytes: &[u8],
        readers: &mut [Reader; N],
        channel: usize,
        blocks: &mut [[Coefficients; 3]; N],
    ) -> Option<()> {
        for (reader, block) in readers.iter_mut().zip(&mut *blocks) {
            let dc = self.decode_dc(bytes, reader, channel)?;
            block[channel][0] = (dc as i16).wrapping_mul(self.quantization_table[0]);
        }
        // Copies, which can stay in registers.
        let mut bits: [Bits; N] = std::array::from_fn(|i| readers[i].bits);
        let mut at = [1; N];
        'together: loop {
            for i in 0..N {
                let block = &mut blocks[i][channel];
                if !self.coefficient(bytes, &mut bits[i], &mut at[i], block)? {
                    break 'together;
                }
            }
        }
        for i in 0..N {
            let block = &mut blocks[i][channel];
            while self.coefficient(bytes, &mut bits[i], &mut at[i], block)? {}
            readers[i].bits = bits[i];
        }
        Some(())
    }

    /// Decodes the next AC coefficient that is not 0, at or after zig-zag index `at`; false at the end of the block.
    #[inline(always)]
    fn coefficient(
        &self,
        bytes: &[u8],
        bits: &mut Bits,
        at: &mut usize,
        block: &mut Coefficients,
    ) -> Option<bool> {
        if *at > 63 {
            return Some(false);
        }
        bits.refill(bytes)?;
        let AcEntry {
            length,
            zeros,
            value,
        } = self.ac.decode[bits.peek(DECODE_BITS) as usize];
        if length == 0 {
            (*bits, *at) = self.long_coefficient(*bits, *at, block)?;
            return Some(true);
        }
        bits.skip(length.into());
        *at += usize::from(zeros);
        let Some(&place) = NATURAL_ORDER.get(*at) else {
            return (zeros == END_OF_BLOCK).then_some(false);
        };
        let place = usize::from(place);
        block[place] = value.wrapping_mul(self.quantization_table[place]);
        *at += 1;
        Some(true)
    }

    /// Decodes a coefficient whose code and value are longer than the table's index, or a run of 16 zeros. Returns the
    /// reader and the zig-zag index that follow.
    #[inline(never)]
    fn long_coefficient(
        &self,
        mut bits: Bits,
        mut at: usize,
        block: &mut Coefficients,
    ) -> Option<(Bits, usize)> {
        let symbol = self.ac.symbol(&mut bits)?;
        let (zeros, size) = (usize::from(symbol >> 4), symbol & 15);
        if size == 0 {
            at += if zeros == 15 { 16 } else { END_OF_BLOCK.into() };
            return Some((bits, at));
        }
        at += zeros;
        let place = usize::from(*NATURAL_ORDER.get(at)?);
        // At most 15 bits and a sign.
        block[place] = (bits.number(size)? as i16).wrapping_mul(self.quantization_table[place]);
        Some((bits, at + 1))
    }
}

/// Index width of the tables that decode codes. Longer codes are searched for.
const DECODE_BITS: u32 = 11;

/// Number of zeros that stands for the end of a block (EOB).
const END_OF_BLOCK: u8 = 64;

/// What a window of [`DECODE_BITS`] begins with: an AC coefficient with the zeros before it, or [`END_OF_BLOCK`]. Length
/// 0 where code and value do not fit.
#[derive(Clone, Copy, Default)]
struct AcEntry {
    value: i16,
    zeros: u8,
    length: u8,
}

/// Index width of the table that skips coefficients.
const SKIP_BITS: u32 = 12;

/// All whole AC coefficients in a window of [`SKIP_BITS`], up to the end of the block. Length 0 where there is none.
#[derive(Clone, Copy, Default)]
struct SkipEntry {
    length: u8,
    coefficients: u8,
    ends: bool,
}

/// Decoding tables that a thread keeps: those that `ingest` writes, and a few more.
const CACHED_TABLES: usize = 16;

thread_local! {
    /// Decoding tables by their bytes in the DHT segment; building one costs as much as decoding a small image.
    static TABLE_CACHE: RefCell<Vec<(Vec<u8>, Rc<Huffman>)>> = RefCell::default();
}

/// A Huffman table, laid out for decoding.
struct Huffman {
    /// Per window of [`DECODE_BITS`], length and symbol of the code that it begins with; length 0 where that is longer.
    symbols_by_window: Vec<(u8, u8)>,
    /// Per window of [`DECODE_BITS`], as an AC coefficient.
    decode: Vec<AcEntry>,
    /// Per window of [`SKIP_BITS`], as AC coefficients.
    skip: Vec<SkipEntry>,
    /// Per length, the first code beyond those of this length, in the upper bits of 16 (MAXCODE + 1 of T.81 F.2.2.3).
    limits: [u32; 17],
    /// Per length, the index of a code's symbol less the code (VALPTR - MINCODE of T.81 F.2.2.3).
    offsets: [i32; 17],
    symbols: Vec<u8>,
}

impl Huffman {
    /// The table at the start of a DHT segment's rest, and what follows it.
    fn cached(bytes: &[u8]) -> Option<(Rc<Self>, &[u8])> {
        let counts = bytes.first_chunk::<16>()?;
        let total: usize = counts.iter().map(|count| usize::from(*count)).sum();
        let (own, rest) = bytes.split_at_checked(16 + total)?;
        let table = TABLE_CACHE.with_borrow_mut(|cache| {
            if let Some((_, table)) = cache.iter().find(|(bytes, _)| bytes == own) {
                return Some(table.clone());
            }
            let table = Rc::new(Huffman::parse(counts, &own[16..])?);
            if cache.len() == CACHED_TABLES {
                cache.clear();
            }
            cache.push((own.to_vec(), table.clone()));
            Some(table)
        })?;
        Some((table, rest))
    }

    /// Builds a table from the number of codes of each length and their symbols (T.81 C.2).
    fn parse(counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let mut table = Huffman {
            symbols_by_window: vec![(0, 0); 1 << DECODE_BITS],
            decode: vec![AcEntry::default(); 1 << DECODE_BITS],
            skip: vec![SkipEntry::default(); 1 << SKIP_BITS],
            limits: [0; 17],
            offsets: [0; 17],
            symbols: symbols.to_vec(),
        };
        let (mut code, mut number) = (0u32, 0usize);
        for (length, count) in (1u32..).zip(counts) {
            table.offsets[length as usize] = number as i32 - code as i32;
            for _ in 0..*count {
                if length <= DECODE_BITS {
                    let spread = 1 << (DECODE_BITS - length);
                    let first = code as usize * spread;
                    let entry = (length as u8, symbols[number]);
                    table
                        .symbols_by_window
                        .get_mut(first..first + spread)?
                        .fill(entry);
                }
                code += 1;
                number += 1;
            }
            if code > 1 << length {
                return None;
            }
            table.limits[length as usize] = code << (16 - length);
            code <<= 1;
        }
        let windows = table.decode.iter_mut().zip(&table.symbols_by_window);
        for (window, (entry, &(length, symbol))) in windows.enumerate() {
            let size = symbol & 15;
            if length > 0 && size == 0 && symbol != 0xF0 {
                *entry = AcEntry {
                    value: 0,
                    zeros: END_OF_BLOCK,
                    length,
                };
            }
            if length > 0 && size > 0 && u32::from(length + size) <= DECODE_BITS {
                let raw =
                    window as u32 >> (DECODE_BITS - u32::from(length + size)) & ((1 << size) - 1);
                *entry = AcEntry {
                    // At most DECODE_BITS bits.
                    value: signed(raw as i32, size.into()) as i16,
                    zeros: symbol >> 4,
                    length: length + size,
                };
            }
        }
        for (window, entry) in table.skip.iter_mut().enumerate() {
            while !entry.ends {
                let rest = (window << entry.length) & ((1 << SKIP_BITS) - 1);
                let (length, symbol) = table.symbols_by_window[rest >> (SKIP_BITS - DECODE_BITS)];
                let (zeros, size) = (symbol >> 4, symbol & 15);
                if length == 0 || u32::from(entry.length + length + size) > SKIP_BITS {
                    break;
                }
                entry.length += length + size;
                // Without a value, 15 zeros are a run of 16 (ZRL) and all others the end of the block.
                entry.ends = size == 0 && zeros != 15;
                entry.coefficients += if entry.ends { 0 } else { zeros + 1 };
            }
        }
        Some(table)
    }

    /// The next symbol. Takes at most 16 bits, of 31 that are there with its number.
    #[inline(always)]
    fn symbol(&self, bits: &mut Bits) -> Option<u8> {
        let (length, symbol) = self.symbols_by_window[bits.peek(DECODE_BITS) as usize];
        if length > 0 {
            bits.skip(length.into());
            return Some(symbol);
        }
        let next = bits.peek(16);
        let length = (DECODE_BITS + 1..=16).find(|length| next < self.limits[*length as usize])?;
        bits.skip(length);
        let code = (next >> (16 - length)) as i32;
        let number = code + self.offsets[length as usize];
        self.symbols.get(usize::try_from(number).ok()?).copied()
    }
}

/// Entropy-coded bits, most significant first.
#[derive(Clone, Copy)]
struct Bits {
    /// The first byte that is not in the window.
    at: usize,
    /// The next bits, at the upper end.
    window: u64,
    /// How many of them are counted as in the window; below are more of the same.
    count: u32,
}

/// Zero bytes after the data, so that the bit reader can always load 8.
const PADDING: usize = 16;

impl Bits {
    /// Fills the window to at least 56 bits: a code and its value. `None` far behind the end.
    #[inline(always)]
    fn refill(&mut self, bytes: &[u8]) -> Option<()> {
        let next = u64::from_be_bytes(*bytes.get(self.at..)?.first_chunk()?);
        self.window |= next >> self.count;
        self.at += (63 - self.count as usize) / 8;
        self.count |= 56;
        Some(())
    }

    /// How many bits are left up to a byte; below 0 once more were taken than there are.
    fn left(&self, end: usize) -> isize {
        8 * (end as isize - self.at as isize) + self.count as isize
    }

    #[inline(always)]
    fn peek(&self, count: u32) -> u32 {
        (self.window >> (64 - count)) as u32
    }

    #[inline(always)]
    fn skip(&mut self, count: u32) {
        self.window <<= count;
        self.count -= count;
    }

    /// A value of `size` bits, at most 15; a leading 0 means that it is negative (EXTEND of T.81 F.2.2.1).
    #[inline(always)]
    fn number(&mut self, size: u8) -> Option<i32> {
        let size = u32::from(size);
        if size == 0 {
            return Some(0);
        }
        if size > 15 {
            return None;
        }
        let value = self.peek(size) as i32;
        self.skip(size);
        Some(signed(value, size))
    }
}

/// EXTEND of T.81 F.2.2.1: `size` bits as a signed value.
#[inline(always)]
fn signed(value: i32, size: u32) -> i32 {
    if value < 1 << (size - 1) {
        value - (1 << size) + 1
    } else {
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{PixelFormat, jpeg};

    fn encode(pixels: &[u8], width: usize, height: usize, quality: u8) -> Vec<u8> {
        jpeg::encode(pixels, width, height, PixelFormat::Rgb, quality).unwrap()
    }

    fn waves(width: usize, height: usize) -> Vec<u8> {
        let value = |i: usize| 128.0 + 100.0 * (i as f32 * 0.37).sin() * (i as f32 * 0.011).cos();
        (0..width * height * 3).map(|i| value(i) as u8).collect()
    }

    /// The whole image.
    fn decode(file: &[u8]) -> Option<Vec<u8>> {
        let scan = Scan::parse(file)?;
        let whole = Part::around(&scan, 0..scan.width, 0..scan.height);
        let mut pixels = vec![0; whole.len()];
        scan.decode(&whole, &mut pixels)?;
        Some(pixels)
    }

    #[test]
    fn equals_libjpeg_turbo() {
        let mut rng = util::rng::Rng::new(2, &[]);
        for (width, height) in [(64, 48), (61, 50), (3, 1)] {
            let noise = (0..width * height * 3).map(|_| rng.below(256) as u8);
            for pixels in [waves(width, height), noise.collect()] {
                for quality in [20, 75, 95, 100] {
                    let file = encode(&pixels, width, height, quality);
                    let theirs = jpeg::decode(&file).unwrap();
                    assert!(
                        decode(&file).unwrap() == theirs.pixels,
                        "{width} x {height}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_part_is_the_part_of_the_whole() {
        let (width, height) = (61, 50);
        let file = encode(&waves(width, height), width, height, 95);
        let whole = decode(&file).unwrap();
        let scan = Scan::parse(&file).unwrap();
        for (columns, rows) in [
            (0..61, 0..50),
            (9..30, 17..18),
            (59..61, 0..50),
            (0..8, 48..50),
        ] {
            let part = Part::around(&scan, columns.clone(), rows.clone());
            assert!(part.columns.start <= columns.start && columns.end <= part.columns.end);
            assert!(part.rows.start <= rows.start && rows.end <= part.rows.end);
            let mut pixels = vec![0; part.len()];
            scan.decode(&part, &mut pixels).unwrap();
            for (y, row) in part
                .rows
                .clone()
                .zip(pixels.chunks_exact(part.columns.len() * 3))
            {
                let start = (y * width + part.columns.start) * 3;
                assert_eq!(row, &whole[start..start + row.len()]);
            }
        }
        // Cut off in the part it is damaged, behind it nothing is read.
        let middle = Part::around(&scan, 0..61, 0..24);
        let run = |length: usize| {
            let scan = Scan::parse(&file[..length]).unwrap();
            scan.decode(&middle, &mut vec![0; middle.len()])
        };
        assert!(run(file.len() - 100).is_some());
        assert!(run(file.len() - scan.data.len() * 3 / 4).is_none());
    }

    /// Their last coefficient is not 0, so no code says that they end.
    #[test]
    fn full_blocks_are_skipped() {
        let (width, height) = (64, 32);
        let mut rng = util::rng::Rng::new(1, &[]);
        let noise: Vec<u8> = (0..width * height * 3)
            .map(|_| rng.below(256) as u8)
            .collect();
        // From long codes to some that share a look with what follows them.
        for quality in [70, 80, 90, 95, 100] {
            let file = encode(&noise, width, height, quality);
            let whole = decode(&file).unwrap();
            let scan = Scan::parse(&file).unwrap();
            let part = Part::around(&scan, 56..64, 24..32);
            let mut pixels = vec![0; part.len()];
            scan.decode(&part, &mut pixels).unwrap();
            for (row, made) in pixels.chunks_exact(8 * 3).enumerate() {
                let end = (24 + row + 1) * width * 3;
                assert_eq!(made, &whole[end - 8 * 3..end], "{quality}");
            }
        }
    }

    #[test]
    fn damaged_and_truncated_files_are_refused() {
        let file = encode(&waves(40, 30), 40, 30, 95);
        for cut in 0..file.len() {
            assert!(decode(&file[..cut]).is_none(), "{cut}");
        }
        let mut read = 0;
        for at in 0..file.len() {
            for bit in [0x01, 0x80] {
                let mut file = file.clone();
                file[at] ^= bit;
                read += usize::from(decode(&file).is_some());
            }
        }
        // Nothing panics; some flips change a number and no more.
        assert!(read > 0);
    }

    /// A lost row would move all that follow it.
    #[test]
    fn rows_are_counted() {
        let (width, height) = (40, 77);
        let file = encode(&waves(width, height), width, height, 95);
        let marks: Vec<usize> = (0..file.len() - 1)
            .filter(|at| file[*at] == 0xFF && (0xD0..0xD8).contains(&file[at + 1]))
            .collect();
        assert_eq!(marks.len(), height.div_ceil(8) - 1);
        let mut lost = file.clone();
        lost.drain(marks[2]..marks[3]);
        assert!(decode(&lost).is_none());
        for (row, at) in marks.into_iter().enumerate() {
            let mut other = file.clone();
            other[at + 1] ^= 1;
            assert!(decode(&other).is_none());
            // A part is read up to its last row's mark.
            let scan = Scan::parse(&other).unwrap();
            for (rows, reads) in [(0..8 * row + 8, false), (0..8 * row, true)] {
                let part = Part::around(&scan, 8..16, rows);
                let made = scan.decode(&part, &mut vec![0; part.len()]);
                assert_eq!(made.is_some(), reads, "row {row}");
            }
        }
    }
}
