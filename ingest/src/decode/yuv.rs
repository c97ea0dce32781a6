//! YUV 4:2:0 of 8 bits to packed RGB of the same size, bit for bit as libswscale does it with bicubic chroma, exact
//! rounding and chroma at full width (which it has plain C for alone): what nearly every clip needs, three times as fast.
//!
//! Chroma lies in the middle of four pixels, so each pixel is a quarter off and two sets of four weights do, one the other
//! backwards. libswscale's numbers: 14 bits across, 12 bits down, 9 more bits than a byte has before the colour matrix,
//! 13 bits in that.
//!
//! `unsafe` is the call of what is compiled for AVX2, after asking for it, and what brings the colours together, whose shuffles compilers do not find.

/// The cubic with a = -0.6 at distances of 7, 3, 1 and 5 quarters, in 14 bits; what rounding leaves goes to the next.
const ACROSS: [i32; 4] = [-461, 3943, 14284, -1382];
/// The same in 12 bits.
const DOWN: [i32; 4] = [-115, 985, 3572, -346];
/// The first and the third column and row lack the farthest of the four: libswscale rounds a negative place towards 0.
const ACROSS_AT_START: [i32; 4] = [0, 3835, 13894, -1345];
/// The same in 12 bits.
const DOWN_AT_START: [i32; 4] = [0, 959, 3473, -336];
/// Rows of chroma that are kept: more than the five that two rows of pixels need.
const RING: usize = 8;
/// Smallest side of chroma: libswscale treats very small pictures in other ways.
const LEAST: usize = 16;

/// A plane and the bytes from row to row.
#[derive(Clone, Copy)]
pub struct Plane<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// From one row to the next.
    pub stride: usize,
}

/// A picture of an even number of rows and columns.
pub struct Picture<'a> {
    /// Y, U, V.
    pub planes: [Plane<'a>; 3],
    /// Of Y.
    pub width: usize,
    /// Of Y.
    pub height: usize,
}

/// From Y, U and V to R, G and B, in 13 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matrix {
    y: i32,
    /// Black, in 9 bits more than a byte.
    black: i32,
    v_to_r: i32,
    v_to_g: i32,
    u_to_g: i32,
    u_to_b: i32,
}

impl Matrix {
    /// Of libswscale's table for a colour space: red of V, blue of U, green of U and of V, in 16 bits, for the narrow
    /// range.
    pub fn new(table: [i32; 4], full_range: bool) -> Matrix {
        let [v_to_r, u_to_b, u_to_g, v_to_g] = table.map(i64::from);
        let wide = |value: i64| if full_range { value * 224 / 255 } else { value };
        let bits = |value: i64| ((value * (1 << 13) + (1 << 15)) >> 16) as i32;
        Matrix {
            y: bits(if full_range {
                1 << 16
            } else {
                (1 << 16) * 255 / 219
            }),
            black: if full_range { 0 } else { 16 << 9 },
            v_to_r: bits(wide(v_to_r)),
            v_to_g: bits(wide(-v_to_g)),
            u_to_g: bits(wide(-u_to_g)),
            u_to_b: bits(wide(u_to_b)),
        }
    }
}

/// Whether a picture of this size is converted here.
pub fn fits(width: usize, height: usize) -> bool {
    let fits = |side: usize| side.is_multiple_of(2) && side / 2 >= LEAST;
    fits(width) && fits(height)
}

/// Buffers that are kept from picture to picture.
#[derive(Default)]
pub struct Converter {
    /// A row of chroma, its ends repeated.
    padded: Vec<i32>,
    /// [`RING`] rows of U and V at full width.
    rows: [Vec<i16>; 2],
}

impl Converter {
    /// The RGB bytes of a picture that [`fits`].
    pub fn convert(&mut self, picture: &Picture, matrix: &Matrix) -> Vec<u8> {
        for rows in &mut self.rows {
            rows.resize(RING * picture.width, 0);
        }
        self.padded.resize(picture.width / 2 + 4, 0);
        let mut rgb = vec![0; 3 * picture.width * picture.height];
        self.run(picture, matrix, &mut rgb);
        rgb
    }

