//! The versions of CUDA of a GPU build: of the toolkit that it was built with, and of the driver.

use serde::Serialize;

/// Versions as CUDA counts them: 13000 is 13.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CudaVersions {
    /// The toolkit that this program was built with.
    pub toolkit: u32,
    /// The newest version whose programs the installed driver runs; 0 without a driver.
    pub driver: u32,
}

impl CudaVersions {
    /// Returns what is wrong, and what to do, if the driver is older than the toolkit. It then
    /// does not translate the kernels that are built as PTX, which those of candle are.
    pub fn problem(&self) -> Option<String> {
        let name = |version: u32| format!("{}.{}", version / 1000, version % 1000 / 10);
        let (toolkit, driver) = (name(self.toolkit), name(self.driver));
        (self.driver > 0 && self.driver < self.toolkit).then(|| {
            format!(
                "the driver runs CUDA {driver} at most, and this program was built with CUDA {toolkit}: update the driver, \
                 or build with a toolkit of CUDA {driver} or older in CUDA_HOME"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_older_than_the_toolkit_are_a_problem() {
        let problem = |toolkit, driver| CudaVersions { toolkit, driver }.problem();
        assert_eq!(problem(13000, 13000), None);
        assert_eq!(problem(12080, 13020), None);
        // Without a driver, that is what is to be said.
        assert_eq!(problem(13000, 0), None);
        let found = problem(13020, 12080).unwrap();
        assert!(
            found.contains("runs CUDA 12.8 at most") && found.contains("built with CUDA 13.2"),
            "{found}"
        );
    }
}
