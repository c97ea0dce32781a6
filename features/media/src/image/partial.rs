//! Decodes a part of the JPEG files that shards hold (ITU-T T.81): baseline, 8 bits, YCbCr without
//! subsampling, one restart interval per row of MCUs. The values are those of libjpeg-turbo, bit
//! for bit.
//!
//! A training crop shows about half of a frame. libjpeg-turbo can skip the IDCT of what lies beside
//! it, but has to decode the Huffman codes of whole rows, which is most of the work. With restart
//! intervals, the rows above and below the part and the blocks right of it need no decoding at
//! all. Two intervals are decoded in turns, because each code begins where the one before it ends:
//! the decoder looks one up while the other waits.
//!
//! Without subsampling an MCU is one block of each component (A.2.3), so MCUs and blocks are
//! counted alike. Section numbers in comments are those of T.81.
//!
//! Invariant: the result is `None` for every other kind of file and for all damage. libjpeg-turbo
//! then reads the file, or reports what is wrong with it. What lies outside the part's rows of
//! MCUs, or right of it, is not checked.

use std::ops::Range;
use std::rc::Rc;

mod huffman;
mod idct;
mod tables;

use super::markers::{APP0, APP1, APP14, APP15, COM, DHT, DQT, DRI, EOI, RST0, SOF0, SOI, SOS};
use super::rgb::check_size;
use huffman::{
    AcEntry, BitReader, DECODE_BITS, END_OF_BLOCK, HuffmanTable, PADDING, SKIP_BITS, run_size,
};
use tables::{Coefficients, NATURAL_ORDER};

/// A part of an image: whole blocks, as far as the image reaches.
pub(super) struct Part {
    pub columns: Range<usize>,
    pub rows: Range<usize>,
}

impl Part {
    /// Returns the blocks that hold these columns and rows of pixels.
    pub fn around(scan: &Scan, columns: Range<usize>, rows: Range<usize>) -> Part {
        let around = |range: Range<usize>, side: usize| {
            range.start / 8 * 8..range.end.next_multiple_of(8).min(side)
        };
        Part {
            columns: around(columns, scan.width),
            rows: around(rows, scan.height),
        }
    }

    /// Returns the number of bytes of its pixels, packed RGB.
    pub fn len(&self) -> usize {
        self.columns.len() * self.rows.len() * 3
    }
}

/// A file's only scan, its headers parsed.
pub(super) struct Scan<'a> {
    /// The width of the image in pixels.
    pub width: usize,
    /// The height of the image in pixels.
    pub height: usize,
    /// Y, Cb and Cr.
    components: [Component; 3],
    /// The file from the first entropy-coded byte on.
    data: &'a [u8],
}

/// The tables of one component.
struct Component {
    quantization_table: Coefficients,
    dc: Rc<HuffmanTable>,
    ac: Rc<HuffmanTable>,
}

/// A frame header (B.2.2).
struct Frame {
    width: usize,
    height: usize,
    /// The identifier (C) and the quantization table (Tq) of each component.
    components: Vec<(u8, u8)>,
}

/// What the segments before the scan header define.
#[derive(Default)]
struct Headers {
    /// The quantization tables by destination (Tq).
    quantization_tables: [Option<Coefficients>; 4],
    /// The Huffman tables by class (Tc: DC, AC) and destination (Th).
    huffman_tables: [[Option<Rc<HuffmanTable>>; 4]; 2],
    frame: Option<Frame>,
    /// The number of MCUs of a restart interval (Ri).
    restart_interval: usize,
    /// Whether there is JFIF's segment, which says that three components are YCbCr.
    jfif: bool,
}

impl Headers {
    /// Reads a DQT segment (B.2.4.1). `None` if it holds elements of 16 bits.
    fn define_quantization_tables(&mut self, mut segment: &[u8]) -> Option<()> {
        // The upper four bits are the precision, 0 for 8 bits.
        while let Some((&destination, rest)) = segment.split_first() {
            let (elements, rest) = rest.split_first_chunk::<64>()?;
            let mut table = [0; 64];
            for (index, element) in NATURAL_ORDER.iter().zip(elements) {
                table[usize::from(*index)] = i16::from(*element);
            }
            let slot = self.quantization_tables.get_mut(usize::from(destination));
            *slot? = Some(table);
            segment = rest;
        }
        Some(())
    }

