//! The JPEGs that shards hold, decoded bit for bit as libjpeg does (and with it Pillow and torchvision): baseline, 8
//! bits, gray or YCbCr at full resolution, restart markers after every row of blocks or none (as shards once had).
//!
//! Invariant: `None` for every other kind of file and for all damage; the general decoder then reads it, or says what is
//! wrong. Of a part of a picture, what follows the part's last row is not read, nor with markers what is beside it on
//! the right.
//!
//! Where a code begins is known only after the one before it, and that is most of the time it takes. With markers two
//! rows are read in turns, so that one's code is looked up while the other waits.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

#[cfg(test)]
use super::Rgb;
use super::block::PLAIN;
use super::check_size;
use super::inverse::{self, Coefficients, PLACES};

/// Decodes, where it can.
#[cfg(test)]
pub(super) fn decode(bytes: &[u8]) -> Option<Rgb> {
    let scan = Scan::parse(bytes)?;
    let whole = Part::around(&scan, 0..scan.width, 0..scan.height);
    let mut pixels = vec![0; scan.width * scan.height * 3];
    scan.run(&whole, &mut pixels)?;
    Some(Rgb {
        width: scan.width,
        height: scan.height,
        pixels,
    })
}

/// Part of a picture: whole blocks, as far as the picture goes.
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

    /// Bytes of its pixels.
    pub fn len(&self) -> usize {
        self.columns.len() * self.rows.len() * 3
    }
}

/// What the header says.
pub(super) struct Scan<'a> {
    pub width: usize,
    pub height: usize,
    components: Vec<Component>,
    /// Whether every row of blocks has a beginning of its own.
    restarts: bool,
    /// From the first entropy-coded byte on.
    data: &'a [u8],
}

struct Component {
    /// Steps of the coefficients.
    steps: Coefficients,
    dc: Rc<Huffman>,
    ac: Rc<Huffman>,
}

/// Width, height, and each component's identifier and quantisation table.
type Frame = (usize, usize, Vec<(u8, u8)>);

