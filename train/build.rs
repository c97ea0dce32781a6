//! Tells the linker where the CUDA toolkit's libraries are; the kernels are compiled by the crate `engine`.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=DEP_U2A_DRIVER_LIBRARIES");
    // The toolkit's libraries are found where the program was built; elsewhere the loader looks for them.
    if let Ok(libraries) = std::env::var("DEP_U2A_DRIVER_LIBRARIES")
        && Path::new(&libraries).is_dir()
    {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{libraries}");
    }
}