    /// Reads a DHT segment (B.2.4.2).
    fn define_huffman_tables(&mut self, mut segment: &[u8]) -> Option<()> {
        while let Some((&class_destination, rest)) = segment.split_first() {
            let (table, rest) = HuffmanTable::cached(rest)?;
            let class = usize::from(class_destination >> 4);
            let destination = usize::from(class_destination & 15);
            let slot = self.huffman_tables.get_mut(class)?.get_mut(destination);
            *slot? = Some(table);
            segment = rest;
        }
        Some(())
    }

    /// Reads the header of a baseline frame (B.2.2). `None` if it has not 8 bits and three
    /// components, YCbCr without subsampling.
    fn start_frame(&mut self, segment: &[u8]) -> Option<()> {
        let (head, components) = segment.split_first_chunk::<6>()?;
        let [8, h0, h1, w0, w1, count] = *head else {
            return None;
        };
        // The sampling factors H and V are 1.
        let components = components.as_chunks::<3>().0.iter().map(|component| {
            let [id, 0x11, quantization_table] = *component else {
                return None;
            };
            Some((id, quantization_table))
        });
        let components: Vec<_> = components.collect::<Option<_>>()?;
        // Without JFIF's segment the identifiers alone say that the components are YCbCr.
        let ycc = self.jfif || components.iter().map(|(id, _)| id).eq(&[1, 2, 3]);
        if components.len() != 3 || count != 3 || !ycc {
            return None;
        }
        let size = |high, low| usize::from(u16::from_be_bytes([high, low]));
        self.frame = Some(Frame {
            width: size(w0, w1),
            height: size(h0, h1),
            components,
        });
        Some(())
    }

    /// Reads a scan header (B.2.3), which `data` follows. `None` if the scan has not all
    /// components, a restart interval other than a row of MCUs, or a table that is not defined.
    fn start_scan<'a>(&self, segment: &[u8], data: &'a [u8]) -> Option<Scan<'a>> {
        let frame = self.frame.as_ref()?;
        check_size(frame.width, frame.height).ok()?;
        if self.restart_interval != frame.width.div_ceil(8) {
            return None;
        }
        let (&count, selectors) = segment.split_first()?;
        let (selectors, spectral) = selectors.split_at_checked(2 * frame.components.len())?;
        // All coefficients (Ss 0, Se 63), no successive approximation (Ah and Al 0).
        if usize::from(count) != frame.components.len() || spectral != [0, 63, 0] {
            return None;
        }
        let selectors = selectors.as_chunks::<2>().0;
        let components = frame.components.iter().zip(selectors);
        let components = components.map(|(&(id, quantization), &[selector, tables])| {
            let table = |class: usize, destination: u8| {
                self.huffman_tables[class]
                    .get(usize::from(destination))?
                    .clone()
            };
            let quantization = self.quantization_tables.get(usize::from(quantization));
            (selector == id).then_some(Component {
                quantization_table: (*quantization?)?,
                dc: table(0, tables >> 4)?,
                ac: table(1, tables & 15)?,
            })
        });
        let components: Vec<_> = components.collect::<Option<_>>()?;
        Some(Scan {
            width: frame.width,
            height: frame.height,
            components: components.try_into().ok()?,
            data,
        })
    }
}

impl<'a> Scan<'a> {
    /// Parses the headers. `None` if the file is not one that this module decodes, or is too large.
    pub fn parse(file: &'a [u8]) -> Option<Self> {
        let mut rest = file.strip_prefix(&[0xFF, SOI])?;
        let mut headers = Headers::default();
        loop {
            let (head, tail) = rest.split_first_chunk::<4>()?;
            let [0xFF, marker, high, low] = *head else {
                return None;
            };
            let length = usize::from(u16::from_be_bytes([high, low])).checked_sub(2)?;
            let (segment, after) = tail.split_at_checked(length)?;
            rest = after;
            match marker {
                DQT => headers.define_quantization_tables(segment)?,
                DHT => headers.define_huffman_tables(segment)?,
                SOF0 => headers.start_frame(segment)?,
                SOS => return headers.start_scan(segment, rest),
                DRI => {
                    let interval = u16::from_be_bytes(*segment.first_chunk()?);
                    headers.restart_interval = interval.into();
                }
                APP0 => headers.jfif |= segment.starts_with(b"JFIF\0"),
                // Adobe's segment, which can declare another colour model.
                APP14 => return None,
                APP1..=APP15 | COM => {}
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
                scan.decode_rows::<{ idct::AVX2 }>(part, pixels)
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2") {
                // SAFETY: the processor has AVX2 and BMI2.
                return unsafe { avx2(self, part, pixels) };
            }
        }
        self.decode_rows::<{ idct::PORTABLE }>(part, pixels)
    }

