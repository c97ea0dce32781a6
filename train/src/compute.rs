//! What arithmetic runs on: the device, its number types, the host's threads.

use crate::kernels::matmul::{self, Products};
use crate::settings::{Precision, Settings};
#[cfg(feature = "cuda")]
use anyhow::anyhow;
use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};

/// Twenty-odd batches of 128 clips.
const GPU_BYTE_BUDGET: usize = 8 << 30;

/// A device and the host's threads beside it.
#[derive(Clone, Debug)]
pub struct Compute {
    /// Where the model lives.
    pub device: Device,
    /// Threads for arithmetic on the CPU and for decoding.
    pub threads: usize,
}

impl Compute {
    /// The CPU with so many threads.
    pub fn cpu(threads: usize) -> Compute {
        Compute {
            device: Device::Cpu,
            threads,
        }
    }

    /// Opens `cpu`, `cuda` or `cuda:N`, and the thread pool.
    pub fn open(device: &str, threads: Option<usize>) -> Result<Compute> {
        Compute::open_for(device, threads, 0, 1)
    }

    /// The same for one of several workers: each has a GPU of its own, from the given one on, and its
    /// part of the cores.
    pub fn open_for(
        device: &str,
        threads: Option<usize>,
        rank: usize,
        workers: usize,
    ) -> Result<Compute> {
        let threads = match threads {
            Some(0) => bail!("--threads 0: at least one thread is needed"),
            Some(n) => n,
            None => {
                let cores = std::thread::available_parallelism().map_or(1, Into::into);
                (cores / workers).max(1)
            }
        };
        let device = open_device(device, rank)?;
        hold_memory();
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global()
            .context("the thread pool cannot be made")?;
        Ok(Compute { device, threads })
    }

    /// Bytes of batches that may be decoded ahead: a GPU's batches are large, and each thread needs one in
    /// its hands.
    pub fn byte_budget(&self) -> usize {
        match self.device.is_cpu() {
            true => features::stream::BYTE_BUDGET,
            false => GPU_BYTE_BUDGET,
        }
    }

    /// What a new run trains in where nothing is said: bf16 on a GPU that has it.
    pub fn default_precision(&self) -> Precision {
        match has_bf16(&self.device) {
            true => Precision::Bf16,
            false => Precision::F32,
        }
    }

    /// Whether a run with these settings can be trained here.
    pub fn check(&self, settings: &Settings) -> Result<()> {
        if settings.modulation != crate::design::Modulation::None && settings.micro_batch.is_some()
        {
            bail!("gradient modulation balances whole batches; leave micro_batch out");
        }
        self.check_precision(settings.precision)?;
        if !self.device.is_cpu()
            && settings.precision == Precision::Bf16
            && settings.adapt == crate::design::Adapt::Full
        {
            bail!(
                "full fine-tuning keeps its weights in single precision; add --precision f32 or tf32"
            );
        }
        Ok(())
    }

    /// Whether the device computes in this precision.
    pub fn check_precision(&self, precision: Precision) -> Result<()> {
        if self.device.is_cpu() {
            if !matmul::set_products(products(precision)) {
                let processor = match precision {
                    Precision::Bf16 => "AMX or AVX-512 with bf16",
                    Precision::F32 | Precision::Tf32 => "AMX",
                };
                bail!(
                    "precision {} needs a GPU or a processor with {processor}; use f32 here",
                    precision.as_str()
                );
            }
        } else if precision == Precision::Bf16 && !has_bf16(&self.device) {
            bail!("this GPU has no bf16 (that takes compute capability 8.0); use --precision f32");
        }
        Ok(())
    }

    /// The encoders' number type on this device; sets what matrix products round to. A CPU that
    /// cannot round so evaluates in f32.
    pub fn dtype(&self, precision: Precision) -> DType {
        matmul::set_products(products(precision));
        #[cfg(feature = "cuda")]
        candle_core::cuda::set_gemm_reduced_precision_f32(precision == Precision::Tf32);
        match (&self.device, precision) {
            (Device::Cpu, _) | (_, Precision::F32 | Precision::Tf32) => DType::F32,
            (_, Precision::Bf16) => DType::BF16,
        }
    }
}

fn products(precision: Precision) -> Products {
    match precision {
        Precision::F32 => Products::Exact,
        Precision::Tf32 => Products::Bits16,
        Precision::Bf16 => Products::Bf16,
    }
}

/// Makes the C library keep memory that is freed: activations of the same sizes are asked for at every
/// step, and pages fresh from the system cost a tenth of a step.
fn hold_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: sets two numbers of the allocator; no memory is touched.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
    }
}

fn open_device(name: &str, rank: usize) -> Result<Device> {
    if name == "cpu" {
        return Ok(Device::Cpu);
    }
    let number = match name.strip_prefix("cuda") {
        Some("") => Some(rank),
        Some(rest) => rest
            .strip_prefix(':')
            .and_then(|n| n.parse().ok())
            .map(|n: usize| n + rank),
        None => None,
    };
    let Some(number) = number else {
        bail!("--device {name}: is neither cpu nor cuda nor cuda:N")
    };
    open_cuda(name, number)
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(name: &str, _number: usize) -> Result<Device> {
    bail!(
        "--device {name}: this build has no CUDA; use --device cpu, or build with `just build-cuda`"
    )
}

#[cfg(feature = "cuda")]
fn open_cuda(name: &str, number: usize) -> Result<Device> {
    let opened = Device::new_cuda(number).and_then(|device| {
        if let Device::Cuda(cuda) = &device {
            crate::ops::cuda::prepare(cuda)?;
        }
        Ok(device)
    });
    opened.map_err(|error| {
        // The first line: what follows is a backtrace.
        let error = error.to_string();
        let reason = error.lines().next().unwrap_or_default();
        anyhow!("--device {name}: GPU {number} cannot be opened ({reason}); `train doctor` says what this machine has")
    })
}

/// Whether the device computes in bf16.
#[cfg(not(feature = "cuda"))]
pub fn has_bf16(_device: &Device) -> bool {
    false
}

/// Whether the device computes in bf16.
#[cfg(feature = "cuda")]
pub fn has_bf16(device: &Device) -> bool {
    match device {
        Device::Cuda(cuda) => crate::ops::cuda::has_bf16(cuda),
        _ => false,
    }
}