    fn run(&mut self, picture: &Picture, matrix: &Matrix, rgb: &mut [u8]) {
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2")]
            fn avx2(converter: &mut Converter, picture: &Picture, matrix: &Matrix, rgb: &mut [u8]) {
                converter.plain::<true>(picture, matrix, rgb);
            }
            if is_x86_feature_detected!("avx2") {
                // SAFETY: the processor has AVX2.
                return unsafe { avx2(self, picture, matrix, rgb) };
            }
        }
        self.plain::<false>(picture, matrix, rgb);
    }

    /// Inlined, as is all that it calls, so that it is compiled for the vectors that its caller may use: those of AVX2 with
    /// `VECTORS`.
    #[inline(always)]
    fn plain<const VECTORS: bool>(&mut self, picture: &Picture, matrix: &Matrix, rgb: &mut [u8]) {
        let (width, last) = (picture.width, picture.height / 2 - 1);
        let mut ready = 0;
        for (pair, rgb) in rgb.chunks_exact_mut(6 * width).enumerate() {
            while ready <= last.min(pair + 2) {
                for (rows, plane) in self.rows.iter_mut().zip(&picture.planes[1..]) {
                    let row = &plane.bytes[ready * plane.stride..][..width / 2];
                    widen(
                        row,
                        &mut self.padded,
                        &mut rows[ready % RING * width..][..width],
                    );
                }
                ready += 1;
            }
            // Above the middle of a row of chroma, then below it.
            let up = if pair < 2 { DOWN_AT_START } else { DOWN };
            let [a, b, c, d] = DOWN;
            let halves = rgb.chunks_exact_mut(3 * width).zip([up, [d, c, b, a]]);
            for (half, (rgb, weights)) in halves.enumerate() {
                let taps: [usize; 4] = std::array::from_fn(|tap| {
                    (pair + half + tap).saturating_sub(2).min(last) % RING
                });
                let y = &picture.planes[0];
                let luma = &y.bytes[(2 * pair + half) * y.stride..][..width];
                let [u, v] = &self.rows;
                let u = taps.map(|tap| &u[tap * width..][..width]);
                let v = taps.map(|tap| &v[tap * width..][..width]);
                colour::<VECTORS>(luma, u, v, weights, matrix, rgb);
            }
        }
    }
}

/// A row of chroma at full width, 7 bits more than a byte.
#[inline(always)]
fn widen(row: &[u8], padded: &mut [i32], wide: &mut [i16]) {
    let n = row.len();
    let (first, last) = (i32::from(row[0]), i32::from(row[n - 1]));
    padded[..2].fill(first);
    padded[n + 2..].fill(last);
    for (to, from) in padded[2..].iter_mut().zip(row) {
        *to = i32::from(*from);
    }
    let [a, b, c, d] = ACROSS;
    let most = i32::from(i16::MAX);
    for (k, to) in wide.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        let near: &[i32; 5] = match padded[k..].first_chunk() {
            Some(near) => near,
            None => return,
        };
        let left = a * near[0] + b * near[1] + c * near[2] + d * near[3];
        let right = d * near[1] + c * near[2] + b * near[3] + a * near[4];
        *to = [(left >> 7).min(most) as i16, (right >> 7).min(most) as i16];
    }
    let [_, b, c, d] = ACROSS_AT_START;
    for k in 0..2 {
        let left = b * padded[k + 1] + c * padded[k + 2] + d * padded[k + 3];
        wide[2 * k] = (left >> 7).min(most) as i16;
    }
}

/// Pixels that are coloured at once.
const CHUNK: usize = 16;

/// A row of pixels.
#[inline(always)]
fn colour<const VECTORS: bool>(
    luma: &[u8],
    u: [&[i16]; 4],
    v: [&[i16]; 4],
    weights: [i32; 4],
    matrix: &Matrix,
    rgb: &mut [u8],
) {
    for (number, rgb) in rgb.chunks_mut(3 * CHUNK).enumerate() {
        let at = number * CHUNK;
        let (y, u, v) = (
            part(luma, at),
            chroma(u, at, weights),
            chroma(v, at, weights),
        );
        let mut planes = [[0; CHUNK]; 3];
        let [red, green, blue] = &mut planes;
        for i in 0..CHUNK {
            let y = ((i32::from(y[i]) << 9) - matrix.black) * matrix.y + (1 << 21);
            // What leaves 32 bits comes round, as it does there.
            let (u, v) = (u[i], v[i]);
            let by_u = u.wrapping_mul(matrix.u_to_g);
            red[i] = y.wrapping_add(v.wrapping_mul(matrix.v_to_r));
            green[i] = y
                .wrapping_add(v.wrapping_mul(matrix.v_to_g))
                .wrapping_add(by_u);
            blue[i] = y.wrapping_add(u.wrapping_mul(matrix.u_to_b));
        }
        match rgb.as_chunks_mut::<{ 3 * CHUNK }>() {
            ([rgb], _) => *rgb = interleaved::<VECTORS>(&planes),
            (_, rest) => {
                let all = interleaved::<VECTORS>(&planes);
                rest.copy_from_slice(&all[..rest.len()]);
            }
        }
    }
}

