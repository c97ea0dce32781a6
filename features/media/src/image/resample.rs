//! Pillow's bicubic resize (`libImaging/Resample.c`) with the same bytes, as CLIP's own
//! preprocessing resizes images.
//!
//! A horizontal pass, then a vertical one. Each sums bytes times weights of 22 fractional bits and
//! rounds to a byte. All of that is in integers, so the result is the same on every processor. (For
//! images many times as tall as wide Pillow 13 does the vertical pass first where that is less
//! work; here the order never changes.)

#[cfg(target_arch = "x86_64")]
mod avx2;

use std::cell::RefCell;
use std::ops::Range;

/// The radius of the filter at full size, in pixels.
const SUPPORT: f64 = 2.0;
/// The fractional bits of a weight: a byte, the overshoot of the filter and the sign fit the rest
/// of 32.
const BITS: u32 = 22;
/// One half, which rounds a sum when it loses its fractional bits.
const HALF: i32 = 1 << (BITS - 1);

/// Keys's cubic convolution kernel with a = -0.5.
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

/// The weights of one direction: how each pixel of the result is a sum of source pixels.
pub(super) struct Axis {
    /// The first source pixel and the number of source pixels of each result pixel.
    windows: Vec<(usize, usize)>,
    /// `stride` weights for each result pixel, of which the first ones are used.
    weights: Vec<i32>,
    stride: usize,
}

impl Axis {
    /// Returns the weights of the result pixels `wanted`, where the interval from `start` to `end`
    /// of `side` source pixels becomes `scaled` pixels. Bounds are single precision, as Pillow's
    /// `box` is.
    pub fn new(side: usize, [start, end]: [f32; 2], scaled: usize, wanted: Range<usize>) -> Axis {
        let scale = f64::from(end - start) / scaled as f64;
        let stretch = scale.max(1.0);
        let support = SUPPORT * stretch;
        let stride = 2 * support.ceil() as usize + 1;
        let mut windows = Vec::with_capacity(wanted.len());
        let mut weights = vec![0; wanted.len() * stride];
        let mut exact = Vec::with_capacity(stride);
        for (pixel, weights) in wanted.zip(weights.chunks_exact_mut(stride)) {
            let centre = f64::from(start) + (pixel as f64 + 0.5) * scale;
            // Float to integer saturates at 0.
            let first = ((centre - support + 0.5) as usize).min(side - 1);
            let last = ((centre + support + 0.5) as usize).clamp(first + 1, side);
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

    /// Returns the number of result pixels.
    pub fn len(&self) -> usize {
        self.windows.len()
    }

    /// Returns the same weights for an image whose first `pixels` source pixels are left out.
    pub fn shifted(mut self, pixels: usize) -> Axis {
        for (first, _) in &mut self.windows {
            *first -= pixels;
        }
        self
    }

    /// Returns the source pixels from the first to the last one that the result depends on.
    pub fn source(&self) -> Range<usize> {
        let first = self.windows.first().map_or(0, |(first, _)| *first);
        let last = self
            .windows
            .last()
            .map_or(0, |(first, count)| first + count);
        first..last
    }

    /// Iterates over the result pixels: the first source pixel, and the weights from there on.
    fn windows(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let weights = self.weights.chunks_exact(self.stride);
        let windows = self.windows.iter().zip(weights);
        windows.map(|((first, count), weights)| (*first, &weights[..*count]))
    }
}

/// Returns width and height once the shorter side is `shorter`, the longer one rounded down.
pub(super) fn scaled_size(width: usize, height: usize, shorter: usize) -> (usize, usize) {
    let short = width.min(height);
    (shorter * width / short, shorter * height / short)
}

/// Buffers larger than this are freed when the next image comes, in bytes.
pub(super) const MAX_KEPT_BYTES: usize = 8 << 20;

thread_local! {
    /// Each thread's buffers.
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

/// The buffers that are reused from image to image.
#[derive(Default)]
struct Buffers {
    /// The image after the horizontal pass.
    narrowed: Vec<u8>,
    /// The sums of a row of the vertical pass.
    sums: Vec<i32>,
    /// The result.
    pixels: Vec<u8>,
    #[cfg(target_arch = "x86_64")]
    avx2: avx2::Scratch,
}

/// Resizes packed RGB of `width` pixels per row to `columns.len() x rows.len()` pixels, which
/// `consume` reads.
pub(super) fn resized<T>(
    pixels: &[u8],
    width: usize,
    columns: &Axis,
    rows: &Axis,
    consume: impl FnOnce(&[u8]) -> T,
) -> T {
    BUFFERS.with_borrow_mut(|buffers| {
        buffers.resize(pixels, width, columns, rows);
        consume(&buffers.pixels)
    })
}

impl Buffers {
    fn resize(&mut self, pixels: &[u8], width: usize, columns: &Axis, rows: &Axis) {
        for buffer in [&mut self.narrowed, &mut self.pixels] {
            if buffer.capacity() > MAX_KEPT_BYTES {
                *buffer = Vec::new();
            }
        }
        let used = rows.source();
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
            return;
        }
        pass.run(&mut self.narrowed, &mut self.sums, &mut self.pixels);
    }
}

/// The input of both passes over one image.
struct Pass<'a> {
    source: &'a [u8],
    width: usize,
    columns: &'a Axis,
    rows: &'a Axis,
    /// The number of the row that `source` begins with.
    first_row: usize,
}

impl Pass<'_> {
    /// Runs both passes with portable loops, which the vector code has to equal.
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

/// Returns the whole part of a sum, limited to a byte.
fn byte(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}
