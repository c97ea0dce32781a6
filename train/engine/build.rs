//! Compiles the CUDA kernels if the feature `cuda` is on; `scripts/build` sets the environment.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The compute capability to build for by default, that of the H200.
const ARCH: &str = "90";

fn main() {
    println!("cargo:rerun-if-changed=cuda");
    println!("cargo:rerun-if-env-changed=NVCC");
    println!("cargo:rerun-if-env-changed=CUDA_COMPUTE_CAP");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo:rerun-if-env-changed=CUDA_HOME");
    let nvcc = std::env::var("NVCC").unwrap_or_else(|_| "nvcc".to_string());
    let arch = std::env::var("CUDA_COMPUTE_CAP").unwrap_or_else(|_| ARCH.to_string());
    println!("cargo:rustc-env=U2A_CUDA_ARCH={arch}");
    let out = std::env::var_os("OUT_DIR")
        .map(PathBuf::from)
        .expect("cargo sets OUT_DIR");
    // Machine code for this compute capability, and PTX for later ones.
    let kernels = out.join("kernels.fatbin");
    let gencode = format!("-gencode=arch=compute_{arch},code=[sm_{arch},compute_{arch}]");
    let mut compile = Command::new(&nvcc);
    compile.args(["-std=c++17", "-O3", "-fatbin", &gencode]);
    compile.args(["cuda/kernels.cu", "-o"]).arg(kernels);
    run(&mut compile);

    let toolkit = std::env::var_os("CUDA_HOME")
        .map(PathBuf::from)
        .expect("CUDA_HOME is not set: build with scripts/build");
    link_driver(&toolkit, &out);
    // For the build script of `train`.
    println!("cargo:libraries={}", toolkit.join("lib64").display());
}

/// Compiles `cuda/driver.c` for every entry point in the toolkit's `cuda.h` and links the whole of
/// it. Hands on the version in that file.
fn link_driver(toolkit: &Path, out: &Path) {
    let header = toolkit.join("include/cuda.h");
    let text = std::fs::read_to_string(&header)
        .unwrap_or_else(|error| panic!("{}: cannot be read ({error})", header.display()));
    let version = text.lines().find_map(|line| {
        let rest = line.strip_prefix("#define CUDA_VERSION ")?;
        rest.trim().parse::<u32>().ok()
    });
    let version = version.unwrap_or_else(|| panic!("{}: no CUDA_VERSION", header.display()));
    println!("cargo:rustc-env=U2A_CUDA_VERSION={version}");
    let is_entry = |word: &&str| {
        word.strip_prefix("cu")
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase()))
    };
    let names: BTreeSet<&str> = text
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(is_entry)
        .collect();
    let lines: String = names
        .iter()
        .map(|name| format!("ENTRY({name})\n"))
        .collect();
    std::fs::write(out.join("entries.h"), lines).expect("OUT_DIR can be written");
    let object = out.join("driver.o");
    let mut compile = Command::new("cc");
    compile.args(["-O2", "-fPIC", "-Wall", "-c", "cuda/driver.c", "-I"]);
    run(compile.arg(out).arg("-o").arg(&object));
    let mut archive = Command::new("ar");
    run(archive
        .arg("crs")
        .arg(out.join("libu2a_driver.a"))
        .arg(object));
    println!("cargo:rustc-link-search=native={}", out.display());
    // The whole archive is linked, so that the linker knows its names before it comes to
    // libcuda.so, which it then leaves out.
    println!("cargo:rustc-link-lib=static:+whole-archive=u2a_driver");
}

fn run(command: &mut Command) {
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{command:?}: {status}"),
        Err(error) => {
            panic!("{command:?}: cannot be run ({error}); scripts/build finds or fetches a toolkit")
        }
    }
}
