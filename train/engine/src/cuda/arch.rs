//! The compute capability that a program's kernels were compiled for.

/// The first compute capability for which candle's kernels are made with the features of that one
/// alone, as if it were named with an `a`: no other GPU runs them.
const FIRST_EXACT: u32 = 90;

/// Returns the number in the name of a compute capability, as nvcc writes it: `90` is 9.0, and
/// `90a` is 9.0 with the features that no later one has.
pub(super) fn number(name: &str) -> u32 {
    let end = name.find(|c: char| !c.is_ascii_digit());
    let digits = &name[..end.unwrap_or(name.len())];
    // A name without a number fits no GPU; nvcc would not have compiled for it.
    digits.parse().unwrap_or(u32::MAX)
}

/// Checks that a GPU of the given compute capability, major and minor number, runs kernels that
/// were compiled for `name`. Later GPUs run those for earlier ones, below [`FIRST_EXACT`] and
/// without a suffix.
///
/// # Errors
/// It does not; the message says how to build.
pub(super) fn check(name: &str, (major, minor): (u32, u32)) -> Result<(), String> {
    let (built, own) = (number(name), major * 10 + minor);
    let is_exact = built >= FIRST_EXACT || name.ends_with(|c: char| !c.is_ascii_digit());
    let runs = own == built || !is_exact && own > built;
    match runs {
        true => Ok(()),
        false => Err(format!(
            "it is sm_{own}, this program was built for sm_{name}: build with `just build-cuda --arch {own}`"
        )),
    }
}

/// Returns the bytes of the workspace that cuBLAS allocates for itself, as NVIDIA documents it
/// (`cublasSetWorkspace`), on a GPU whose compute capability has this major number.
pub(super) fn cublas_workspace(major: i32) -> u64 {
    match major {
        ..9 => 4 << 20,
        _ => 32 << 20,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cublas_has_a_larger_workspace_from_hopper_on() {
        for (major, mebibytes) in [(7, 4), (8, 4), (9, 32), (10, 32)] {
            assert_eq!(cublas_workspace(major), mebibytes << 20);
        }
    }

    #[test]
    fn names_with_and_without_a_suffix_are_numbers() {
        for (name, expected) in [
            ("75", 75),
            ("90", 90),
            ("90a", 90),
            ("120f", 120),
            ("", u32::MAX),
            ("a90", u32::MAX),
        ] {
            assert_eq!(number(name), expected, "{name}");
        }
    }

    #[test]
    fn later_gpus_run_only_kernels_without_features_of_one_gpu() {
        for (name, capability, expected) in [
            ("90", (9, 0), true),
            ("90", (9, 0), true),
            ("90", (8, 9), false),
            ("90", (10, 0), false),
            ("75", (7, 5), true),
            ("80", (8, 9), true),
            ("80", (9, 0), true),
            ("90a", (9, 0), true),
            ("90a", (10, 0), false),
        ] {
            assert_eq!(
                check(name, capability).is_ok(),
                expected,
                "{name} {capability:?}"
            );
        }
        let refused = check("90a", (8, 0)).unwrap_err();
        assert!(
            refused.contains("it is sm_80, this program was built for sm_90a")
                && refused.contains("`just build-cuda --arch 80`"),
            "{refused}"
        );
    }
}
