//! The device that a model runs on, and the host's threads.

use crate::cpu::matmul;
use crate::precision::{Arithmetic, Precision};
use anyhow::{Context, Result, anyhow, bail};
use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use util::cpu;

/// The value of `--device`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum DeviceChoice {
    /// The first GPU if this build and this machine support one, otherwise the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this number, counted from 0 in the driver's order.
    Cuda(usize),
}

impl DeviceChoice {
    /// Returns the device whose results depend neither on the processor nor on the number of
    /// threads, which is the CPU, and keeps this process from instructions that would break this:
    /// the tile unit sums in an order of its own. To be called before anything is computed.
    ///
    /// # Errors
    /// A GPU was asked for by number: its results depend on its model.
    pub fn reproducible(self) -> Result<DeviceChoice> {
        if let DeviceChoice::Cuda(_) = self {
            bail!("--reproducible: a GPU's results depend on its model; use --device cpu");
        }
        cpu::limit(cpu::Level::Avx512);
        Ok(DeviceChoice::Cpu)
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(name: &str) -> Result<DeviceChoice, String> {
        match name {
            "auto" => return Ok(DeviceChoice::Auto),
            "cpu" => return Ok(DeviceChoice::Cpu),
            "cuda" => return Ok(DeviceChoice::Cuda(0)),
            _ => {}
        }
        name.strip_prefix("cuda:")
            .and_then(|number| number.parse().ok())
            .map(DeviceChoice::Cuda)
            .ok_or_else(|| {
                format!("{name} is none of auto, cpu and cuda:N (cuda:0 is the first GPU)")
            })
    }
}

impl TryFrom<String> for DeviceChoice {
    type Error = String;

