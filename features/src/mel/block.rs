//! The arithmetic of the front end: several frames side by side, from samples to log-mel.
//!
//! One lane of a vector is one transform, and a transform carries two frames, one as its real and one as its imaginary
//! part. [`Engine`] takes the widest vectors the processor has. Every lane sees the same additions and multiplications
//! in the same order whatever the width, and none are fused, so every processor gives the same bits (a test says so). A
//! library's transform (rustfft) takes one frame at a time and fuses where it can, so shards would differ by machine.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use super::vector::Vector;
use super::{FLOOR, HOP, MEL_BINS, PRE_EMPHASIS, WINDOW, filters};

/// Divides both [`WINDOW`] and [`HOP`]: sums over it make up every frame's mean.
const CHUNK: usize = 80;

/// Points of a transform.
pub(super) const FFT: usize = 512;

/// What never changes.
pub(super) struct Tables {
    window: Vec<f64>,
    /// For each radix-4 pass and each of its butterflies, w, w^2 and w^3 as (cosine, sine).
    twiddles: [Vec<[(f64, f64); 3]>; 3],
    /// Where the transform leaves each bin.
    places: Vec<usize>,
    filters: Vec<Filter>,
}

/// One triangle: its weights, from its first bin on.
pub(super) struct Filter {
    pub first: usize,
    pub weights: Vec<f64>,
}

impl Tables {
    pub fn new() -> Self {
        let window = (0..WINDOW)
            .map(|i| 0.5 - 0.5 * (2.0 * PI * i as f64 / (WINDOW - 1) as f64).cos())
            .collect();
        let twiddles = [FFT, FFT / 4, FFT / 16].map(|size| {
            let w = |power: usize| {
                let angle = -2.0 * PI * power as f64 / size as f64;
                (angle.cos(), angle.sin())
            };
            (0..size / 4).map(|k| [w(k), w(2 * k), w(3 * k)]).collect()
        });
        // Each radix-4 pass sorts bins by their remainder; what is left is in order.
        let place = |bin: usize| {
            let (mut bin, mut size, mut place) = (bin, FFT, 0);
            while size > 8 {
                size /= 4;
                place += bin % 4 * size;
                bin /= 4;
            }
            place + bin
        };
        Tables {
            window,
            twiddles,
            places: (0..FFT).map(place).collect(),
            filters: filters(),
        }
    }
}

/// Buffers for vectors of one width.
pub(super) struct Work<V> {
    emphasised: Vec<f64>,
    /// Sums over [`CHUNK`] samples.
    sums: Vec<f64>,
    spectrum: Vec<Complex<V>>,
    /// Per bin, the frames of the real parts and those of the imaginary parts.
    power: Vec<[V; 2]>,
}

/// One complex number per lane.
#[derive(Clone, Copy)]
struct Complex<V> {
    re: V,
    im: V,
}

impl<V: Vector> Work<V> {
    /// Frames at once.
    const FRAMES: usize = 2 * V::LANES;
    /// Samples under them.
    const SPAN: usize = WINDOW + (Self::FRAMES - 1) * HOP;

    pub fn new() -> Self {
        let zero = V::zero();
        Work {
            emphasised: vec![0.0; Self::SPAN],
            sums: vec![0.0; Self::SPAN / CHUNK],
            spectrum: vec![Complex { re: zero, im: zero }; FFT],
            power: vec![[zero; 2]; FFT / 2],
        }
    }

    /// Fills `out` with the log-mel values of the first `out.len() / MEL_BINS` frames, which the samples must cover.
    ///
    /// Inlined, as is all that it calls, so that it is compiled for the vectors that its caller may use.
    #[inline(always)]
    pub fn run(&mut self, tables: &Tables, samples: &[f32], out: &mut [f32]) {
        for (i, out) in out.chunks_mut(Self::FRAMES * MEL_BINS).enumerate() {
            let start = i * Self::FRAMES * HOP;
            let end = samples.len().min(start + Self::SPAN);
            self.window(&tables.window, &samples[start..end]);
            for (pass, twiddles) in tables.twiddles.iter().enumerate() {
                radix4(&mut self.spectrum, FFT >> (2 * pass), twiddles);
            }
            radix8(&mut self.spectrum);
            self.power(&tables.places);
            self.mel(&tables.filters, out);
            for value in out {
                *value = ln(value.max(FLOOR));
            }
        }
    }

