//! Blocks of 8 x 8 values: what reading and writing JPEGs share. A constant `LEVEL` of the functions for blocks says what
//! their caller was compiled for: [`PLAIN`] or [`AVX2`].

/// Where the coefficients of a block stand, in the order of the file.
pub(super) const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20,
    13, 6, 7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59,
    52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// A constant of the cosine transforms in libjpeg's fixed point: 13 bits.
pub(super) const fn fixed(x: f64) -> i32 {
    (x * 8192.0 + 0.5) as i32
}

const C: i32 = fixed(1.175_875_602);
const C1: i32 = fixed(0.899_976_223);
const C2: i32 = fixed(2.562_915_447);
const C3: i32 = C - fixed(1.961_570_56);
const C4: i32 = C - fixed(0.390_180_644);
const E: i32 = fixed(0.541_196_1);

/// The odd part of the transforms: from coefficients 1, 3, 5 and 7 to what the results have beside the even part, and, as
/// it is symmetrical, back from the differences of opposite values.
pub(super) const ODD: [[i32; 4]; 4] = [
    [fixed(1.501_321_11) - C1 + C4, C, C4, C - C1],
    [C, fixed(3.072_711_026) - C2 + C3, C - C2, C3],
    [C4, C - C2, fixed(2.053_119_869) - C2 + C4, C],
    [C - C1, C3, C, fixed(0.298_631_336) - C1 + C3],
];
/// The same of coefficients 2 and 6 within the even part.
pub(super) const EVEN: [[i32; 2]; 2] =
    [[E + fixed(0.765_366_865), E], [E, E - fixed(1.847_759_065)]];

/// No vectors.
pub(super) const PLAIN: u8 = 0;
/// AVX2.
#[cfg(target_arch = "x86_64")]
pub(super) const AVX2: u8 = 1;
