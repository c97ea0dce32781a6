//! Which of the processor's vector instructions the code of this workspace may use.
//!
//! The environment variable [`VARIABLE`] hides those wider than AVX2, so that one machine can test
//! and measure the code that others run, and a program can hide some with [`limit`]. Both affect the code of this workspace alone;
//! `docs/benchmarks.md` lists the switches of libraries with vector code.

use std::fmt;
use std::sync::{LazyLock, OnceLock};

/// The environment variable that names the widest vector instructions to use: `avx2`, `avx512` or
/// `amx`. If it is unset or empty, all that the processor has are used.
pub const VARIABLE: &str = "U2A_CPU";

/// The levels of x86-64 vector instructions; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// AVX2 and what came with it: BMI1, BMI2, LZCNT, FMA.
    Avx2,
    /// AVX-512 with all its extensions, such as bf16 dot products.
    Avx512,
    /// The tile unit.
    Amx,
}

/// The value of [`VARIABLE`] at the start of the program.
static ALLOWED: LazyLock<Result<Level, UnknownLevel>> = LazyLock::new(|| {
    let value = std::env::var_os(VARIABLE).unwrap_or_default();
    parse(&value.to_string_lossy())
});

/// A value of [`VARIABLE`] that names no level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownLevel(String);

impl fmt::Display for UnknownLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the environment variable {VARIABLE} is '{}'; set it to avx2, avx512 or amx, or unset it",
            self.0
        )
    }
}

impl std::error::Error for UnknownLevel {}

fn parse(value: &str) -> Result<Level, UnknownLevel> {
    match value {
        "avx2" => Ok(Level::Avx2),
        "avx512" => Ok(Level::Avx512),
        "" | "amx" => Ok(Level::Amx),
        other => Err(UnknownLevel(other.to_string())),
    }
}

/// Refuses a value of [`VARIABLE`] that names no level. Programs call it when they start.
///
/// # Errors
/// The variable holds another value than the allowed ones, which the message names.
pub fn check() -> Result<(), UnknownLevel> {
    match &*ALLOWED {
        Ok(_) => Ok(()),
        Err(unknown) => Err(unknown.clone()),
    }
}

/// The level that the program itself has named.
static LIMIT: OnceLock<Level> = OnceLock::new();

/// Hides the instructions above this level from the whole process. A program calls it before it
/// computes anything; later calls have no effect.
pub fn limit(level: Level) {
    LIMIT.get_or_init(|| level);
}

/// Whether the instructions of this level may be used, if the processor has them. A value that
/// [`check`] refuses hides nothing.
#[inline]
pub fn allows(level: Level) -> bool {
    let allowed = *ALLOWED.as_ref().unwrap_or(&Level::Amx);
    level <= LIMIT.get().map_or(allowed, |limit| allowed.min(*limit))
}

/// Whether the processor has the AVX-512 of every server since Skylake (F, BW, DQ and VL), and it
/// may be used.
#[inline]
pub fn has_avx512() -> bool {
    #[cfg(target_arch = "x86_64")]
    return allows(Level::Avx512)
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_name_levels_in_order() {
        let levels = ["avx2", "avx512", "amx", ""].map(|value| parse(value).unwrap());
        assert_eq!(levels, [Level::Avx2, Level::Avx512, Level::Amx, Level::Amx]);
        assert!(levels.is_sorted());
        for wrong in ["AVX2", "avx-512", "sse2", " avx2"] {
            let problem = parse(wrong).unwrap_err().to_string();
            assert!(problem.contains(VARIABLE) && problem.contains(wrong));
        }
    }
}