    /// Windowed frames. What lies beyond the samples counts as 0 and makes frames that nobody takes.
    #[inline(always)]
    fn window(&mut self, window: &[f64], samples: &[f32]) {
        self.sums.fill(0.0);
        for (sum, chunk) in self.sums.iter_mut().zip(samples.chunks(CHUNK)) {
            *sum = sum_of(chunk);
        }
        self.emphasised.fill(0.0);
        for (out, pair) in self.emphasised[1..].iter_mut().zip(samples.windows(2)) {
            *out = f64::from(pair[1]) - PRE_EMPHASIS * f64::from(pair[0]);
        }
        let offset = |frame: usize| {
            let sums = &self.sums[frame * (HOP / CHUNK)..][..WINDOW / CHUNK];
            (1.0 - PRE_EMPHASIS) * (sums.iter().sum::<f64>() / WINDOW as f64)
        };
        let even_offsets = V::from_fn(offset);
        let odd_offsets = V::from_fn(|lane| offset(V::LANES + lane));
        let (spectrum, padding) = self.spectrum.split_at_mut(WINDOW);
        for (t, (z, &w)) in spectrum.iter_mut().zip(window).enumerate() {
            let w = V::splat(w);
            // Every frame's sample t; one range check for all of them.
            let samples = &self.emphasised[t..][..(Self::FRAMES - 1) * HOP + 1];
            let even = V::from_fn(|lane| samples[lane * HOP]);
            let odd = V::from_fn(|lane| samples[(V::LANES + lane) * HOP]);
            z.re = w.mul(even.sub(even_offsets));
            z.im = w.mul(odd.sub(odd_offsets));
        }
        padding.fill(Complex {
            re: V::zero(),
            im: V::zero(),
        });
    }

    /// Takes the two frames of each transform apart. With Z the transform of x + iy, Z[k] + conj Z[N-k] is twice the
    /// transform of x, and Z[k] - conj Z[N-k] is 2i times that of y. The last bin, 8 kHz, is in no filter.
    #[inline(always)]
    fn power(&mut self, places: &[usize]) {
        let quarter = V::splat(0.25);
        let square_sum = |x: V, y: V| quarter.mul(x.mul(x).add(y.mul(y)));
        for (bin, power) in self.power.iter_mut().enumerate() {
            let a = self.spectrum[places[bin]];
            let b = self.spectrum[places[(FFT - bin) % FFT]];
            let (sum, difference) = (a.add(b), a.sub(b));
            *power = [
                square_sum(sum.re, difference.im),
                square_sum(sum.im, difference.re),
            ];
        }
    }

    #[inline(always)]
    fn mel(&self, filters: &[Filter], out: &mut [f32]) {
        for (bin, filter) in filters.iter().enumerate() {
            let mut energy = [V::zero(); 2];
            for (&weight, power) in filter.weights.iter().zip(&self.power[filter.first..]) {
                let weight = V::splat(weight);
                energy[0] = energy[0].add(weight.mul(power[0]));
                energy[1] = energy[1].add(weight.mul(power[1]));
            }
            let frames = energy.iter().flat_map(V::lanes);
            for (frame, energy) in out.chunks_exact_mut(MEL_BINS).zip(frames) {
                frame[bin] = *energy as f32;
            }
        }
    }
}

/// Eight sums side by side: one after the other, each addition would wait for the one before it.
#[inline(always)]
fn sum_of(samples: &[f32]) -> f64 {
    let (eights, rest) = samples.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for eight in eights {
        for (sum, &sample) in sums.iter_mut().zip(eight) {
            *sum += f64::from(sample);
        }
    }
    for (sum, &sample) in sums.iter_mut().zip(rest) {
        *sum += f64::from(sample);
    }
    sums.iter().sum()
}

