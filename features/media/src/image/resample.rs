//! Pillow's bicubic resize (`libImaging/Resample.c`) with the same bytes: what CLIP's own preprocessing makes of an image.
//!
//! A horizontal pass, then a vertical one. Each sums bytes times weights of 22 fractional bits and rounds to a byte. All
//! of that is in integers, so the result is the same on every processor. (For images many times as tall as wide
//! Pillow 13 takes the vertical pass first where that is less work; here the order never changes.)

#[cfg(target_arch = "x86_64")]
mod avx2;

use std::ops::Range;

/// How far the filter reaches at full size, in pixels.
const SUPPORT: f64 = 2.0;
/// Fractional bits of a weight: a byte, the overshoot of the filter and the sign fit the rest of 32.
const BITS: u32 = 22;
/// What rounds a sum when it loses its fractional bits.
const HALF: i32 = 1 << (BITS - 1);

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

    /// The same for an image that begins so many pixels later.
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

/// Buffers that are kept from image to image.
#[derive(Default)]
pub(super) struct Resampler {
    /// Decoded pixels of a part of an image, which nothing here touches.
    pub part: Vec<u8>,
    /// The image after the horizontal pass.
    narrowed: Vec<u8>,
    /// The sums of a row of the vertical pass.
    sums: Vec<i32>,
    pixels: Vec<u8>,
    #[cfg(target_arch = "x86_64")]
    avx2: avx2::Scratch,
}

/// Buffers larger than this are given back when the next image comes, in bytes.
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
        self.pixels.resize(rows.len() * columns.len() * 3, 0);
        let pass = Pass {
            source: &pixels[used.start * width * 3..used.end * width * 3],
            width,
            columns,
            rows,
            first_row: used.start,
        };
        #[cfg(target_arch = "x86_64")]
        if avx2::run(&pass, &mut self.avx2, &mut self.narrowed, &mut self.pixels) {
            return &self.pixels;
        }
        pass.run(&mut self.narrowed, &mut self.sums, &mut self.pixels);
        &self.pixels
    }
}

/// One image's work.
struct Pass<'a> {
    source: &'a [u8],
    width: usize,
    columns: &'a Axis,
    rows: &'a Axis,
    /// The image's row that `source` begins with.
    first_row: usize,
}

impl Pass<'_> {
    /// What every processor can do, and what the vectors have to equal.
    fn run(&self, narrowed: &mut Vec<u8>, sums: &mut Vec<i32>, out: &mut [u8]) {
        let (row, new_row) = (self.width * 3, self.columns.len() * 3);
        narrowed.resize(self.source.len() / row * new_row, 0);
        let rows = self.source.chunks_exact(row);
        for (row, to) in rows.zip(narrowed.chunks_exact_mut(new_row)) {
            let row = row.as_chunks::<3>().0;
            for ((first, weights), to) in self.columns.windows().zip(to.as_chunks_mut::<3>().0) {
                let mut sums = [HALF; 3];
                for (pixel, weight) in row[first..].iter().zip(weights) {
                    for (sum, value) in sums.iter_mut().zip(pixel) {
                        *sum += i32::from(*value) * weight;
                    }
                }
                *to = sums.map(byte);
            }
        }
        for ((first, weights), to) in self.rows.windows().zip(out.chunks_exact_mut(new_row)) {
            let rows = narrowed[(first - self.first_row) * new_row..].chunks_exact(new_row);
            sums.clear();
            sums.resize(new_row, HALF);
            for (row, weight) in rows.zip(weights) {
                for (sum, value) in sums.iter_mut().zip(row) {
                    *sum += i32::from(*value) * weight;
                }
            }
            for (to, sum) in to.iter_mut().zip(sums.iter()) {
                *to = byte(*sum);
            }
        }
    }
}

/// The whole part of a sum, within a byte.
fn byte(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}
