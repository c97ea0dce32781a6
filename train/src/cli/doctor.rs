//! `train doctor`: prints what this machine and this build can do.

use crate::diagnostics::doctor;
use crate::ingest_process;
use crate::training::ranks;
use anyhow::Result;
use clap::Args;
#[cfg(target_arch = "x86_64")]
use engine::Isa;
use serde_json::{Value, json};
use std::process::ExitCode;
use util::outln;

const EXAMPLES: &str = "\
Example:
  train doctor";

/// Print what this machine and this build can do, and what to change for training on its GPUs
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct DoctorArgs {
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &DoctorArgs) -> Result<ExitCode> {
    let version = env!("CARGO_PKG_VERSION");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let vectors = vector_instructions();
    let report = doctor::probe();
    let ingest = ingest_process::program().ok();
    let sandbox_gaps = ingest.as_ref().and_then(|_| sandbox_gaps());
    if args.json {
        let json = json!({
            "version": version,
            "cores": cores,
            "vectors": vectors,
            "cuda": report.built,
            "mpi": ranks::mpi_library(),
            "gpu": report,
            "to_do": report.advice(),
            "ingest": ingest,
            "decoder_sandbox_gaps": sandbox_gaps,
        });
        outln!("{json}")?;
        return Ok(ExitCode::SUCCESS);
    }
    outln!("train {version}\ncores     {cores}\nvectors   {vectors}")?;
    outln!(
        "CUDA      {}",
        match report.built {
            true => "in this build",
            false => "not in this build: it computes on the CPU",
        }
    )?;
    for line in report.lines() {
        outln!("{line}")?;
    }
    match ranks::mpi_library() {
        Some(library) => outln!("MPI       {library}")?,
        None => outln!("MPI       not in this build: it trains in one process")?,
    }
    match sandbox_gaps.as_deref() {
        Some([]) => outln!("sandbox   decoders are confined by landlock and seccomp")?,
        Some(gaps) => outln!("sandbox   {}", gaps.join("; "))?,
        None => {}
    }
    match ingest {
        Some(path) => outln!("ingest    {}", path.display())?,
        None => outln!("ingest    not beside this program; only media decoding needs it")?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The widest vector instructions that the kernels use on this processor.
#[cfg(target_arch = "x86_64")]
fn vector_instructions() -> &'static str {
    if Isa::AmxBf16.is_available() {
        "AVX-512 and AMX"
    } else if Isa::Avx512Bf16.is_available() {
        "AVX-512 with bf16"
    } else if util::cpu::has_avx512() {
        "AVX-512"
    } else if std::arch::is_x86_feature_detected!("avx2") {
        "AVX2"
    } else {
        "SSE2"
    }
}

/// The vector instructions of other processors are those that the compiler uses.
#[cfg(not(target_arch = "x86_64"))]
fn vector_instructions() -> &'static str {
    "portable"
}

/// What the sandbox of the decode workers of `ingest` lacks on this kernel, as sentences. `None` if
/// `ingest` gives no answer.
fn sandbox_gaps() -> Option<Vec<String>> {
    let probe = [
        "decode-worker",
        "--memory-mib",
        "4096",
        "--cpu-seconds",
        "10",
        "--probe",
    ];
    let found: Value = serde_json::from_str(&ingest_process::run(probe).ok()?).ok()?;
    let gaps = found["sandbox_gaps"].as_array()?.iter();
    gaps.map(|gap| gap.as_str().map(str::to_owned)).collect()
}
