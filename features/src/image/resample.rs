//! Pillow's bicubic resize (`libImaging/Resample.c`), to the last bit: what CLIP's own preprocessing makes of a picture.
//!
//! Columns first, then rows. Each pass sums bytes times weights of 22 fractional bits and rounds to a byte, so the
//! result is a matter of integers and the same on every processor. (For pictures many times as tall as wide Pillow 13
//! turns the order round where that is less work; here it never changes.)

#[cfg(target_arch = "x86_64")]
mod vnni;

use std::ops::Range;

/// How far the filter reaches at full size, in pixels.
const SUPPORT: f64 = 2.0;
/// Fractional bits of a weight: a byte, the overshoot of the filter and the sign fit the rest of 32.
const BITS: u32 = 22;
/// What rounds a sum when it loses its fractional bits.
const HALF: i32 = 1 << (BITS - 1);
/// Bytes that the second pass takes at once: one load of a vector that every processor can make of smaller ones.
const CHUNK: usize = 32;

/// Keys's cubic with a = -0.5.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// The weights of one direction: which source pixels make each pixel of the result.
pub(super) struct Axis {
    /// Per result pixel, its first source pixel and how many there are.
    windows: Vec<(usize, usize)>,
    /// Per result pixel `stride` weights, the first ones in use.
    weights: Vec<i32>,
    stride: usize,
}

impl Axis {
    /// The pixels `wanted` of a direction in which [`start`, `end`) of `side` source pixels becomes `scaled` pixels.
    ///
    /// Bounds are single precision, as Pillow's `box` is.
    pub fn new(side: usize, [start, end]: [f32; 2], scaled: usize, wanted: Range<usize>) -> Axis {
        let scale = f64::from(end - start) / scaled as f64;
        let stretch = scale.max(1.0);
        let reach = SUPPORT * stretch;
        let stride = 2 * reach.ceil() as usize + 1;
        let mut windows = Vec::with_capacity(wanted.len());
        let mut weights = vec![0; wanted.len() * stride];
        let mut exact = Vec::with_capacity(stride);
        for (place, weights) in wanted.zip(weights.chunks_exact_mut(stride)) {
            let centre = f64::from(start) + (place as f64 + 0.5) * scale;
            // Float to integer saturates at 0.
            let first = ((centre - reach + 0.5) as usize).min(side - 1);
            let last = ((centre + reach + 0.5) as usize).clamp(first + 1, side);
            exact.clear();
            exact.extend((first..last).map(|x| cubic((x as f64 - centre + 0.5) * (1.0 / stretch))));
            let sum: f64 = exact.iter().sum();
            for (weight, exact) in weights.iter_mut().zip(&exact) {
                *weight = (exact / sum * f64::from(1 << BITS)).round() as i32;
            }
            windows.push((first, last - first));
        }
        Axis {
            windows,
            weights,
            stride,
        }
    }

    /// Pixels of the result.
    pub fn len(&self) -> usize {
        self.windows.len()
    }

    /// The same of a picture that begins so many pixels later.
    pub fn moved(mut self, by: usize) -> Axis {
        for (first, _) in &mut self.windows {
            *first -= by;
        }
        self
    }

    /// The source pixels that any pixel of the result looks at.
    pub fn reach(&self) -> Range<usize> {
        let first = self.windows.first().map_or(0, |(first, _)| *first);
        let last = self
            .windows
            .last()
            .map_or(0, |(first, count)| first + count);
        first..last
    }

    fn windows(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let weights = self.weights.chunks_exact(self.stride);
        let windows = self.windows.iter().zip(weights);
        windows.map(|((first, count), weights)| (*first, &weights[..*count]))
    }
}

/// Buffers that are kept from picture to picture.
#[derive(Default)]
pub(super) struct Resampler {
    /// Decoded pixels of a part of a picture, which nothing here touches.
    pub part: Vec<u8>,
    /// A row's pixels, widened.
    wide: Vec<[i32; 4]>,
    /// Columns resized, rows not yet.
    narrowed: Vec<u8>,
    pixels: Vec<u8>,
    #[cfg(target_arch = "x86_64")]
    vnni: vnni::Scratch,
}

