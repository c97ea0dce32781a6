//! Compiles the CUDA kernels where the `cuda` feature asks for them; `scripts/build-cuda` sets the
//! environment.

use std::path::PathBuf;
use std::process::Command;

/// The H200's, where none is asked for.
const ARCH: &str = "90";

fn main() {
    println!("cargo:rerun-if-changed=cuda");
    println!("cargo:rerun-if-env-changed=NVCC");
    println!("cargo:rerun-if-env-changed=CUDA_COMPUTE_CAP");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let nvcc = std::env::var("NVCC").unwrap_or_else(|_| "nvcc".to_string());
    let arch = std::env::var("CUDA_COMPUTE_CAP").unwrap_or_else(|_| ARCH.to_string());
    println!("cargo:rustc-env=U2A_CUDA_ARCH={arch}");
    let out = std::env::var_os("OUT_DIR")
        .map(PathBuf::from)
        .expect("cargo sets OUT_DIR");
    // Machine code for the card, and the portable form for those to come.
    let status = Command::new(&nvcc)
        .args(["-std=c++17", "-O3", "-fatbin"])
        .arg(format!(
            "-gencode=arch=compute_{arch},code=[sm_{arch},compute_{arch}]"
        ))
        .args(["cuda/kernels.cu", "-o"])
        .arg(out.join("kernels.fatbin"))
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => {
            panic!("{nvcc} could not compile train/cuda/kernels.cu for sm_{arch} ({status})")
        }
        Err(error) => {
            panic!("{nvcc} cannot be run ({error}); scripts/build-cuda finds or fetches a toolkit")
        }
    }
}