impl<'a> Scan<'a> {
    /// Of a picture that is not too large.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(&[0xFF, 0xD8])?;
        let mut steps: [Option<Coefficients>; 4] = [None; 4];
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
                        for (place, value) in PLACES.iter().zip(values) {
                            table[usize::from(*place)] = i16::from(*value);
                        }
                        *steps.get_mut(usize::from(id))? = Some(table);
                        segment = more;
                    }
                }
                0xC4 => {
                    while let Some((&class, table)) = segment.split_first() {
                        let (table, more) = Huffman::known(table)?;
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
                    // Without JFIF's marker the numbers alone tell that three colours are YCbCr.
                    let ycc = jfif || parts.iter().map(|(id, _)| id).eq(&[1, 2, 3]);
                    if parts.len() != usize::from(count) || !(count == 1 || count == 3 && ycc) {
                        return None;
                    }
                    let size = |high, low| usize::from(u16::from_be_bytes([high, low]));
                    frame = Some((size(w0, w1), size(h0, h1), parts));
                }
                0xDA => {
                    let (width, height, parts) = frame?;
                    check_size(width, height).ok()?;
                    if interval != 0 && interval != width.div_ceil(8) {
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
                            steps: (*steps.get(usize::from(step))?)?,
                            dc: table(0, choice >> 4)?,
                            ac: table(1, choice & 15)?,
                        })
                    });
                    return Some(Scan {
                        width,
                        height,
                        components: components.collect::<Option<_>>()?,
                        restarts: interval != 0,
                        data: rest,
                    });
                }
                0xDD => interval = usize::from(u16::from_be_bytes(*segment.first_chunk()?)),
                0xE0 => jfif |= segment.starts_with(b"JFIF\0"),
                // Other applications' segments, but Adobe's, which may say that the colours are others; comments.
                0xE1..=0xED | 0xEF | 0xFE => {}
                _ => return None,
            }
        }
    }

    /// Fills the pixels of a part.
    pub fn run(&self, part: &Part, pixels: &mut [u8]) -> Option<()> {
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2,bmi2")]
            fn avx2(scan: &Scan, part: &Part, pixels: &mut [u8]) -> Option<()> {
                scan.blocks::<{ super::block::AVX2 }>(part, pixels)
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
        let width = 3 * part.columns.len();
        let mut rows = pixels.chunks_mut(8 * width);
        if !self.restarts {
            let runs = self.runs(1)?;
            let mut readers = [runs.reader(0)];
            let across = self.width.div_ceil(8);
            self.skip(&runs, &mut readers, first * across)?;
            for row in rows {
                self.row::<LEVEL, 1>(&runs, &mut readers, part, [row])?;
                self.skip(&runs, &mut readers, across - part.columns.end.div_ceil(8))?;
            }
            return runs.sound(0, &readers[0], part.rows.end == self.height);
        }
        let runs = self.runs(end)?;
        let whole = part.columns.end == self.width;
        for number in (first..end).step_by(2) {
            // One for each row of blocks of the part.
            match (rows.next()?, rows.next()) {
                (row, Some(next)) => {
                    let mut readers = [runs.reader(number), runs.reader(number + 1)];
                    self.row::<LEVEL, 2>(&runs, &mut readers, part, [row, next])?;
                    runs.sound(number, &readers[0], whole)?;
                    runs.sound(number + 1, &readers[1], whole)?;
                }
                (row, None) => {
                    let mut readers = [runs.reader(number)];
                    self.row::<LEVEL, 1>(&runs, &mut readers, part, [row])?;
                    runs.sound(number, &readers[0], whole)?;
                }
            }
        }
        Some(())
    }

    /// The part's columns of rows of blocks, read in turns.
    #[inline(always)]
    fn row<const LEVEL: u8, const N: usize>(
        &self,
        runs: &Runs,
        readers: &mut [Reader; N],
        part: &Part,
        mut rows: [&mut [u8]; N],
    ) -> Option<()> {
        self.skip(runs, readers, part.columns.start / 8)?;
        let width = 3 * part.columns.len();
        for at in (0..width).step_by(24) {
            // Of gray, the colours' coefficients stay 0.
            let mut blocks = [[[0; 64]; 3]; N];
            for (channel, component) in self.components.iter().enumerate() {
                component.blocks(&runs.bytes, readers, channel, &mut blocks)?;
            }
            for (blocks, rows) in blocks.iter().zip(&mut rows) {
                let made = inverse::pixels::<LEVEL>(blocks);
                for (row, made) in rows.chunks_mut(width).zip(&made) {
                    let row = &mut row[at..(at + 24).min(width)];
                    row.copy_from_slice(&made[..row.len()]);
                }
            }
        }
        Some(())
    }

    /// Steps over so many blocks of each component.
    #[inline(always)]
    fn skip<const N: usize>(
        &self,
        runs: &Runs,
        readers: &mut [Reader; N],
        count: usize,
    ) -> Option<()> {
        for reader in readers {
            for _ in 0..count {
                for (channel, component) in self.components.iter().enumerate() {
                    component.skip(&runs.bytes, reader, channel)?;
                }
            }
        }
        Some(())
    }

    /// The first so many runs of entropy-coded bytes that begin anew: rows of blocks, or the only one.
    fn runs(&self, count: usize) -> Option<Runs> {
        let total = match self.restarts {
            true => self.height.div_ceil(8),
            false => 1,
        };
        let mut bytes = Vec::with_capacity(self.data.len() + AHEAD);
        let mut ends = Vec::with_capacity(count);
        let mut data = self.data;
        while ends.len() < count {
            if let Some((next, rest)) = data.split_first_chunk::<8>()
                && !has_ones(next)
            {
                bytes.extend_from_slice(next);
                data = rest;
                continue;
            }
            data = match data {
                // A byte of ones is followed by one of zeros.
                [0xFF, 0, rest @ ..] => {
                    bytes.push(0xFF);
                    rest
                }
                [0xFF, marker, rest @ ..] => {
                    // Markers count from 0 to 7 and from 0 again.
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
        bytes.extend([0; AHEAD]);
        Some(Runs { bytes, ends })
    }
}

fn has_ones(bytes: &[u8; 8]) -> bool {
    let word = u64::from_ne_bytes(*bytes);
    (!word).wrapping_sub(0x0101_0101_0101_0101) & word & 0x8080_8080_8080_8080 != 0
}

/// Entropy-coded bytes without what makes them fit for a file.
struct Runs {
    /// Behind the last one, [`AHEAD`] zeros.
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Runs {
    /// Whether no more was read than a run has; of a whole one, whether less than a byte is left.
    fn sound(&self, number: usize, reader: &Reader, whole: bool) -> Option<()> {
        let left = reader.bits.left(self.ends[number]);
        (left >= 0 && (left < 8 || !whole)).then_some(())
    }

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

/// How far reading has come in a run: the bits, and per component the mean of the last block.
#[derive(Clone, Copy)]
struct Reader {
    bits: Bits,
    previous: [i32; 3],
}

impl Component {
    /// The first coefficient: its difference from the block before.
    #[inline(always)]
    fn mean(&self, bytes: &[u8], reader: &mut Reader, channel: usize) -> Option<i32> {
        reader.bits.refill(bytes)?;
        let size = self.dc.symbol(&mut reader.bits)?;
        let mean = &mut reader.previous[channel];
        *mean = mean.wrapping_add(reader.bits.number(size)?);
        Some(*mean)
    }

    /// Steps over the next block.
    #[inline(always)]
    fn skip(&self, bytes: &[u8], reader: &mut Reader, channel: usize) -> Option<()> {
        self.mean(bytes, reader, channel)?;
        let bits = &mut reader.bits;
        let mut at = 1;
        while at < 64 {
            bits.refill(bytes)?;
            let run = self.ac.runs[bits.peek(RUN) as usize];
            // What follows the last coefficient is the next block's.
            if run.length > 0 && at + usize::from(run.coefficients) < 64 {
                bits.skip(run.length.into());
                if run.ends {
                    return Some(());
                }
                at += usize::from(run.coefficients);
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

    /// The next block of each reader: its coefficients of this channel that are not 0.
    #[inline(always)]
    fn blocks<const N: usize>(
        &self,
        bytes: &[u8],
        readers: &mut [Reader; N],
        channel: usize,
        blocks: &mut [[Coefficients; 3]; N],
    ) -> Option<()> {
        for (reader, block) in readers.iter_mut().zip(&mut *blocks) {
            let mean = self.mean(bytes, reader, channel)?;
            block[channel][0] = (mean as i16).wrapping_mul(self.steps[0]);
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

    /// The next coefficient that is not 0, whose number is `at` at least; false where there is none.
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
        let Whole {
            length,
            zeros,
            value,
        } = self.ac.whole[bits.peek(LOOKUP) as usize];
        if length == 0 {
            (*bits, *at) = self.long_coefficient(*bits, *at, block)?;
            return Some(true);
        }
        bits.skip(length.into());
        *at += usize::from(zeros);
        let Some(&place) = PLACES.get(*at) else {
            return (zeros == END).then_some(false);
        };
        let place = usize::from(place);
        block[place] = value.wrapping_mul(self.steps[place]);
        *at += 1;
        Some(true)
    }

    /// One of more bits than are looked up, or zeros; then the bits are and the number is what is next.
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
            at += if zeros == 15 { 16 } else { END.into() };
            return Some((bits, at));
        }
        at += zeros;
        let place = usize::from(*PLACES.get(at)?);
        // At most 15 bits and a sign.
        block[place] = (bits.number(size)? as i16).wrapping_mul(self.steps[place]);
        Some((bits, at + 1))
    }
}

/// Codes of up to this many bits are looked up, longer ones searched.
const LOOKUP: u32 = 11;

/// So many zeros end a block.
const END: u8 = 64;

/// A coefficient that is not 0, with the zeros before it, or [`END`]; as read from so many bits, 0 where they do not tell.
#[derive(Clone, Copy, Default)]
struct Whole {
    value: i16,
    zeros: u8,
    length: u8,
}

/// So many bits are looked up where coefficients are stepped over.
const RUN: u32 = 12;

/// All whole codes, with their numbers, that so many bits hold, up to a block's end; none where `length` is 0.
#[derive(Clone, Copy, Default)]
struct Run {
    length: u8,
    coefficients: u8,
    ends: bool,
}

/// Tables that are kept for the next picture: those that our own pictures have, and a few more.
const KEPT: usize = 16;

thread_local! {
    /// The tables of the last pictures, by how they stand in the file.
    static KNOWN: RefCell<Vec<(Vec<u8>, Rc<Huffman>)>> = RefCell::default();
}

struct Huffman {
    /// For the next [`LOOKUP`] bits, length and symbol of the code they begin with; length 0 where it is longer.
    short: Vec<(u8, u8)>,
    /// For the same bits, the code of a coefficient and its number, where both fit and it is not 0.
    whole: Vec<Whole>,
    /// For the next [`RUN`] bits, as AC codes.
    runs: Vec<Run>,
    /// Per length, the first code beyond those of this length, in the upper bits of 16.
    limits: [u32; 17],
    /// Per length, the number of a code's symbol less the code.
    offsets: [i32; 17],
    symbols: Vec<u8>,
}

impl Huffman {
    /// The table at the start of a segment, and what follows it.
    fn known(bytes: &[u8]) -> Option<(Rc<Self>, &[u8])> {
        let counts = bytes.first_chunk::<16>()?;
        let total: usize = counts.iter().map(|count| usize::from(*count)).sum();
        let (own, rest) = bytes.split_at_checked(16 + total)?;
        let table = KNOWN.with_borrow_mut(|known| {
            if let Some((_, table)) = known.iter().find(|(bytes, _)| bytes == own) {
                return Some(table.clone());
            }
            let table = Rc::new(Huffman::parse(counts, &own[16..])?);
            if known.len() == KEPT {
                known.clear();
            }
            known.push((own.to_vec(), table.clone()));
            Some(table)
        })?;
        Some((table, rest))
    }

    /// Of the numbers of codes of each length, and their symbols.
    fn parse(counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let mut table = Huffman {
            short: vec![(0, 0); 1 << LOOKUP],
            whole: vec![Whole::default(); 1 << LOOKUP],
            runs: vec![Run::default(); 1 << RUN],
            limits: [0; 17],
            offsets: [0; 17],
            symbols: symbols.to_vec(),
        };
        let (mut code, mut number) = (0u32, 0usize);
        for (length, count) in (1u32..).zip(counts) {
            table.offsets[length as usize] = number as i32 - code as i32;
            for _ in 0..*count {
                if length <= LOOKUP {
                    let spread = 1 << (LOOKUP - length);
                    let first = code as usize * spread;
                    let entry = (length as u8, symbols[number]);
                    table.short.get_mut(first..first + spread)?.fill(entry);
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
        for (next, (whole, &(length, symbol))) in
            table.whole.iter_mut().zip(&table.short).enumerate()
        {
            let size = symbol & 15;
            if length > 0 && size == 0 && symbol != 0xF0 {
                *whole = Whole {
                    value: 0,
                    zeros: END,
                    length,
                };
            }
            if length > 0 && size > 0 && u32::from(length + size) <= LOOKUP {
                let raw = next as u32 >> (LOOKUP - u32::from(length + size)) & ((1 << size) - 1);
                *whole = Whole {
                    // At most LOOKUP bits.
                    value: signed(raw as i32, size.into()) as i16,
                    zeros: symbol >> 4,
                    length: length + size,
                };
            }
        }
        for (next, run) in table.runs.iter_mut().enumerate() {
            while !run.ends {
                let rest = (next << run.length) & ((1 << RUN) - 1);
                let (length, symbol) = table.short[rest >> (RUN - LOOKUP)];
                let (zeros, size) = (symbol >> 4, symbol & 15);
                if length == 0 || u32::from(run.length + length + size) > RUN {
                    break;
                }
                run.length += length + size;
                // Without a number, 0 is the end and 15 are 16 zeros.
                run.ends = size == 0 && zeros != 15;
                run.coefficients += if run.ends { 0 } else { zeros + 1 };
            }
        }
        Some(table)
    }

    /// The next symbol. Takes at most 16 bits, of 31 that are there with its number.
    #[inline(always)]
    fn symbol(&self, bits: &mut Bits) -> Option<u8> {
        let (length, symbol) = self.short[bits.peek(LOOKUP) as usize];
        if length > 0 {
            bits.skip(length.into());
            return Some(symbol);
        }
        let next = bits.peek(16);
        let length = (LOOKUP + 1..=16).find(|length| next < self.limits[*length as usize])?;
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

/// A window is filled from so many bytes beyond what a sound picture takes.
const AHEAD: usize = 16;

impl Bits {
    /// Brings the window to 56 bits at least: a code and a number. `None` far behind the end.
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

    /// A number of so many bits; a leading 0 means that it is negative. At most 15 bits.
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

/// A number of `size` bits; a leading 0 means that it is negative.
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

    fn waves(width: usize, height: usize) -> Vec<u8> {
        let value = |i: usize| 128.0 + 100.0 * (i as f32 * 0.37).sin() * (i as f32 * 0.011).cos();
        (0..width * height * 3).map(|i| value(i) as u8).collect()
    }

    #[test]
    fn what_shards_hold_is_read_here() {
        for (width, height) in [(64, 48), (61, 50), (3, 1)] {
            let file =
                jpeg::encode(&waves(width, height), width, height, PixelFormat::Rgb, 95).unwrap();
            let picture = decode(&file).unwrap();
            assert_eq!((picture.width, picture.height), (width, height));
            // By the general decoder: another marker makes this one step back.
            let mut other = file.clone();
            other.splice(2..2, [0xFF, 0xEE, 0, 4, 0, 0]);
            assert!(decode(&other).is_none());
            let general = jpeg::decode(&other).unwrap();
            assert!(picture == general, "{width} x {height}");
        }
    }

    #[test]
    fn a_part_is_the_part_of_the_whole() {
        let (width, height) = (61, 50);
        let file =
            jpeg::encode(&waves(width, height), width, height, PixelFormat::Rgb, 95).unwrap();
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
            scan.run(&part, &mut pixels).unwrap();
            for (y, row) in part
                .rows
                .clone()
                .zip(pixels.chunks_exact(part.columns.len() * 3))
            {
                let start = (y * width + part.columns.start) * 3;
                assert_eq!(row, &whole.pixels[start..start + row.len()]);
            }
        }
        // Cut off in the part it is damaged, behind it nothing is read.
        let middle = Part::around(&scan, 0..61, 0..24);
        let run = |length: usize| {
            let scan = Scan::parse(&file[..length]).unwrap();
            scan.run(&middle, &mut vec![0; middle.len()])
        };
        assert!(run(file.len() - 100).is_some());
        assert!(run(file.len() - scan.data.len() * 3 / 4).is_none());
    }

    /// Their last coefficient is not 0, so no code says that they end.
    #[test]
    fn full_blocks_are_stepped_over() {
        let (width, height) = (64, 32);
        let mut rng = crate::rng::Rng::new(1, &[]);
        let noise: Vec<u8> = (0..width * height * 3)
            .map(|_| rng.below(256) as u8)
            .collect();
        // From long codes to some that share a look with what follows them.
        for quality in [70, 80, 90, 95, 100] {
            let file = jpeg::encode(&noise, width, height, PixelFormat::Rgb, quality).unwrap();
            let whole = decode(&file).unwrap();
            let scan = Scan::parse(&file).unwrap();
            let part = Part::around(&scan, 56..64, 24..32);
            let mut pixels = vec![0; part.len()];
            scan.run(&part, &mut pixels).unwrap();
            for (row, made) in pixels.chunks_exact(8 * 3).enumerate() {
                let end = (24 + row + 1) * width * 3;
                assert_eq!(made, &whole.pixels[end - 8 * 3..end], "{quality}");
            }
        }
    }

    #[test]
    fn damage_and_what_is_cut_off_is_left_to_the_other() {
        let file = jpeg::encode(&waves(40, 30), 40, 30, PixelFormat::Rgb, 95).unwrap();
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
        let file =
            jpeg::encode(&waves(width, height), width, height, PixelFormat::Rgb, 95).unwrap();
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
                let made = scan.run(&part, &mut vec![0; part.len()]);
                assert_eq!(made.is_some(), reads, "row {row}");
            }
        }
    }
}