    /// Decodes the part's rows of MCUs, two at a time.
    ///
    /// Inlined, as is all that it calls, so that it is compiled for the instructions that its
    /// caller may use.
    #[inline(always)]
    fn decode_rows<const LEVEL: u8>(&self, part: &Part, pixels: &mut [u8]) -> Option<()> {
        let (first, end) = (part.rows.start / 8, part.rows.end.div_ceil(8));
        let mut rows = pixels.chunks_mut(8 * 3 * part.columns.len());
        let intervals = self.restart_intervals(end)?;
        let whole = part.columns.end == self.width;
        for number in (first..end).step_by(2) {
            // One chunk of pixels for each row of MCUs.
            match (rows.next()?, rows.next()) {
                (row, Some(next)) => {
                    let mut states = [intervals.start(number), intervals.start(number + 1)];
                    self.decode_row::<LEVEL, 2>(&intervals, &mut states, part, [row, next])?;
                    intervals.check_consumed(number, &states[0], whole)?;
                    intervals.check_consumed(number + 1, &states[1], whole)?;
                }
                (row, None) => {
                    let mut states = [intervals.start(number)];
                    self.decode_row::<LEVEL, 1>(&intervals, &mut states, part, [row])?;
                    intervals.check_consumed(number, &states[0], whole)?;
                }
            }
        }
        Some(())
    }

    /// Decodes the part's columns of one or two rows of MCUs, in turns.
    #[inline(always)]
    fn decode_row<const LEVEL: u8, const N: usize>(
        &self,
        intervals: &RestartIntervals,
        states: &mut [IntervalState; N],
        part: &Part,
        mut rows: [&mut [u8]; N],
    ) -> Option<()> {
        self.skip_mcus(intervals, states, part.columns.start / 8)?;
        let width = 3 * part.columns.len();
        for at in (0..width).step_by(24) {
            let mut mcus = [[[0; 64]; 3]; N];
            for (number, component) in self.components.iter().enumerate() {
                component.decode_blocks(&intervals.bytes, states, number, &mut mcus)?;
            }
            for (mcu, rows) in mcus.iter().zip(&mut rows) {
                let decoded = idct::rgb_block::<LEVEL>(mcu);
                for (row, decoded) in rows.chunks_mut(width).zip(&decoded) {
                    let row = &mut row[at..(at + 24).min(width)];
                    row.copy_from_slice(&decoded[..row.len()]);
                }
            }
        }
        Some(())
    }

    /// Skips the next `count` MCUs of each interval.
    #[inline(always)]
    fn skip_mcus<const N: usize>(
        &self,
        intervals: &RestartIntervals,
        states: &mut [IntervalState; N],
        count: usize,
    ) -> Option<()> {
        for state in states {
            for _ in 0..count {
                for (number, component) in self.components.iter().enumerate() {
                    component.skip_block(&intervals.bytes, state, number)?;
                }
            }
        }
        Some(())
    }

