//! Compresses to JPEG byte for byte as the general encoder does, in half the time: baseline, YCbCr at full resolution.
//!
//! The general encoder's own header is the beginning of every file, and its tables are read from there. What follows is
//! its arithmetic for eight values at once: the cosine transform of Loeffler, Ligtenberg and Moschytz (1989) in 13 bits,
//! and division by way of a reciprocal in 15 bits.
//!
//! With AVX2 the general encoder rounds the even part of odd columns down instead of to the nearest, without AVX2 it does
//! not. Here it is as with AVX2 on every processor: the bytes that shards have had, the same wherever they are made.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::block::{self, Block, PLAIN, ZIGZAG, fixed, in_order, transposed};

/// Compresses packed RGB; `None` where the general encoder's header is not as known. Sides are 1 to 65535.
pub(super) fn encode(pixels: &[u8], width: usize, height: usize, quality: u8) -> Option<Vec<u8>> {
    let tables = Tables::of(quality)?;
    let mut out = Vec::with_capacity(pixels.len() / 4);
    out.extend_from_slice(&tables.header);
    let size = [height as u16, width as u16].map(u16::to_be_bytes);
    out[tables.size_at..tables.size_at + 4].copy_from_slice(size.as_flattened());
    run(&tables, pixels, width, &mut out);
    Some(out)
}

/// A compressed picture's header, and what it says.
struct Tables {
    header: Vec<u8>,
    /// Where height and width stand in it.
    size_at: usize,
    components: [Component; 3],
}

#[derive(Clone)]
struct Component {
    /// By place in the block, row by row: half the divisor or a little more, and 2^15 by the divisor.
    corrections: Block,
    reciprocals: Block,
    dc: Codes,
    ac: Codes,
}

/// Per symbol, its code and how many bits that has.
#[derive(Clone)]
struct Codes(Vec<(u16, u8)>);

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
                        Some(Component::new(
                            &steps,
                            codes(0, choice >> 4)?,
                            codes(1, choice & 15)?,
                        ))
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
        let mut codes = vec![(0, 0); 256];
        let (mut code, mut symbols) = (0u16, symbols.iter());
        for (length, count) in (1..).zip(counts) {
            for _ in 0..*count {
                codes[usize::from(*symbols.next()?)] = (code, length);
                code += 1;
            }
            code <<= 1;
        }
        Some(Codes(codes))
    }
}

impl Component {
    fn new(steps: &[u8; 64], dc: Codes, ac: Codes) -> Component {
        let (mut corrections, mut reciprocals) = ([[0; 8]; 8], [[0; 8]; 8]);
        for (step, place) in steps.iter().zip(ZIGZAG) {
            // The transform's values are 8 times too large.
            let divisor = 8 * i32::from(*step);
            let (mut reciprocal, rest) = ((1 << 15) / divisor, (1 << 15) % divisor);
            let mut correction = divisor / 2;
            match rest {
                0 => {}
                rest if rest <= correction => correction += 1,
                _ => reciprocal += 1,
            }
            corrections.as_flattened_mut()[usize::from(place)] = correction;
            reciprocals.as_flattened_mut()[usize::from(place)] = reciprocal;
        }
        Component {
            corrections,
            reciprocals,
            dc,
            ac,
        }
    }
}

fn run(tables: &Tables, pixels: &[u8], width: usize, out: &mut Vec<u8>) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt")]
        fn avx2(tables: &Tables, pixels: &[u8], width: usize, out: &mut Vec<u8>) {
            blocks::<{ block::AVX2 }>(tables, pixels, width, out);
        }
        #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,avx512f,avx512bw,avx512vl")]
        fn avx512(tables: &Tables, pixels: &[u8], width: usize, out: &mut Vec<u8>) {
            blocks::<{ block::AVX512 }>(tables, pixels, width, out);
        }
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
        {
            let wide = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl");
            // SAFETY: the processor has them.
            return unsafe {
                match wide {
                    true => avx512(tables, pixels, width, out),
                    false => avx2(tables, pixels, width, out),
                }
            };
        }
    }
    blocks::<PLAIN>(tables, pixels, width, out);
}

