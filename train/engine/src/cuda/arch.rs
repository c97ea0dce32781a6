//! The compute capability that a program's kernels were compiled for.

/// Returns the number in the name of a compute capability, as nvcc writes it: `90` is 9.0, and
/// `90a` is 9.0 with the features that no later one has.
pub(super) fn number(name: &str) -> u32 {
    let end = name.find(|c: char| !c.is_ascii_digit());
    let digits = &name[..end.unwrap_or(name.len())];
    // A name without a number fits no GPU; nvcc would not have compiled for it.
    digits.parse().unwrap_or(u32::MAX)
}

/// Checks that a GPU of the given compute capability, major and minor number, runs kernels that
/// were compiled for `name`. Later GPUs run them too, unless they use the features of one alone
/// (`a`) or of one major number (`f`).
///
/// # Errors
/// It does not; the message says how to build.
pub(super) fn check(name: &str, (major, minor): (u32, u32)) -> Result<(), String> {
    let (built, own) = (number(name), major * 10 + minor);
    let runs = match name.as_bytes().last() {
        Some(b'a') => own == built,
        Some(b'f') => own >= built && major == built / 10,
        _ => own >= built,
    };
    match runs {
        true => Ok(()),
        false => Err(format!(
            "it is sm_{own}, this program was built for sm_{name}: build with `just build-cuda --arch {own}`"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn later_gpus_run_kernels_and_earlier_ones_do_not() {
        for (name, capability, expected) in [
            ("90", (9, 0), true),
            ("90", (10, 0), true),
            ("90", (8, 9), false),
            ("75", (7, 5), true),
            ("90a", (9, 0), true),
            ("90a", (10, 0), false),
            ("100f", (10, 3), true),
            ("100f", (12, 0), false),
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