/// Buffers larger than this are given back when the next picture comes, in bytes.
const KEPT: usize = 8 << 20;

impl Resampler {
    /// Resizes packed RGB of `width` pixels a row to `columns.len() x rows.len()` pixels.
    pub fn run(&mut self, pixels: &[u8], width: usize, columns: &Axis, rows: &Axis) -> &[u8] {
        for buffer in [&mut self.part, &mut self.narrowed, &mut self.pixels] {
            if buffer.capacity() > KEPT {
                *buffer = Vec::new();
            }
        }
        let used = rows.reach();
        let source = &pixels[used.start * width * 3..used.end * width * 3];
        let new_width = columns.len() * 3;
        self.narrowed.resize(used.len() * new_width, 0);
        self.pixels.resize(rows.len() * new_width, 0);
        let pass = Pass {
            source,
            width,
            columns,
            rows,
            first_row: used.start,
        };
        #[cfg(target_arch = "x86_64")]
        if vnni::is_available() {
            // SAFETY: it is.
            unsafe { vnni::run(&pass, &mut self.vnni, &mut self.narrowed, &mut self.pixels) };
            return &self.pixels;
        }
        self.wide.resize(width, [0; 4]);
        pass.run(&mut self.wide, &mut self.narrowed, &mut self.pixels);
        &self.pixels
    }
}

/// One picture's work.
struct Pass<'a> {
    source: &'a [u8],
    width: usize,
    columns: &'a Axis,
    rows: &'a Axis,
    /// The picture's row that `source` begins with.
    first_row: usize,
}

impl Pass<'_> {
    fn run(&self, wide: &mut [[i32; 4]], narrowed: &mut [u8], out: &mut [u8]) {
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2")]
            fn avx2(pass: &Pass, wide: &mut [[i32; 4]], narrowed: &mut [u8], out: &mut [u8]) {
                pass.both(wide, narrowed, out);
            }
            if is_x86_feature_detected!("avx2") {
                // SAFETY: the processor has AVX2.
                return unsafe { avx2(self, wide, narrowed, out) };
            }
        }
        self.both(wide, narrowed, out);
    }

    /// Inlined, as is all that it calls, so that it is compiled for the vectors that its caller may use.
    #[inline(always)]
    fn both(&self, wide: &mut [[i32; 4]], narrowed: &mut [u8], out: &mut [u8]) {
        let new_width = self.columns.len() * 3;
        let rows = self.source.chunks_exact(self.width * 3);
        for (row, to) in rows.zip(narrowed.chunks_exact_mut(new_width)) {
            for (wide, pixel) in wide.iter_mut().zip(row.as_chunks::<3>().0) {
                *wide = [pixel[0].into(), pixel[1].into(), pixel[2].into(), 0];
            }
            for ((first, weights), to) in self.columns.windows().zip(to.as_chunks_mut::<3>().0) {
                let mut sums = [HALF; 4];
                for (pixel, weight) in wide[first..].iter().zip(weights) {
                    for (sum, value) in sums.iter_mut().zip(pixel) {
                        *sum += value * weight;
                    }
                }
                *to = [byte(sums[0]), byte(sums[1]), byte(sums[2])];
            }
        }
        for ((first, weights), to) in self.rows.windows().zip(out.chunks_exact_mut(new_width)) {
            let rows = &narrowed[(first - self.first_row) * new_width..];
            let (chunks, rest) = to.as_chunks_mut::<CHUNK>();
            let done = chunks.len() * CHUNK;
            for (i, to) in chunks.iter_mut().enumerate() {
                let mut sums = [HALF; CHUNK];
                for (row, weight) in rows.chunks_exact(new_width).zip(weights) {
                    for (sum, value) in sums.iter_mut().zip(&row[i * CHUNK..][..CHUNK]) {
                        *sum += i32::from(*value) * weight;
                    }
                }
                *to = sums.map(byte);
            }
            for (i, to) in rest.iter_mut().enumerate() {
                let mut sum = HALF;
                for (row, weight) in rows.chunks_exact(new_width).zip(weights) {
                    sum += i32::from(row[done + i]) * weight;
                }
                *to = byte(sum);
            }
        }
    }
}

/// The whole part of a sum, within a byte.
#[inline(always)]
fn byte(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}
