//! `just simulate-scale` in small: parts of an ingest that are killed at random moments.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tests::{CommandOutput, EXIT_DONE, EXIT_FINDINGS, binary, run, temp, workspace};
use util::skip::{Missing, skip};

/// Simulates with the program `ingest` in a folder. `None` where there is no Python.
fn simulate(parts: &str, samples: &str, programs: &Path) -> Option<CommandOutput> {
    if Command::new("python3").arg("--version").output().is_err() {
        skip(Missing::Platform, "there is no python3");
        return None;
    }
    let mut simulate = Command::new(workspace().join("scripts/simulate-scale"));
    simulate.args(["--parts", parts, "--samples", samples]);
    Some(run(simulate.arg("--programs").arg(programs)))
}

/// The number behind a name in the table that the simulation prints.
fn figure(ran: &CommandOutput, name: &str) -> u64 {
    let line = ran.stdout.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().trim().parse().unwrap()
}

#[test]
fn parts_killed_at_random_make_the_bytes_of_one_run() {
    let programs = binary("ingest");
    let Some(ran) = simulate("8", "32", programs.parent().unwrap()) else {
        return;
    };
    let ran = ran.expect(EXIT_DONE);
    assert_eq!(figure(&ran, "files that differ"), 0);
    assert!(figure(&ran, "of these killed by SIGKILL") > 0);
    assert!(figure(&ran, "shards") >= 8, "{}", ran.stdout);
}

/// The comparison sees a single byte.
#[test]
fn simulation_fails_if_a_byte_differs() {
    let folder = temp();
    let program = folder.path().join("ingest");
    let script = format!(
        "#!/bin/sh\n'{}' \"$@\" || exit\ncase \"$*\" in *--finish*) ;; *) exit 0 ;; esac\n\
         while [ \"$1\" != --out ]; do shift; done\nprintf x >>\"$2/failures.parquet\"\n",
        binary("ingest").display()
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let Some(ran) = simulate("2", "12", folder.path()) else {
        return;
    };
    let ran = ran.expect(EXIT_FINDINGS);
    assert_eq!(figure(&ran, "files that differ"), 1);
    assert!(ran.stderr.contains("failures.parquet"), "{}", ran.stderr);
}