/// One pass of a decimation in frequency, in place: every run of `size` points becomes four runs of a quarter, one per
/// remainder of the bin by 4.
#[inline(always)]
fn radix4<V: Vector>(points: &mut [Complex<V>], size: usize, twiddles: &[[(f64, f64); 3]]) {
    for run in points.chunks_exact_mut(size) {
        let (low, high) = run.split_at_mut(size / 2);
        let (first, second) = low.split_at_mut(size / 4);
        let (third, fourth) = high.split_at_mut(size / 4);
        let quarters = first.iter_mut().zip(second).zip(third).zip(fourth);
        for ((((a, b), c), d), w) in quarters.zip(twiddles) {
            let [e0, e1, e2, e3] = four(*a, *b, *c, *d);
            *a = e0;
            *b = e1.turned_by(w[0]);
            *c = e2.turned_by(w[1]);
            *d = e3.turned_by(w[2]);
        }
    }
}

/// The last pass: transforms of 8 points, in place and in order.
#[inline(always)]
fn radix8<V: Vector>(points: &mut [Complex<V>]) {
    const S: f64 = FRAC_1_SQRT_2;
    let (runs, _) = points.as_chunks_mut::<8>();
    for run in runs {
        let [a, b, c, d, e, f, g, h] = *run;
        let [e0, e1, e2, e3] = four(a.add(e), b.add(f), c.add(g), d.add(h));
        let [o0, o1, o2, o3] = four(
            a.sub(e),
            b.sub(f).turned_by((S, -S)),
            c.sub(g).turned_back(),
            d.sub(h).turned_by((-S, -S)),
        );
        *run = [e0, o0, e1, o1, e2, o2, e3, o3];
    }
}

/// The transform of 4 points.
#[inline(always)]
fn four<V: Vector>(a: Complex<V>, b: Complex<V>, c: Complex<V>, d: Complex<V>) -> [Complex<V>; 4] {
    let (even, odd) = (a.add(c), b.add(d));
    let (difference, turned) = (a.sub(c), b.sub(d).turned_back());
    [
        even.add(odd),
        difference.add(turned),
        even.sub(odd),
        difference.sub(turned),
    ]
}

impl<V: Vector> Complex<V> {
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Complex {
            re: self.re.add(other.re),
            im: self.im.add(other.im),
        }
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Complex {
            re: self.re.sub(other.re),
            im: self.im.sub(other.im),
        }
    }

    /// Times -i.
    #[inline(always)]
    fn turned_back(self) -> Self {
        Complex {
            re: self.im,
            im: V::zero().sub(self.re),
        }
    }

    #[inline(always)]
    fn turned_by(self, (re, im): (f64, f64)) -> Self {
        let (re, im) = (V::splat(re), V::splat(im));
        Complex {
            re: self.re.mul(re).sub(self.im.mul(im)),
            im: self.re.mul(im).add(self.im.mul(re)),
        }
    }
}

/// [`Work`] for the widest vectors the processor has.
pub(super) enum Engine {
    #[cfg(target_arch = "x86_64")]
    Avx512(Box<Work<std::arch::x86_64::__m512d>>),
    #[cfg(target_arch = "x86_64")]
    Avx2(Box<Work<std::arch::x86_64::__m256d>>),
    Plain(Box<Work<f64>>),
}

impl Engine {
    pub fn new() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if crate::cpu::has_avx512() {
                return Engine::Avx512(Box::new(Work::new()));
            }
            if is_x86_feature_detected!("avx2") {
                return Engine::Avx2(Box::new(Work::new()));
            }
        }
        Engine::Plain(Box::new(Work::new()))
    }

    /// As [`Work::run`].
    pub fn run(&mut self, tables: &Tables, samples: &[f32], out: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        use std::arch::x86_64::{__m256d, __m512d};

        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f")]
        fn avx512(work: &mut Work<__m512d>, tables: &Tables, samples: &[f32], out: &mut [f32]) {
            work.run(tables, samples, out);
        }

        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2")]
        fn avx2(work: &mut Work<__m256d>, tables: &Tables, samples: &[f32], out: &mut [f32]) {
            work.run(tables, samples, out);
        }

        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: this variant is made only where the processor has AVX-512 F.
            Engine::Avx512(work) => unsafe { avx512(work, tables, samples, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: this variant is made only where the processor has AVX2.
            Engine::Avx2(work) => unsafe { avx2(work, tables, samples, out) },
            Engine::Plain(work) => work.run(tables, samples, out),
        }
    }
}

