//! `train doctor`: the GPUs and CUDA libraries of this machine, and what a GPU build lacks on it.

use engine::cuda::CudaVersions;
use serde::Serialize;
use std::path::Path;
use std::process::Command;

/// The first version of the driver that runs programs of CUDA 13.
const MIN_DRIVER: u32 = 580;
/// The shared libraries of a GPU build.
const LIBRARIES: [&str; 5] = [
    "libcuda.so.1",
    "libcudart.so.13",
    "libcublas.so.13",
    // Which libcublas loads itself.
    "libcublasLt.so.13",
    "libcurand.so.10",
];

/// One GPU, as `nvidia-smi` lists it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gpu {
    /// The product name.
    pub name: String,
    /// The compute capability: major and minor number.
    pub capability: (u32, u32),
    /// The memory in MiB.
    pub memory_mib: u64,
    /// The version of the driver.
    pub driver: String,
}

/// The GPUs of this machine, and what a build for them lacks here.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SystemReport {
    /// Whether this program was built for GPUs.
    pub built: bool,
    /// The CUDA versions of a GPU build and of the driver.
    pub cuda: Option<CudaVersions>,
    /// The GPUs in the driver's order.
    pub gpus: Vec<Gpu>,
    /// The message of `nvidia-smi` if it lists no GPU.
    #[serde(rename = "trouble")]
    pub problem: Option<String>,
    /// The libraries of a GPU build that the loader does not find.
    pub missing: Vec<String>,
}

/// Asks the NVIDIA driver for its GPUs and the loader for the CUDA libraries.
pub fn probe() -> SystemReport {
    let query = "--query-gpu=name,compute_cap,memory.total,driver_version";
    let listing = Command::new("nvidia-smi")
        .args([query, "--format=csv,noheader,nounits"])
        .output();
    let (gpus, problem) = match listing {
        Ok(output) => parse_gpus(
            output.status.success(),
            &String::from_utf8_lossy(&[output.stdout, output.stderr].concat()),
        ),
        Err(_) => (Vec::new(), Some("nvidia-smi is not installed".to_string())),
    };
    let libraries = Command::new("ldconfig").arg("-p").output();
    let libraries = libraries
        .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
        .unwrap_or_default();
    let path = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
    SystemReport {
        built: cfg!(feature = "cuda"),
        cuda: engine::cuda::versions(),
        gpus,
        problem,
        missing: missing_libraries(&libraries, &path),
    }
}

/// Parses the output of `nvidia-smi`: the GPUs that it lists, or its message if there are none.
fn parse_gpus(success: bool, output: &str) -> (Vec<Gpu>, Option<String>) {
    let parse = |line: &str| -> Option<Gpu> {
        let mut fields = line.rsplitn(4, ',').map(str::trim);
        let driver = fields.next()?.to_string();
        let memory_mib = fields.next()?.parse().ok()?;
        let (major, minor) = fields.next()?.split_once('.')?;
        Some(Gpu {
            name: fields.next()?.to_string(),
            capability: (major.parse().ok()?, minor.parse().ok()?),
            memory_mib,
            driver,
        })
    };
    let gpus: Vec<Gpu> = output.lines().filter_map(parse).collect();
    let message = output.lines().map(str::trim).find(|line| !line.is_empty());
    let problem = match (success, gpus.is_empty(), message) {
        (true, false, _) => None,
        (_, _, Some(message)) => Some(message.to_string()),
        (..) => Some("nvidia-smi printed nothing".to_string()),
    };
    (gpus, problem)
}

/// The libraries that are neither in the output of `ldconfig -p` nor in a folder of
/// LD_LIBRARY_PATH.
fn missing_libraries(ldconfig: &str, path: &str) -> Vec<String> {
    let in_cache = |name: &str| {
        let mut names = ldconfig
            .lines()
            .filter_map(|line| line.split_whitespace().next());
        names.any(|listed| listed == name)
    };
    let in_path = |name: &str| {
        path.split(':')
            .any(|folder| !folder.is_empty() && Path::new(folder).join(name).exists())
    };
    let missing = LIBRARIES
        .iter()
        .filter(|name| !in_cache(name) && !in_path(name));
    missing.map(ToString::to_string).collect()
}

