//! Products of panels by AMX, the tile unit of Xeons since Sapphire Rapids.
//!
//! The unit multiplies bf16 only, sixteen times as many numbers a cycle as AVX-512 multiplies f32.
//! An f32 is the sum of three bf16 (8 + 8 + 8 significant bits), `x = x1 + x2 + x3`, so a product
//! of f32 is the sum of six products of bf16: `x1 y1 + x1 y2 + x2 y1 + x2 y2 + x1 y3 + x3 y1`. The
//! omitted terms are below 2^-24 of `x y`, that is below the rounding of single precision (Henry,
//! Tang and Heinecke 2019, "Leveraging the bfloat16 Artificial Intelligence Datatype For
//! Higher-Precision Computations"). With one term the same code computes in bf16, with two about as
//! TF32.
//!
//! The unit is reached by `asm!`, since its intrinsics are not stable Rust.

use super::layout::{PANEL_LINES, Sums, TILE};
use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::sync::LazyLock;

/// Returns whether this processor has the unit and the operating system lets this program use it.
pub fn is_available() -> bool {
    static AVAILABLE: LazyLock<bool> = LazyLock::new(|| {
        let vectors = util::cpu::has_avx512() && util::cpu::allows(util::cpu::Level::Amx);
        // Leaf 7, EDX: AMX-BF16 is bit 22, AMX-TILE bit 24 (Intel SDM, CPUID).
        let leaf = __cpuid_count(7, 0).edx;
        vectors && leaf & (1 << 22) != 0 && leaf & (1 << 24) != 0 && permitted()
    });
    *AVAILABLE
}

/// Asks the operating system for permission to use the unit's registers, once for all threads.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers and touches no memory; an older kernel refuses it.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_arch_prctl,
            ARCH_REQ_XCOMP_PERM,
            XFEATURE_XTILEDATA,
        )
    };
    answer == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// The unit's eight tiles of 16 rows of 64 bytes, configured on this thread until this value is
/// dropped.
pub struct Tiles;

impl Tiles {
    /// Configures the tiles. [`is_available`] must have returned true.
    pub fn configure() -> Tiles {
        #[repr(C, align(64))]
        struct Config([u8; 64]);
        let mut config = Config([0; 64]);
        config.0[0] = 1; // palette
        for tile in 0..8 {
            config.0[16 + 2 * tile] = 64; // bytes per row
            config.0[48 + tile] = 16; // rows
        }
        // SAFETY: packed operands for AMX exist only where `is_available` has found the unit and
        // the operating system has granted it, and only they are multiplied.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly, preserves_flags));
        }
        Tiles
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: as above; from here on nothing reads the tiles.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) }
    }
}

/// The instructions that load two tiles of an operand's term, at an offset in the step.
macro_rules! load {
    ($first:literal, $second:literal, $from:literal, $offset:literal) => {
        concat!(
            "tileloadd ",
            $first,
            ", [{",
            $from,
            "} + {row} + ",
            $offset,
            "]\n",
            "tileloadd ",
            $second,
            ", [{",
            $from,
            "} + {row} + ",
            $offset,
            " + 1024]\n",
        )
    };
}

/// The instructions that multiply a term of the left operand (tmm4, tmm5) by one of the right
/// (tmm6, tmm7).
macro_rules! products {
    () => {
        concat!(
            "tdpbf16ps tmm0, tmm4, tmm6\n",
            "tdpbf16ps tmm1, tmm4, tmm7\n",
            "tdpbf16ps tmm2, tmm5, tmm6\n",
            "tdpbf16ps tmm3, tmm5, tmm7\n",
        )
    };
}

/// The loop over all steps of `$step` bytes, which sums up the four quarters of the result in tmm0
/// to tmm3.
macro_rules! all_steps {
    ($left:ident, $right:ident, $steps:ident, $sums:ident, $step:literal, $($body:expr),+) => {
        asm!(
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            "2:",
            $($body,)+
            concat!("add {left}, ", $step),
            concat!("add {right}, ", $step),
            "dec {steps}",
            "jnz 2b",
            "tilestored [{sums} + {sums_row}], tmm0",
            "tilestored [{sums} + {sums_row} + 64], tmm1",
            "tilestored [{sums} + {sums_row} + 2048], tmm2",
            "tilestored [{sums} + {sums_row} + 2112], tmm3",
            left = inout(reg) $left => _,
            right = inout(reg) $right => _,
            steps = inout(reg) $steps => _,
            sums = in(reg) $sums,
            row = in(reg) 64usize,
            sums_row = in(reg) 128usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

/// Computes the 32 x 32 products of two panels of `terms` terms. Small products are added first,
/// and each change of terms loads one operand only.
///
/// # Safety
/// [`Tiles`] are configured on this thread, and both panels hold the same number of steps of
/// `terms` terms.
pub unsafe fn multiply(left: &[u8], right: &[u8], terms: usize, sums: &mut Sums) {
    let steps = left.len() / (terms * 2 * TILE);
    let (left, right, sums) = (left.as_ptr(), right.as_ptr(), sums.0.as_mut_ptr());
    if steps == 0 {
        // SAFETY: `sums` was a reference.
        return unsafe { sums.write_bytes(0, PANEL_LINES * PANEL_LINES) };
    }
    // SAFETY: the loads stay inside the panels, as the caller promised, the stores inside `sums`.
    unsafe {
        match terms {
            1 => all_steps!(
                left,
                right,
                steps,
                sums,
                "2048",
                load!("tmm4", "tmm5", "left", "0"),
                load!("tmm6", "tmm7", "right", "0"),
                products!()
            ),
            2 => all_steps!(
                left,
                right,
                steps,
                sums,
                "4096",
                load!("tmm4", "tmm5", "left", "0"),
                load!("tmm6", "tmm7", "right", "2048"),
                products!(),
                load!("tmm6", "tmm7", "right", "0"),
                products!(),
                load!("tmm4", "tmm5", "left", "2048"),
                products!()
            ),
            _ => all_steps!(
                left,
                right,
                steps,
                sums,
                "6144",
                load!("tmm4", "tmm5", "left", "0"),
                load!("tmm6", "tmm7", "right", "4096"),
                products!(),
                load!("tmm6", "tmm7", "right", "2048"),
                products!(),
                load!("tmm4", "tmm5", "left", "2048"),
                products!(),
                load!("tmm6", "tmm7", "right", "0"),
                products!(),
                load!("tmm4", "tmm5", "left", "4096"),
                products!(),
                load!("tmm4", "tmm5", "left", "0"),
                products!()
            ),
        }
    }
}
