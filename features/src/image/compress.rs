//! Compresses to JPEG byte for byte as the general encoder does, in less time: baseline, YCbCr at full resolution.
//!
//! The general encoder's own header is the beginning of every file, and its tables are read from there. What follows is
//! its arithmetic in vectors ([`super::forward`]) and the codes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::forward::{Divisors, Quantised, Row};

/// Compresses packed RGB; `None` where the general encoder's header is not as known. Sides are 1 to 65535.
pub(super) fn encode(pixels: &[u8], width: usize, height: usize, quality: u8) -> Option<Vec<u8>> {
    let tables = Tables::of(quality)?;
    let mut out = tables.header.clone();
    let size = [height as u16, width as u16].map(u16::to_be_bytes);
    out[tables.size_at..tables.size_at + 4].copy_from_slice(size.as_flattened());
    let interval = (width.div_ceil(8) as u16).to_be_bytes();
    out[tables.interval_at..tables.interval_at + 2].copy_from_slice(&interval);
    let mut out = Output {
        written: out.len(),
        bytes: out,
    };
    let divisors = tables
        .components
        .each_ref()
        .map(|component| &component.divisors);
    let mut row = Row::new(width);
    for (number, top) in (0..height).step_by(8).enumerate() {
        if number > 0 {
            out.marker(RESTART + (number - 1) as u8 % 8);
        }
        // The last row goes on beyond the picture.
        let start = |i: usize| 3 * width * (top + i).min(height - 1);
        let lines = std::array::from_fn(|i| &pixels[start(i)..][..3 * width]);
        row.fill(lines, divisors);
        encode_row(&tables, row.blocks(), &mut out);
    }
    out.marker(END);
    out.bytes.truncate(out.written);
    Some(out.bytes)
}

/// Restart markers count from this one on to the seventh after it, and from it again.
const RESTART: u8 = 0xD0;
/// The marker at the end of a picture.
const END: u8 = 0xD9;

/// A compressed picture's header, and what it says.
struct Tables {
    header: Vec<u8>,
    /// Where height and width stand in it.
    size_at: usize,
    /// Where the number of blocks between restart markers does.
    interval_at: usize,
    components: [Component; 3],
}

struct Component {
    divisors: Divisors,
    dc: Codes,
    ac: Codes,
}

/// Per symbol, its code with room for the number that follows it.
#[derive(Clone)]
struct Codes([Code; 256]);

#[derive(Clone, Copy, Default)]
struct Code {
    bits: u32,
    /// Of code and number.
    length: u32,
}

thread_local! {
    static TABLES: RefCell<BTreeMap<u8, Option<Rc<Tables>>>> = RefCell::default();
}

impl Tables {
    /// Those of a quality, kept.
    fn of(quality: u8) -> Option<Rc<Tables>> {
        TABLES.with_borrow_mut(|known| {
            let made = || {
                Some(Rc::new(Tables::parse(
                    super::jpeg::general(&[0; 192], 8, 8, quality).ok()?,
                )?))
            };
            known.entry(quality).or_insert_with(made).clone()
        })
    }