impl SystemReport {
    /// One line for each GPU, or one that there is none, and one for each piece of advice.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self
            .gpus
            .iter()
            .enumerate()
            .map(|(i, gpu)| {
                let (major, minor) = gpu.capability;
                format!(
                    "cuda:{i}    {}, {:.1} GiB, sm_{major}{minor}, driver {}",
                    gpu.name,
                    gpu.memory_mib as f64 / 1024.0,
                    gpu.driver
                )
            })
            .collect();
        if let Some(problem) = &self.problem {
            lines.push(format!("GPU       none: {problem}"));
        }
        lines.extend(
            self.advice()
                .into_iter()
                .map(|advice| format!("to do     {advice}")),
        );
        lines
    }

    /// What to change for training on the GPUs of this machine; nothing if it has none.
    pub fn advice(&self) -> Vec<String> {
        let mut advice = Vec::new();
        if self.gpus.is_empty() {
            if self.built {
                advice.push(
                    "this build is for GPUs: install NVIDIA's driver; without it, it computes on the CPU"
                        .to_string(),
                );
            }
            return advice;
        }
        if !self.built {
            advice.push(
                "build for the GPU with `just build-cuda`: this build has no CUDA".to_string(),
            );
        }
        advice.extend(self.cuda.as_ref().and_then(CudaVersions::problem));
        for (i, gpu) in self.gpus.iter().enumerate() {
            let major = gpu
                .driver
                .split('.')
                .next()
                .and_then(|n| n.parse::<u32>().ok());
            if major.is_some_and(|major| major < MIN_DRIVER) {
                advice.push(format!(
                    "cuda:{i}: update the driver {} to {MIN_DRIVER} or newer: CUDA 13 needs it",
                    gpu.driver
                ));
            }
            let (major, minor) = gpu.capability;
            if (major, minor) < (7, 5) {
                advice.push(format!(
                    "cuda:{i}: sm_{major}{minor} is too old for CUDA 13; the oldest that it supports is 7.5"
                ));
            } else if major < 8 {
                advice.push(format!(
                    "cuda:{i}: has no bf16: build with `just build-cuda --arch {major}{minor}` and train with --precision f32"
                ));
            }
        }
        if !self.missing.is_empty() {
            advice.push(format!(
                "not found: {}; install the CUDA 13 runtime, or set LD_LIBRARY_PATH to PyTorch's nvidia/cu13/lib",
                self.missing.join(", ")
            ));
        }
        advice
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LDCONFIG: &str = "1200 libs found in cache\n\tlibcuda.so.1 (libc6,x86-64) => /lib/libcuda.so.1\n\tlibcurand.so.10 (libc6,x86-64) => /usr/lib/libcurand.so.10\n\tlibcublas.so.12 (libc6,x86-64) => /usr/lib/libcublas.so.12\n";

    #[test]
    fn gpus_are_parsed_from_nvidia_smi() {
        let (gpus, problem) = parse_gpus(true, "NVIDIA H200, 9.0, 143771, 580.95.05\n");
        assert_eq!(problem, None);
        let report = SystemReport {
            built: true,
            cuda: None,
            gpus,
            problem,
            missing: Vec::new(),
        };
        assert_eq!(
            report.lines(),
            ["cuda:0    NVIDIA H200, 140.4 GiB, sm_90, driver 580.95.05"]
        );
    }

    #[test]
    fn advice_names_old_drivers_and_missing_libraries() {
        let (gpus, _) = parse_gpus(true, "NVIDIA GeForce RTX 2080 Ti, 7.5, 11264, 535.183.01\n");
        let report = SystemReport {
            built: false,
            cuda: None,
            gpus,
            problem: None,
            missing: missing_libraries(LDCONFIG, ""),
        };
        let advice = report.advice().join("\n");
        for part in [
            "just build-cuda",
            "580 or newer",
            "--arch 75",
            "libcudart.so.13, libcublas.so.13, libcublasLt.so.13;",
        ] {
            assert!(advice.contains(part), "{part} in {advice}");
        }
    }

    #[test]
    fn machines_without_a_driver_or_a_gpu() {
        let message = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA driver is installed and running.\n";
        let (gpus, problem) = parse_gpus(false, message);
        assert!(
            gpus.is_empty()
                && problem
                    .as_ref()
                    .unwrap()
                    .starts_with("NVIDIA-SMI has failed")
        );
        let (gpus, problem) = parse_gpus(true, "No devices were found\n");
        let report = SystemReport {
            built: false,
            cuda: None,
            gpus,
            problem,
            missing: missing_libraries("", ""),
        };
        // A machine without a GPU trains on the CPU and lacks nothing for it.
        assert_eq!(report.lines(), ["GPU       none: No devices were found"]);
    }

    #[test]
    fn libraries_are_found_on_ld_library_path() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("libcublas.so.13"), "").unwrap();
        let path = format!("/nowhere:{}", folder.path().display());
        assert_eq!(
            missing_libraries(LDCONFIG, &path),
            ["libcudart.so.13", "libcublasLt.so.13"]
        );
    }

    #[test]
    fn advice_compares_the_driver_with_the_toolkit_of_the_build() {
        let advice = |driver| {
            let (gpus, problem) = parse_gpus(true, "NVIDIA H200, 9.0, 143771, 580.95.05\n");
            let cuda = Some(CudaVersions {
                toolkit: 13020,
                driver,
            });
            SystemReport {
                built: true,
                cuda,
                gpus,
                problem,
                missing: Vec::new(),
            }
            .advice()
        };
        assert_eq!(advice(13020), Vec::<String>::new());
        let old = advice(13000);
        assert!(
            old.len() == 1 && old[0].contains("CUDA 13.0 at most"),
            "{old:?}"
        );
    }
}