/// Inlined, as is all that it calls, so that it is compiled for the instructions that its caller may use.
#[inline(always)]
fn blocks<const LEVEL: u8>(tables: &Tables, pixels: &[u8], width: usize, out: &mut Vec<u8>) {
    let mut bits = Bits {
        out,
        window: 0,
        count: 0,
    };
    let mut previous = [0; 3];
    let height = pixels.len() / (3 * width);
    let mut planes: [Block; 3] = [[[0; 8]; 8]; 3];
    for top in (0..height).step_by(8) {
        for left in (0..width).step_by(8) {
            for row in 0..8 {
                // The last row and column go on beyond the picture.
                let line = &pixels[3 * width * (top + row).min(height - 1)..][..3 * width];
                let part = eight(line, left);
                for i in 0..8 {
                    let ycc =
                        ycc_of_rgb([part[3 * i], part[3 * i + 1], part[3 * i + 2]].map(i32::from));
                    planes[0][row][i] = ycc[0];
                    planes[1][row][i] = ycc[1];
                    planes[2][row][i] = ycc[2];
                }
            }
            let parts = tables.components.iter().zip(&planes).zip(&mut previous);
            for ((component, plane), previous) in parts {
                component.block::<LEVEL>(forward::<LEVEL>(plane), previous, &mut bits);
            }
        }
    }
    bits.end();
}

/// Eight pixels of a row, the last one again where there are fewer.
#[inline(always)]
fn eight(line: &[u8], left: usize) -> [u8; 24] {
    let line = &line[3 * left..];
    if let Some(whole) = line.first_chunk() {
        return *whole;
    }
    let mut part = [0; 24];
    let last = line.len() - 3;
    for (i, pixel) in part.as_chunks_mut::<3>().0.iter_mut().enumerate() {
        pixel.copy_from_slice(&line[last.min(3 * i)..][..3]);
    }
    part
}

/// JFIF's colours, less 128, in 16 bits.
#[inline(always)]
fn ycc_of_rgb([r, g, b]: [i32; 3]) -> [i32; 3] {
    const HALF: i32 = 0x7FFF;
    [
        ((19_595 * r + 38_470 * g + 7471 * b + HALF) >> 16) - 128,
        (-11_059 * r - 21_709 * g + 32_768 * b + HALF) >> 16,
        (32_768 * r - 27_439 * g - 5329 * b + HALF) >> 16,
    ]
}

/// The cosine transform, 8 times too large.
#[inline(always)]
fn forward<const LEVEL: u8>(plane: &Block) -> Block {
    let rows = transposed::<LEVEL>(&one_way::<true>(&transposed::<LEVEL>(plane)));
    one_way::<false>(&rows)
}

/// Eight one-dimensional transforms side by side: 2 bits more come out of the first ones, and go again in the second.
#[inline(always)]
fn one_way<const FIRST: bool>(rows: &Block) -> Block {
    let shift = if FIRST { 11 } else { 15 };
    let mut out: Block = [[0; 8]; 8];
    for lane in 0..8 {
        let x: [i32; 8] = std::array::from_fn(|i| rows[i][lane]);
        let [s0, s1, s2, s3] = [x[0] + x[7], x[1] + x[6], x[2] + x[5], x[3] + x[4]];
        let [d4, d5, d6, d7] = [x[3] - x[4], x[2] - x[5], x[1] - x[6], x[0] - x[7]];
        let down = |x: i32| (x + (1 << (shift - 1))) >> shift;
        let half = if lane % 2 == 0 { 2 } else { 0 };
        let whole = |x: i32| if FIRST { x << 2 } else { (x + half) >> 2 };

        let (low, high) = (s0 + s3, s0 - s3);
        let (inner, outer) = (s1 + s2, s1 - s2);
        let z = (outer + high) * fixed(0.541_196_1);
        out[0][lane] = whole(low + inner);
        out[4][lane] = whole(low - inner);
        out[2][lane] = down(z + high * fixed(0.765_366_865));
        out[6][lane] = down(z - outer * fixed(1.847_759_065));

        let z5 = (d4 + d6 + d5 + d7) * fixed(1.175_875_602);
        let z1 = (d4 + d7) * fixed(0.899_976_223);
        let z2 = (d5 + d6) * fixed(2.562_915_447);
        let z3 = z5 - (d4 + d6) * fixed(1.961_570_56);
        let z4 = z5 - (d5 + d7) * fixed(0.390_180_644);
        out[7][lane] = down(d4 * fixed(0.298_631_336) - z1 + z3);
        out[5][lane] = down(d5 * fixed(2.053_119_869) - z2 + z4);
        out[3][lane] = down(d6 * fixed(3.072_711_026) - z2 + z3);
        out[1][lane] = down(d7 * fixed(1.501_321_11) - z1 + z4);
    }
    out
}