    fn try_from(name: String) -> Result<DeviceChoice, String> {
        name.parse()
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl From<DeviceChoice> for String {
    fn from(choice: DeviceChoice) -> String {
        choice.to_string()
    }
}

/// A device and the number of the host's threads.
#[derive(Clone, Debug)]
pub struct Compute {
    /// The device that holds the model.
    pub device: Device,
    /// The number of threads for arithmetic on the CPU and for decoding.
    pub threads: usize,
    /// The device that the user asked for.
    pub asked: DeviceChoice,
    /// The device that was opened: `cpu` or `cuda:N`, never `auto`.
    pub used: DeviceChoice,
    /// The reason why `auto` chose the CPU.
    pub reason: Option<String>,
}

impl Compute {
    /// Returns the CPU with a number of threads, without making a thread pool.
    pub fn cpu(threads: usize) -> Compute {
        Compute {
            device: Device::Cpu,
            threads,
            asked: DeviceChoice::Cpu,
            used: DeviceChoice::Cpu,
            reason: None,
        }
    }

    /// Opens the device and makes the process's thread pool, by default with one thread per core.
    ///
    /// # Errors
    /// The GPU that was asked for by number cannot be opened, or `threads` is 0.
    pub fn open(asked: DeviceChoice, threads: Option<usize>) -> Result<Compute> {
        Compute::open_for(asked, threads, 0, 1)
    }

    /// [`Compute::open`] for one of several processes on a machine, each of which has a GPU of its
    /// own, from the given one on, and its part of the cores: `place` is the number of this process
    /// among those that see the same GPUs, `sharing` the number of those on the same cores.
    ///
    /// # Errors
    /// They are those of [`Compute::open`].
    pub fn open_for(
        asked: DeviceChoice,
        threads: Option<usize>,
        place: usize,
        sharing: usize,
    ) -> Result<Compute> {
        let threads = match threads {
            Some(0) => bail!("--threads 0: at least one thread is needed"),
            Some(n) => n,
            None => {
                let cores = std::thread::available_parallelism().map_or(1, Into::into);
                (cores / sharing).max(1)
            }
        };
        let (device, used, reason) = match select(asked, place, open_cuda)? {
            Selected::Gpu(device, number) => (device, DeviceChoice::Cuda(number), None),
            Selected::Cpu(reason) => (Device::Cpu, DeviceChoice::Cpu, reason),
        };
        keep_freed_memory();
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global()
            .context("the thread pool cannot be made")?;
        Ok(Compute {
            device,
            threads,
            asked,
            used,
            reason,
        })
    }

    /// Returns a line about the device that `auto` chose, or `None` if the user named the device.
    pub fn announcement(&self) -> Option<String> {
        (self.asked == DeviceChoice::Auto).then(|| {
            let reason = self.reason.as_ref().map(|reason| format!("; {reason}"));
            let about = match self.used {
                DeviceChoice::Cpu => format!(
                    "{} {}",
                    self.threads,
                    if self.threads == 1 {
                        "thread"
                    } else {
                        "threads"
                    }
                ),
                _ => gpu_name(&self.device),
            };
            format!(
                "device: {} ({about}{})",
                self.used,
                reason.unwrap_or_default()
            )
        })
    }

    /// Returns the default precision of a new run: bf16 on a GPU that has it, else f32.
    pub fn default_precision(&self) -> Precision {
        match has_bf16(&self.device) {
            true => Precision::Bf16,
            false => Precision::F32,
        }
    }

    /// Checks that the device computes in this precision.
    ///
    /// # Errors
    /// It does not; the message names a precision that it supports.
    pub fn check_precision(&self, precision: Precision) -> Result<()> {
        if self.device.is_cpu() {
            if !matmul::is_supported(precision) {
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

    /// Returns how an encoder computes in this precision on this device. A CPU without instructions
    /// for it computes in single precision.
    pub fn arithmetic(&self, precision: Precision) -> Arithmetic {
        let dtype = match (&self.device, precision) {
            (Device::Cpu, _) | (_, Precision::F32 | Precision::Tf32) => DType::F32,
            (_, Precision::Bf16) => DType::BF16,
        };
        Arithmetic { dtype, precision }
    }
}

/// Makes the C library keep memory that is freed: every step allocates activations of the same
/// sizes, and fresh pages from the system would cost a tenth of a step.
fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: sets two numbers of the allocator; no memory is touched.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
    }
}

/// The result of [`select`].
#[derive(Debug, PartialEq)]
enum Selected<D> {
    /// An open GPU and its number.
    Gpu(D, usize),
    /// The CPU and, if a GPU was tried first, the reason why it was not opened.
    Cpu(Option<String>),
}

/// Selects the device of the process at `place` among several; `open` opens the GPU of a number or
/// returns the reason why it cannot.
fn select<D>(
    asked: DeviceChoice,
    place: usize,
    open: impl FnOnce(usize) -> Result<D, String>,
) -> Result<Selected<D>> {
    match asked {
        DeviceChoice::Cpu => Ok(Selected::Cpu(None)),
        DeviceChoice::Auto => Ok(match open(place) {
            Ok(device) => Selected::Gpu(device, place),
            Err(reason) => Selected::Cpu(Some(reason)),
        }),
        DeviceChoice::Cuda(first) => {
            let number = first + place;
            match open(number) {
                Ok(device) => Ok(Selected::Gpu(device, number)),
                Err(reason) => Err(anyhow!(
                    "--device {asked}: {reason}; --device cpu does without"
                )),
            }
        }
    }
}

/// Returns whether an NVIDIA driver runs here: natively, in a container, or through Windows (WSL
/// 2).
fn has_driver() -> bool {
    let signs = [
        "/proc/driver/nvidia/version",
        "/dev/nvidiactl",
        "/usr/lib/wsl/lib/libcuda.so.1",
    ];
    signs.iter().any(|path| Path::new(path).exists())
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(_number: usize) -> Result<Device, String> {
    Err(match has_driver() {
        true => "this machine has an NVIDIA driver, but this build has no CUDA: `just build-cuda` makes one that has",
        false => "this build has no CUDA: `just build` makes one where an NVIDIA driver and toolkit are",
    }
    .to_string())
}

#[cfg(feature = "cuda")]
fn open_cuda(number: usize) -> Result<Device, String> {
    let opened = Device::new_cuda_with_stream(number).and_then(|device| {
        if let Device::Cuda(cuda) = &device {
            crate::cuda::driver::prepare(cuda)?;
        }
        Ok(device)
    });
    opened.map_err(|error| {
        if !has_driver() {
            return "no NVIDIA driver runs on this machine".to_string();
        }
        // The lines after the first are a backtrace.
        let error = error.to_string();
        let reason = error.lines().next().unwrap_or_default();
        format!(
            "GPU {number} cannot be opened ({reason}); `train doctor` says what this machine has"
        )
    })
}

#[cfg(not(feature = "cuda"))]
fn gpu_name(_device: &Device) -> String {
    String::new()
}

/// Returns the GPU's name as its driver reports it.
#[cfg(feature = "cuda")]
fn gpu_name(device: &Device) -> String {
    match device {
        Device::Cuda(cuda) => crate::cuda::driver::name(cuda),
        _ => String::new(),
    }
}

/// Returns whether the device is a GPU that computes in bf16.
#[cfg(not(feature = "cuda"))]
pub fn has_bf16(_device: &Device) -> bool {
    false
}

/// Returns whether the device is a GPU that computes in bf16.
#[cfg(feature = "cuda")]
pub fn has_bf16(device: &Device) -> bool {
    match device {
        Device::Cuda(cuda) => crate::cuda::driver::has_bf16(cuda),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_are_parsed_and_printed() {
        for (name, choice) in [
            ("auto", DeviceChoice::Auto),
            ("cpu", DeviceChoice::Cpu),
            ("cuda", DeviceChoice::Cuda(0)),
            ("cuda:0", DeviceChoice::Cuda(0)),
            ("cuda:12", DeviceChoice::Cuda(12)),
        ] {
            assert_eq!(name.parse(), Ok(choice));
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        for name in [
            "", "gpu", "CPU", "cuda:", "cuda:-1", "cuda:x", "cuda0", "auto ",
        ] {
            let error = name.parse::<DeviceChoice>().unwrap_err();
            assert!(error.contains("auto, cpu and cuda:N"), "{error}");
        }
    }

    #[test]
    fn auto_falls_back_to_the_cpu_and_a_number_does_not() {
        let machine = |gpus: usize| {
            move |number: usize| match number < gpus {
                true => Ok(number),
                false => Err(format!("no GPU {number}")),
            }
        };
        let select = |asked, place, gpus| select(asked, place, machine(gpus)).ok();
        let cpu = |reason: &str| Some(Selected::Cpu(Some(reason.to_string())));
        assert_eq!(select(DeviceChoice::Auto, 0, 2), Some(Selected::Gpu(0, 0)));
        assert_eq!(select(DeviceChoice::Auto, 0, 0), cpu("no GPU 0"));
        assert_eq!(select(DeviceChoice::Cpu, 0, 2), Some(Selected::Cpu(None)));
        assert_eq!(
            select(DeviceChoice::Cuda(1), 0, 2),
            Some(Selected::Gpu(1, 1))
        );
        assert_eq!(
            select(DeviceChoice::Cuda(0), 1, 2),
            Some(Selected::Gpu(1, 1))
        );
        assert_eq!(select(DeviceChoice::Cuda(2), 0, 2), None);
        let error = super::select(DeviceChoice::Cuda(0), 0, machine(0)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "--device cuda:0: no GPU 0; --device cpu does without"
        );
    }

    #[test]
    fn only_auto_has_an_announcement() {
        let mut compute = Compute::cpu(2);
        assert_eq!(compute.announcement(), None);
        compute.asked = DeviceChoice::Auto;
        compute.reason = Some("no driver".to_string());
        assert_eq!(
            compute.announcement().as_deref(),
            Some("device: cpu (2 threads; no driver)")
        );
    }
}