    /// Of a file, whose data is cut off.
    fn parse(mut file: Vec<u8>) -> Option<Tables> {
        let mut steps: [Option<[u8; 64]>; 2] = [None; 2];
        // DC, then AC.
        let mut codes: [[Option<Codes>; 2]; 2] = Default::default();
        let mut frame: Option<(usize, [u8; 3])> = None;
        let mut interval = None;
        let mut at = 2;
        loop {
            let &[0xFF, marker, high, low] = file.get(at..)?.first_chunk()? else {
                return None;
            };
            let end = at + 2 + usize::from(u16::from_be_bytes([high, low]));
            let segment = file.get(at + 4..end)?;
            match marker {
                0xDB => {
                    *steps.get_mut(usize::from(*segment.first()?))? =
                        Some(segment[1..].try_into().ok()?)
                }
                0xC4 => {
                    let (class, table) = segment.split_first()?;
                    let codes = codes.get_mut(usize::from(class >> 4))?;
                    *codes.get_mut(usize::from(class & 15))? = Some(Codes::parse(table)?);
                }
                0xC0 => {
                    let [8, _, _, _, _, 3, _, 0x11, y, _, 0x11, cb, _, 0x11, cr] = *segment else {
                        return None;
                    };
                    frame = Some((at + 5, [y, cb, cr]));
                }
                0xDD => interval = Some(at + 4),
                0xE0 => {}
                0xDA => {
                    let [3, _, y, _, cb, _, cr, 0, 63, 0] = *segment else {
                        return None;
                    };
                    let (size_at, of) = frame?;
                    let component = |step: u8, choice: u8| {
                        let steps = (*steps.get(usize::from(step))?)?;
                        let codes =
                            |class: usize, id: u8| codes[class].get(usize::from(id))?.clone();
                        Some(Component {
                            divisors: Divisors::new(&steps),
                            dc: codes(0, choice >> 4)?,
                            ac: codes(1, choice & 15)?,
                        })
                    };
                    let components = [
                        component(of[0], y)?,
                        component(of[1], cb)?,
                        component(of[2], cr)?,
                    ];
                    file.truncate(end);
                    return Some(Tables {
                        header: file,
                        size_at,
                        interval_at: interval?,
                        components,
                    });
                }
                _ => return None,
            }
            at = end;
        }
    }
}

impl Codes {
    /// Of the numbers of codes of each length, and their symbols.
    fn parse(table: &[u8]) -> Option<Codes> {
        let (counts, symbols) = table.split_first_chunk::<16>()?;
        let mut codes = [Code::default(); 256];
        let (mut code, mut symbols) = (0u32, symbols.iter());
        for (length, count) in (1..).zip(counts) {
            for _ in 0..*count {
                let symbol = *symbols.next()?;
                let size = u32::from(symbol & 15);
                codes[usize::from(symbol)] = Code {
                    bits: code << size,
                    length: length + size,
                };
                code += 1;
            }
            code <<= 1;
        }
        Some(Codes(codes))
    }
}

/// The codes of a row of blocks, filled up with ones to whole bytes.
fn encode_row(tables: &Tables, blocks: &[[Quantised; 3]], out: &mut Output) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "bmi1,bmi2,lzcnt")]
        fn bmi(tables: &Tables, blocks: &[[Quantised; 3]], out: &mut Output) {
            tables.encode_row(blocks, out);
        }
        if is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
        {
            // SAFETY: the processor has them.
            return unsafe { bmi(tables, blocks, out) };
        }
    }
    tables.encode_row(blocks, out);
}

impl Tables {
    /// Inlined, as is all that it calls, so that it is compiled for the instructions that its caller may use.
    #[inline(always)]
    fn encode_row(&self, blocks: &[[Quantised; 3]], out: &mut Output) {
        let (mut bits, mut previous) = (Bits::default(), [0; 3]);
        for block in blocks {
            let parts = self.components.iter().zip(block).zip(&mut previous);
            for ((component, block), previous) in parts {
                component.encode(block, previous, &mut bits, out);
            }
        }
        bits.end(out);
    }
}

impl Component {
    #[inline(always)]
    fn encode(&self, block: &Quantised, previous: &mut i32, bits: &mut Bits, out: &mut Output) {
        out.make_room();
        let first = i32::from(block.values[0]);
        bits.put_number(&self.dc, 0, first - *previous, out);
        *previous = first;
        let mut before = 0;
        let mut there = block.there & !1;
        while there != 0 {
            let at = there.trailing_zeros();
            there &= there - 1;
            let mut zeros = at - before - 1;
            before = at;
            while zeros > 15 {
                bits.put(self.ac.0[0xF0], out);
                zeros -= 16;
            }
            bits.put_number(&self.ac, zeros, block.values[at as usize].into(), out);
        }
        if before < 63 {
            bits.put(self.ac.0[0], out);
        }
    }
}

/// Entropy-coded bits that are not written yet, most significant first.
#[derive(Clone, Copy, Default)]
struct Bits {
    /// The last `count` bits put in, fewer than 64.
    window: u64,
    count: u32,
}