impl Component {
    #[inline(always)]
    fn block<const LEVEL: u8>(&self, mut block: Block, previous: &mut i32, bits: &mut Bits) {
        let divisors = self
            .corrections
            .as_flattened()
            .iter()
            .zip(self.reciprocals.as_flattened());
        for (value, (correction, reciprocal)) in block.as_flattened_mut().iter_mut().zip(divisors) {
            let size = ((value.abs() + correction) * reciprocal) >> 15;
            *value = if *value < 0 { -size } else { size };
        }
        let (ordered, mut there) = in_order::<LEVEL>(&block);
        let first = i32::from(ordered[0]);
        // A block takes fewer bytes than this.
        bits.out.reserve(512);
        let (size, low) = sized(first - *previous);
        *previous = first;
        let (code, length) = self.dc.0[size as usize];
        bits.put(u32::from(code) << size | low, u32::from(length) + size);

        let mut before = 0;
        there &= !1;
        while there != 0 {
            let at = there.trailing_zeros();
            there &= there - 1;
            let mut zeros = at - before - 1;
            before = at;
            while zeros > 15 {
                let (code, length) = self.ac.0[0xF0];
                bits.put(code.into(), length.into());
                zeros -= 16;
            }
            let (size, low) = sized(ordered[at as usize].into());
            let (code, length) = self.ac.0[(zeros << 4 | size) as usize & 255];
            bits.put(u32::from(code) << size | low, u32::from(length) + size);
        }
        if before < 63 {
            let (code, length) = self.ac.0[0];
            bits.put(code.into(), length.into());
        }
    }
}

/// How many bits a number takes, and these: of a negative one, those of the number less 1.
#[inline(always)]
fn sized(value: i32) -> (u32, u32) {
    let size = 32 - value.unsigned_abs().leading_zeros();
    let low = (value + (value >> 31)) as u32;
    (size, low & ((1 << size) - 1))
}

/// Entropy-coded bits, most significant first.
struct Bits<'a> {
    out: &'a mut Vec<u8>,
    /// The last `count` bits put in, fewer than 32.
    window: u64,
    count: u32,
}

impl Bits<'_> {
    /// At most 32 bits.
    #[inline(always)]
    fn put(&mut self, value: u32, length: u32) {
        self.window = self.window << length | u64::from(value);
        self.count += length;
        if self.count >= 32 {
            self.count -= 32;
            let word = (self.window >> self.count) as u32;
            let bytes = word.to_be_bytes();
            // None is 0xFF where no byte of the complement is 0.
            let zeros = (!word).wrapping_sub(0x0101_0101) & word & 0x8080_8080;
            if zeros == 0 {
                self.out.extend_from_slice(&bytes);
            } else {
                bytes.iter().for_each(|byte| self.byte(*byte));
            }
        }
    }

    fn byte(&mut self, byte: u8) {
        self.out.push(byte);
        if byte == 0xFF {
            self.out.push(0);
        }
    }

    /// Fills the last byte with ones and ends the picture.
    fn end(mut self) {
        self.put(0x7F, 7);
        while self.count >= 8 {
            self.count -= 8;
            self.byte((self.window >> self.count) as u8);
        }
        self.out.extend([0xFF, 0xD9]);
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