/// Natural logarithm of a positive normal number, within a step of float32. Branch-free, unlike the library's, so it
/// vectorises.
///
/// x = 2^e m with m in [sqrt 1/2, sqrt 2), and ln m = 2 artanh s with s = (m - 1) / (m + 1), |s| < 0.172: four terms of
/// the series leave 3e-9.
#[inline(always)]
fn ln(x: f32) -> f32 {
    /// Bits of sqrt 1/2.
    const ROOT: u32 = 0x3F35_04F3;
    /// ln 2 in two parts: the first has so few digits that its product with e is exact.
    const LN_2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
    let from_root = x.to_bits().wrapping_sub(ROOT);
    let e = (from_root as i32 >> 23) as f32;
    let m = f32::from_bits((from_root & 0x007F_FFFF) + ROOT);
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let series = z * (1.0 / 3.0 + z * (1.0 / 5.0 + z * (1.0 / 7.0 + z * (1.0 / 9.0))));
    e * LN_2.0 + (e * LN_2.1 + 2.0 * (s + s * series))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAMES: usize = 37;

    fn samples() -> Vec<f32> {
        let samples = WINDOW + (FRAMES - 1) * HOP + 50;
        (0..samples)
            .map(|i| ((i * i) as f32 * 0.001).sin() * (i as f32 / samples as f32))
            .collect()
    }

    fn log_mel(mut engine: Engine) -> Vec<u32> {
        let mut out = vec![0.0f32; FRAMES * MEL_BINS];
        engine.run(&Tables::new(), &samples(), &mut out);
        out.into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn every_width_gives_the_same_bits() {
        let plain = log_mel(Engine::Plain(Box::new(Work::new())));
        assert!(plain == log_mel(Engine::new()));
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            assert!(plain == log_mel(Engine::Avx2(Box::new(Work::new()))));
        }
    }

    #[test]
    fn powers_are_those_of_the_defining_sum() {
        let (tables, mut work, samples) = (Tables::new(), Work::<f64>::new(), samples());
        let mut out = vec![0.0; 2 * MEL_BINS];
        for first in [0, 6, 30] {
            work.run(&tables, &samples[first * HOP..], &mut out);
            for frame in 0..2 {
                let x: Vec<f64> = samples[(first + frame) * HOP..][..WINDOW]
                    .iter()
                    .map(|&x| x.into())
                    .collect();
                let mean = x.iter().sum::<f64>() / WINDOW as f64;
                let windowed = |i: usize| {
                    let before = x[i.saturating_sub(1)] - mean;
                    tables.window[i] * (x[i] - mean - PRE_EMPHASIS * before)
                };
                for bin in 0..FFT / 2 {
                    let (mut re, mut im) = (0.0, 0.0);
                    for i in 0..WINDOW {
                        let angle = -2.0 * PI * (bin * i % FFT) as f64 / FFT as f64;
                        re += windowed(i) * angle.cos();
                        im += windowed(i) * angle.sin();
                    }
                    let (want, got) = (re * re + im * im, work.power[bin][frame]);
                    let off = (want - got).abs();
                    assert!(off < 1e-12 * want.max(1.0), "{frame} {bin}: {want} {got}");
                }
            }
        }
    }

    #[test]
    fn logarithms_are_close() {
        let (mut worst, mut x) = (0.0f64, f32::EPSILON);
        while x < 1e6 {
            worst = worst.max((f64::from(ln(x)) - f64::from(x).ln()).abs());
            x *= 1.000_1;
        }
        assert!(worst < 1e-6, "{worst}");
        assert_eq!(ln(1.0), 0.0);
    }
}
