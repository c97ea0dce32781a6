//! Skipped tests, reported so that they are seen although `cargo test` captures what a passing test
//! prints.

use std::fmt::Display;
use std::fs::File;
use std::io::Write;
use std::panic::Location;
use std::path::{Path, PathBuf};

/// The environment variable that names a file, to which a line is appended for each skipped test.
const LIST_VARIABLE: &str = "U2A_SKIPS";

/// The environment variable that makes missing material a failure where it is `all`.
const REQUIRE_VARIABLE: &str = "U2A_REQUIRE";

/// The kind of thing that a skipped test lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Files that lie beside a checkout, or a program that `./setup` installs. Their absence is a
    /// failure where `U2A_REQUIRE=all` is set.
    Material,
    /// Hardware, a kernel feature, a permission, or a program that `./setup` does not install.
    /// Their absence is never a failure.
    Platform,
}

/// Reports that the calling test, or a part of it, is skipped; the test returns by itself.
///
/// Prints `skipped TEST: reason` on standard error and appends that line to the file that the
/// environment variable `U2A_SKIPS` names.
///
/// # Panics
/// `U2A_REQUIRE` is `all` and material is missing, or the file cannot be written.
#[track_caller]
pub fn skip(missing: Missing, reason: impl Display) {
    let line = format!("skipped {}: {reason}", test_name());
    eprintln!("{line}");
    if let Some(path) = std::env::var_os(LIST_VARIABLE) {
        let list = File::options().append(true).create(true).open(&path);
        if let Err(e) = list.and_then(|mut list| list.write_all(format!("{line}\n").as_bytes())) {
            panic!("{}: {e}", path.display());
        }
    }
    let required = std::env::var(REQUIRE_VARIABLE).unwrap_or_default();
    assert!(
        !is_failure(missing, &required),
        "{line}; {REQUIRE_VARIABLE}={required} makes this a failure"
    );
}

/// The path of real material beside the checkout: `../shared/NAME`. Where it is missing, the
/// calling test is reported as skipped.
#[track_caller]
pub fn shared(name: &str) -> Option<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    if let Ok(path) = workspace.join("../shared").join(name).canonicalize() {
        return Some(path);
    }
    skip(
        Missing::Material,
        format_args!("no ../shared/{name} beside the checkout"),
    );
    None
}

/// The name of the running test, which is that of its thread; the caller's place in the source
/// where the thread is not a test's own.
#[track_caller]
fn test_name() -> String {
    let place = Location::caller();
    match std::thread::current().name() {
        Some(name) if name != "main" => name.to_owned(),
        _ => format!("{}:{}", place.file(), place.line()),
    }
}

/// Whether a skip fails the test, by the value of `U2A_REQUIRE`.
fn is_failure(missing: Missing, required: &str) -> bool {
    match required {
        "" => false,
        "all" => missing == Missing::Material,
        other => panic!("{REQUIRE_VARIABLE}={other}: it takes `all`, or is unset"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_missing_material_fails_and_only_where_required() {
        assert!(is_failure(Missing::Material, "all"));
        assert!(!is_failure(Missing::Platform, "all"));
        assert!(!is_failure(Missing::Material, ""));
        assert!(std::panic::catch_unwind(|| is_failure(Missing::Platform, "none")).is_err());
    }

    #[test]
    fn a_skip_names_the_test_or_the_place() {
        assert_eq!(test_name_in_thread("image::decodes"), "image::decodes");
        let in_main = test_name_in_thread("main");
        assert!(in_main.contains("skip.rs:"), "{in_main}");
    }

    fn test_name_in_thread(name: &str) -> String {
        let thread = std::thread::Builder::new().name(name.to_owned());
        thread.spawn(|| test_name()).unwrap().join().unwrap()
    }
}