impl Bits {
    /// So many zeros, then a number: of a negative one, the bits of the number less 1.
    #[inline(always)]
    fn put_number(&mut self, codes: &Codes, zeros: u32, value: i32, out: &mut Output) {
        let size = 32 - value.unsigned_abs().leading_zeros();
        let Code { bits, length } = codes.0[(zeros << 4 | size) as usize & 255];
        let low = (value + (value >> 31)) as u32 & ((1 << size) - 1);
        let bits = bits | low;
        self.put(Code { bits, length }, out);
    }

    /// At most 32 bits.
    #[inline(always)]
    fn put(&mut self, Code { bits, length }: Code, out: &mut Output) {
        let bits = u64::from(bits);
        let count = self.count + length;
        if count < 64 {
            self.window = self.window << length | bits;
            self.count = count;
            return;
        }
        self.count = count - 64;
        out.word(self.window << (length - self.count) | bits >> self.count);
        self.window = bits;
    }

    /// Fills the last byte with ones.
    fn end(mut self, out: &mut Output) {
        out.make_room();
        let ones = Code {
            bits: 0x7F,
            length: 7,
        };
        self.put(ones, out);
        while self.count >= 8 {
            self.count -= 8;
            out.byte((self.window >> self.count) as u8);
        }
    }
}

/// A file, with room at its end.
struct Output {
    bytes: Vec<u8>,
    written: usize,
}

/// A block takes fewer bytes: 64 times 26 bits, every byte followed by another, and 63 bits of the block before.
const ROOM: usize = 512;

impl Output {
    /// For a block.
    #[inline(always)]
    fn make_room(&mut self) {
        if self.bytes.len() - self.written < ROOM {
            self.bytes.resize(2 * self.bytes.len() + ROOM, 0);
        }
    }

    #[inline(always)]
    fn word(&mut self, word: u64) {
        // No byte is 0xFF where none of the complement is 0.
        let ones = (!word).wrapping_sub(0x0101_0101_0101_0101) & word & 0x8080_8080_8080_8080;
        if ones != 0 {
            return self.stuffed(word);
        }
        self.bytes[self.written..self.written + 8].copy_from_slice(&word.to_be_bytes());
        self.written += 8;
    }

    #[cold]
    fn stuffed(&mut self, word: u64) {
        word.to_be_bytes()
            .into_iter()
            .for_each(|byte| self.byte(byte));
    }

    fn marker(&mut self, marker: u8) {
        self.make_room();
        self.bytes[self.written..self.written + 2].copy_from_slice(&[0xFF, marker]);
        self.written += 2;
    }

    /// A byte of ones is followed by one of zeros.
    fn byte(&mut self, byte: u8) {
        self.bytes[self.written] = byte;
        self.written += 1;
        if byte == 0xFF {
            self.bytes[self.written] = 0;
            self.written += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::jpeg;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn equals_the_general_encoder() {
        if !is_x86_feature_detected!("avx2") {
            eprintln!("skipped: the general encoder rounds otherwise without AVX2");
            return;
        }
        let mut state = 1u32;
        let mut random = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 24
        };
        let mut noise: Vec<u8> = (0..3 * 97 * 61).map(|_| random() as u8).collect();
        // Some flat parts, some extremes.
        noise[3000..6000].fill(200);
        noise[9000..12_000]
            .iter_mut()
            .for_each(|v| *v = if *v < 128 { 0 } else { 255 });
        let smooth: Vec<u8> = (0..3 * 97 * 61)
            .map(|i| (128.0 + 120.0 * (i as f32 * 0.013).sin() * (i as f32 * 0.0007).cos()) as u8)
            .collect();
        for (width, height) in [(97, 61), (96, 56), (8, 8), (7, 3), (1, 1), (17, 64)] {
            for quality in [1, 20, 50, 75, 90, 95, 100] {
                for source in [&noise, &smooth] {
                    let pixels = &source[..3 * width * height];
                    let ours = encode(pixels, width, height, quality).unwrap();
                    let theirs = jpeg::general(pixels, width, height, quality).unwrap();
                    let differ = ours.iter().zip(&theirs).position(|(a, b)| a != b);
                    assert_eq!(differ, None, "{width} x {height}, quality {quality}");
                    assert_eq!(ours.len(), theirs.len());
                }
            }
        }
    }
}