/// So many values of a row, zeros behind its end.
#[inline(always)]
fn part<T: Copy + Default>(row: &[T], at: usize) -> [T; CHUNK] {
    let row = &row[at..];
    if let Some(whole) = row.first_chunk() {
        return *whole;
    }
    let mut out = [T::default(); CHUNK];
    out[..row.len()].copy_from_slice(row);
    out
}

/// Chroma between four rows, 9 bits more than a byte, less its middle.
#[inline(always)]
fn chroma(rows: [&[i16]; 4], at: usize, weights: [i32; 4]) -> [i32; CHUNK] {
    let mut sums = [(1 << 9) - (128 << 19); CHUNK];
    for (row, weight) in rows.iter().zip(weights) {
        for (sum, value) in sums.iter_mut().zip(part(row, at)) {
            *sum += i32::from(value) * weight;
        }
    }
    for sum in &mut sums {
        *sum >>= 10;
    }
    sums
}

/// The whole parts of red, green and blue, each within a byte, pixel by pixel.
#[inline(always)]
fn interleaved<const VECTORS: bool>(sums: &[[i32; CHUNK]; 3]) -> [u8; 3 * CHUNK] {
    #[cfg(target_arch = "x86_64")]
    if VECTORS {
        // SAFETY: the caller says that the processor has AVX2.
        return unsafe { interleaved_avx2(sums) };
    }
    let mut out = [0; 3 * CHUNK];
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = (sums[i % 3][i / 3] >> 22).clamp(0, 255) as u8;
    }
    out
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn interleaved_avx2(sums: &[[i32; CHUNK]; 3]) -> [u8; 3 * CHUNK] {
    use std::arch::x86_64::*;
    /// For each 16 bytes of the result and each plane, the byte of the plane that comes there; none is 0x80.
    const PLACES: [[[u8; 16]; 3]; 3] = {
        let mut places = [[[0x80; 16]; 3]; 3];
        let mut i = 0;
        while i < 48 {
            places[i / 16][i % 3][i % 16] = (i / 3) as u8;
            i += 1;
        }
        places
    };
    let plane = |sums: &[i32; CHUNK]| {
        // SAFETY: two loads of 32 bytes from 64.
        let (low, high) = unsafe {
            let at = sums.as_ptr().cast::<__m256i>();
            (_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1)))
        };
        let whole = |sums| _mm256_srai_epi32::<22>(sums);
        let words = _mm256_packs_epi32(whole(low), whole(high));
        let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
        _mm_packus_epi16(
            _mm256_castsi256_si128(words),
            _mm256_extracti128_si256::<1>(words),
        )
    };
    let planes = [plane(&sums[0]), plane(&sums[1]), plane(&sums[2])];
    let mut out = [0; 3 * CHUNK];
    for (to, places) in out.as_chunks_mut::<16>().0.iter_mut().zip(&PLACES) {
        let placed = |i: usize| {
            // SAFETY: a load of 16 bytes.
            let places = unsafe { _mm_loadu_si128(places[i].as_ptr().cast()) };
            _mm_shuffle_epi8(planes[i], places)
        };
        let all = _mm_or_si128(_mm_or_si128(placed(0), placed(1)), placed(2));
        // SAFETY: a store of 16 bytes.
        unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), all) };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn vectors_equal_the_plain_loop() {
        if is_x86_feature_detected!("avx2") {
            let sum =
                |p: usize, i: usize| ((p as i32 * 16 + i as i32 * 9 - 20) << 22) + i as i32 - 5;
            let planes = std::array::from_fn(|p| std::array::from_fn(|i| sum(p, 2 * i)));
            assert_eq!(interleaved::<true>(&planes), interleaved::<false>(&planes));
        }
    }
}