    /// Collects the first `count` restart intervals. `None` if the markers between them are not
    /// the ones that T.81 asks for.
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
                // Byte stuffing: 0xFF in the data is written as FF 00 (B.1.1.5).
                [0xFF, 0, rest @ ..] => {
                    bytes.push(0xFF);
                    rest
                }
                [0xFF, marker, rest @ ..] => {
                    // RST markers count from 0 to 7 and from 0 again (B.1.1.2). EOI follows the
                    // last interval.
                    let expected = match ends.len() + 1 == total {
                        true => EOI,
                        false => RST0 + (ends.len() % 8) as u8,
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

/// Returns whether one of the bytes is 0xFF: then a byte of the complement is 0.
fn has_ff(bytes: &[u8; 8]) -> bool {
    let word = u64::from_ne_bytes(*bytes);
    (!word).wrapping_sub(0x0101_0101_0101_0101) & word & 0x8080_8080_8080_8080 != 0
}

/// The entropy-coded segments of a scan, byte stuffing and RST markers removed.
struct RestartIntervals {
    /// The bytes of all intervals, then [`PADDING`] zeros.
    bytes: Vec<u8>,
    /// The index of the first byte after each interval.
    ends: Vec<usize>,
}

impl RestartIntervals {
    /// Returns `None` if more was read than the interval has, or if `whole` rows were decoded and
    /// a byte or more is left.
    fn check_consumed(&self, number: usize, state: &IntervalState, whole: bool) -> Option<()> {
        let left = state.bits.remaining(self.ends[number]);
        (left >= 0 && (left < 8 || !whole)).then_some(())
    }

    /// Returns the state of a decoder at the start of an interval.
    fn start(&self, number: usize) -> IntervalState {
        let first = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        IntervalState {
            bits: BitReader::new(first),
            predictions: [0; 3],
        }
    }
}

/// The state of a decoder within a restart interval.
#[derive(Clone, Copy)]
struct IntervalState {
    bits: BitReader,
    /// The DC coefficient of each component's last block, not dequantized (PRED of F.2.1.3.1).
    predictions: [i32; 3],
}

impl Component {
    /// Decodes the DC coefficient, which is stored as the difference to the previous block's
    /// (F.2.2.1). `number` is that of the component in the scan.
    #[inline(always)]
    fn decode_dc(&self, bytes: &[u8], state: &mut IntervalState, number: usize) -> Option<i32> {
        state.bits.refill(bytes)?;
        let size = self.dc.decode(&mut state.bits)?;
        let dc = &mut state.predictions[number];
        *dc = dc.wrapping_add(state.bits.receive_extend(size)?);
        Some(*dc)
    }

    /// Skips the next block of an interval. The DC coefficient is decoded, because the next one is
    /// stored as the difference to it.
    #[inline(always)]
    fn skip_block(&self, bytes: &[u8], state: &mut IntervalState, number: usize) -> Option<()> {
        self.decode_dc(bytes, state, number)?;
        let bits = &mut state.bits;
        let mut k = 1;
        while k < 64 {
            bits.refill(bytes)?;
            let entry = self.ac.skip[bits.peek(SKIP_BITS) as usize];
            // After the last coefficient the window holds bits of the next block.
            if entry.length > 0 && k + usize::from(entry.coefficients) < 64 {
                bits.skip(entry.length.into());
                if entry.end_of_block {
                    return Some(());
                }
                k += usize::from(entry.coefficients);
                continue;
            }
            let (run, size) = run_size(self.ac.decode(bits)?);
            if size == 0 {
                if run != 15 {
                    return Some(());
                }
                k += 16;
                continue;
            }
            bits.receive_extend(size)?;
            k += usize::from(run) + 1;
            if k > 64 {
                return None;
            }
        }
        Some(())
    }

    /// Decodes the next block of each interval into its MCU, whose coefficients of this component
    /// are 0 before.
    #[inline(always)]
    fn decode_blocks<const N: usize>(
        &self,
        bytes: &[u8],
        states: &mut [IntervalState; N],
        number: usize,
        mcus: &mut [[Coefficients; 3]; N],
    ) -> Option<()> {
        for (state, mcu) in states.iter_mut().zip(&mut *mcus) {
            let dc = self.decode_dc(bytes, state, number)?;
            mcu[number][0] = (dc as i16).wrapping_mul(self.quantization_table[0]);
        }
        // Copies, which can stay in registers.
        let mut bits: [BitReader; N] = std::array::from_fn(|i| states[i].bits);
        let mut k = [1; N];
        'together: loop {
            for i in 0..N {
                let block = &mut mcus[i][number];
                if !self.decode_ac(bytes, &mut bits[i], &mut k[i], block)? {
                    break 'together;
                }
            }
        }
        for i in 0..N {
            let block = &mut mcus[i][number];
            while self.decode_ac(bytes, &mut bits[i], &mut k[i], block)? {}
            states[i].bits = bits[i];
        }
        Some(())
    }

    /// Decodes the next AC coefficient that is not 0, at or after zig-zag index `k` (F.2.2.2).
    /// Returns false at the end of the block.
    #[inline(always)]
    fn decode_ac(
        &self,
        bytes: &[u8],
        bits: &mut BitReader,
        k: &mut usize,
        block: &mut Coefficients,
    ) -> Option<bool> {
        if *k > 63 {
            return Some(false);
        }
        bits.refill(bytes)?;
        let AcEntry { length, run, value } = self.ac.ac[bits.peek(DECODE_BITS) as usize];
        if length == 0 {
            (*bits, *k) = self.decode_long_ac(*bits, *k, block)?;
            return Some(true);
        }
        bits.skip(length.into());
        *k += usize::from(run);
        let Some(&index) = NATURAL_ORDER.get(*k) else {
            return (run == END_OF_BLOCK).then_some(false);
        };
        let index = usize::from(index);
        block[index] = value.wrapping_mul(self.quantization_table[index]);
        *k += 1;
        Some(true)
    }

    /// Decodes a coefficient whose code and value are longer than the table's index, or a run of
    /// 16 zeros. Returns the reader and the zig-zag index that follow.
    #[inline(never)]
    fn decode_long_ac(
        &self,
        mut bits: BitReader,
        mut k: usize,
        block: &mut Coefficients,
    ) -> Option<(BitReader, usize)> {
        let (run, size) = run_size(self.ac.decode(&mut bits)?);
        if size == 0 {
            k += if run == 15 { 16 } else { END_OF_BLOCK.into() };
            return Some((bits, k));
        }
        k += usize::from(run);
        let index = usize::from(*NATURAL_ORDER.get(k)?);
        // At most 15 bits and a sign.
        let value = bits.receive_extend(size)? as i16;
        block[index] = value.wrapping_mul(self.quantization_table[index]);
        Some((bits, k + 1))
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
    fn partial_decoding_equals_crop_of_full_decoding() {
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
        // A file that is cut off within the part is damaged; behind the part nothing is read.
        let middle = Part::around(&scan, 0..61, 0..24);
        let decode_first = |length: usize| {
            let scan = Scan::parse(&file[..length]).unwrap();
            scan.decode(&middle, &mut vec![0; middle.len()])
        };
        assert!(decode_first(file.len() - 100).is_some());
        assert!(decode_first(file.len() - scan.data.len() * 3 / 4).is_none());
    }

    /// The last coefficient of these blocks is not 0, so no EOB code ends them.
    #[test]
    fn blocks_without_eob_are_skipped() {
        let (width, height) = (64, 32);
        let mut rng = util::rng::Rng::new(1, &[]);
        let noise: Vec<u8> = (0..width * height * 3)
            .map(|_| rng.below(256) as u8)
            .collect();
        // From long codes to short ones that share a window with the code after them.
        for quality in [70, 80, 90, 95, 100] {
            let file = encode(&noise, width, height, quality);
            let whole = decode(&file).unwrap();
            let scan = Scan::parse(&file).unwrap();
            let part = Part::around(&scan, 56..64, 24..32);
            let mut pixels = vec![0; part.len()];
            scan.decode(&part, &mut pixels).unwrap();
            for (row, pixels) in pixels.chunks_exact(8 * 3).enumerate() {
                let end = (24 + row + 1) * width * 3;
                assert_eq!(pixels, &whole[end - 8 * 3..end], "{quality}");
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
        // Nothing panics; some flips only change a value.
        assert!(read > 0);
    }

    /// A lost restart interval would shift all rows after it.
    #[test]
    fn missing_restart_intervals_are_detected() {
        let (width, height) = (40, 77);
        let file = encode(&waves(width, height), width, height, 95);
        let markers: Vec<usize> = (0..file.len() - 1)
            .filter(|at| file[*at] == 0xFF && (RST0..SOI).contains(&file[at + 1]))
            .collect();
        assert_eq!(markers.len(), height.div_ceil(8) - 1);
        let mut lost = file.clone();
        lost.drain(markers[2]..markers[3]);
        assert!(decode(&lost).is_none());
        for (row, at) in markers.into_iter().enumerate() {
            let mut other = file.clone();
            other[at + 1] ^= 1;
            assert!(decode(&other).is_none());
            // A part is read up to the marker after its last row.
            let scan = Scan::parse(&other).unwrap();
            for (rows, reads) in [(0..8 * row + 8, false), (0..8 * row, true)] {
                let part = Part::around(&scan, 8..16, rows);
                let decoded = scan.decode(&part, &mut vec![0; part.len()]);
                assert_eq!(decoded.is_some(), reads, "row {row}");
            }
        }
    }
}
