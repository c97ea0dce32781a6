//! Products of single-precision matrices on the tile unit (AMX) of Xeons since Sapphire Rapids.
//!
//! The unit multiplies bf16 only, sixteen times as many numbers a cycle as AVX-512 multiplies f32.
//! An f32 is the sum of three bf16 (8 + 8 + 8 significant bits), `x = x1 + x2 + x3`, so a product of
//! f32 is the sum of six products of bf16: `x1 y1 + x1 y2 + x2 y1 + x2 y2 + x1 y3 + x3 y1`. What is
//! left out is below 2^-24 of `x y`, that is below what single precision rounds away (Henry, Tang
//! and Heinecke 2019, "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision
//! Computations"). With fewer pieces the same code computes in bf16 (one) or about as TF32 (two).
//!
//! Operands are packed into panels of 32 lines (rows of the left one, columns of the right one):
//! for each 32 elements of depth and each piece two tiles of 1 KiB, in the order they are read.
//! The unit is reached by `asm!`, since its intrinsics are not stable Rust.

use super::matmul::{Mat, MatMut, Threads};
use rayon::prelude::*;
use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::RefCell;
use std::sync::LazyLock;

/// Lines of a panel: two tiles.
const LINES: usize = 32;
/// Elements of depth in a tile.
const DEPTH: usize = 32;
/// Bytes of a tile: 16 rows of 32 bf16.
const TILE: usize = 1024;
/// Depth of a block: 160 rows of it in three pieces take 960 KiB, half of a core's second-level cache.
const BLOCK_DEPTH: usize = 1024;
/// Panels of the left operand that one task keeps in its second-level cache.
const BLOCK_PANELS: std::ops::RangeInclusive<usize> = 3..=6;

/// Whether this machine has the unit and the kernel lets this program use it.
pub fn available() -> bool {
    static AVAILABLE: LazyLock<bool> = LazyLock::new(|| {
        let vectors = is_x86_feature_detected!("avx512f");
        // Leaf 7, EDX: AMX-BF16 is bit 22, AMX-TILE bit 24 (Intel SDM, CPUID).
        let leaf = __cpuid_count(7, 0).edx;
        vectors && leaf & (1 << 22) != 0 && leaf & (1 << 24) != 0 && permitted()
    });
    *AVAILABLE
}

/// Asks the kernel for the unit's registers, once for all threads.
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

/// Whether a product is large enough that packing pays.
pub fn worth(rows: usize, cols: usize, depth: usize) -> bool {
    rows >= 8 && cols >= 16 && depth >= 16 && rows * cols * depth >= 1 << 15
}

/// Which side of a product an operand is on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// `a`: a line is a row.
    Left,
    /// `b`: a line is a column.
    Right,
}

/// An operand in tiles, for any number of products.
pub struct Packed {
    buffer: Buffer,
    lines: usize,
    depth: usize,
    pieces: usize,
}

impl Packed {
    /// Packs an operand in so many pieces, one to three.
    pub fn new(mat: Mat<f32>, side: Side, pieces: usize, threads: Threads) -> Packed {
        assert!(available(), "this machine has no tile unit");
        let lines = match side {
            Side::Left => mat,
            Side::Right => mat.t(),
        };
        let bytes = panel_bytes(lines.cols, pieces);
        let len = lines.rows.div_ceil(LINES) * bytes;
        let mut packed = Packed {
            buffer: Buffer::take(len),
            lines: lines.rows,
            depth: lines.cols,
            pieces,
        };
        let panels = packed.buffer.bytes_mut(len);
        let pack = |(i, panel): (usize, &mut [u8])| {
            let part = lines.rows(i * LINES, LINES.min(lines.rows - i * LINES));
            // SAFETY: tiles are made only where `available` found AVX-512; the panel
            // is as long as the depth and the pieces ask for.
            unsafe { pack_panel(part, side, pieces, panel) }
        };
        match threads {
            Threads::All => panels.par_chunks_mut(bytes).enumerate().for_each(pack),
            Threads::One => panels.chunks_mut(bytes).enumerate().for_each(pack),
        }
        packed
    }

    fn panel(&self, i: usize) -> &[u8] {
        let bytes = panel_bytes(self.depth, self.pieces);
        &self.buffer.bytes()[i * bytes..][..bytes]
    }
}

fn panel_bytes(depth: usize, pieces: usize) -> usize {
    depth.div_ceil(DEPTH) * pieces * 2 * TILE
}

/// `c = alpha a b`, or `c += alpha a b` with `accumulate`, by so many pieces.
pub fn multiply(
    alpha: f32,
    a: Mat<f32>,
    b: Mat<f32>,
    accumulate: bool,
    mut c: MatMut<f32>,
    pieces: usize,
    threads: Threads,
) {
    let workers = match threads {
        Threads::All => rayon::current_num_threads(),
        Threads::One => 1,
    };
    let depth = a.cols;
    let block_depth = depth
        .div_ceil(depth.div_ceil(BLOCK_DEPTH))
        .next_multiple_of(DEPTH);
    for from in (0..depth).step_by(block_depth) {
        let count = block_depth.min(depth - from);
        let (a, b) = (a.t().rows(from, count).t(), b.rows(from, count));
        let accumulate = accumulate || from > 0;
        let right = Packed::new(b, Side::Right, pieces, threads);
        let (rows, cols) = task_size(c.rows, c.cols, workers);
        let task = |(row, col, c): (usize, usize, MatMut<f32>)| {
            let left = Packed::new(a.rows(row, c.rows), Side::Left, pieces, Threads::One);
            multiply_from(alpha, &left, &right, col / LINES, accumulate, c);
        };
        let blocks = c.reborrow().blocks(rows, cols);
        match threads {
            Threads::All => blocks.into_par_iter().for_each(task),
            Threads::One => blocks.into_iter().for_each(task),
        }
    }
}

/// Rows and columns of `c` that one task computes: as many panels as fit the cache, so that the
/// tasks can be dealt evenly; columns are cut where there are too few rows.
fn task_size(rows: usize, cols: usize, workers: usize) -> (usize, usize) {
    let panels = rows.div_ceil(LINES);
    let longest = |size: &usize| panels.div_ceil(*size).div_ceil(workers) * size;
    // The last of equals: the larger blocks.
    let size = BLOCK_PANELS.rev().min_by_key(longest).unwrap_or(1);
    let tasks = panels.div_ceil(size);
    let cuts = match tasks < workers {
        true => workers.div_ceil(tasks),
        false => 1,
    };
    (
        size * LINES,
        cols.div_ceil(LINES).div_ceil(cuts).max(1) * LINES,
    )
}

/// `c = alpha a b`, or `c += alpha a b` with `accumulate`, of packed operands on this thread.
pub fn multiply_packed(
    alpha: f32,
    left: &Packed,
    right: &Packed,
    accumulate: bool,
    c: MatMut<f32>,
) {
    assert_eq!((left.lines, right.lines), (c.rows, c.cols));
    multiply_from(alpha, left, right, 0, accumulate, c);
}

/// [`multiply_packed`] with the columns of `right` that begin with panel `first`.
fn multiply_from(
    alpha: f32,
    left: &Packed,
    right: &Packed,
    first: usize,
    accumulate: bool,
    c: MatMut<f32>,
) {
    assert_eq!(
        (left.depth, left.pieces),
        (right.depth, right.pieces),
        "tiles of another product"
    );
    assert!(left.lines >= c.rows && right.lines >= first * LINES + c.cols);
    let (steps, pieces) = (left.depth.div_ceil(DEPTH), left.pieces);
    let mut sums = Sums([0.0; LINES * LINES]);
    let _unit = Unit::configure();
    for col in (0..c.cols).step_by(LINES) {
        let right = right.panel(first + col / LINES);
        for row in (0..c.rows).step_by(LINES) {
            let left = left.panel(row / LINES);
            // SAFETY: both panels hold `steps` times `pieces` pairs of tiles, as `panel` checked;
            // the unit is configured on this thread. The part of `c` lies inside it.
            unsafe {
                panel_product(left, right, steps, pieces, &mut sums);
                let c_part = c.data.add(row * c.stride + col);
                let (rows, cols) = (LINES.min(c.rows - row), LINES.min(c.cols - col));
                add_sums(alpha, &sums, accumulate, c_part, c.stride, rows, cols);
            }
        }
    }
}

/// What the tiles of sums are stored to: 32 x 32, row-major.
#[repr(C, align(64))]
struct Sums([f32; LINES * LINES]);

/// The unit's registers, configured on this thread while this lives: eight tiles of 16 rows of 64 bytes.
struct Unit;

impl Unit {
    fn configure() -> Unit {
        #[repr(C, align(64))]
        struct Config([u8; 64]);
        let mut config = Config([0; 64]);
        config.0[0] = 1; // palette
        for tile in 0..8 {
            config.0[16 + 2 * tile] = 64; // bytes per row
            config.0[48 + tile] = 16; // rows
        }
        // SAFETY: tiles are made only where `available` found the unit and got it from the kernel.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly, preserves_flags));
        }
        Unit
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        // SAFETY: as above; from here on nothing reads the tiles.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) }
    }
}

/// Loads two tiles of an operand's piece, at an offset in the step.
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

/// One piece of the left operand (tmm4, tmm5) times one of the right (tmm6, tmm7).
macro_rules! products {
    () => {
        "tdpbf16ps tmm0, tmm4, tmm6\ntdpbf16ps tmm1, tmm4, tmm7\ntdpbf16ps tmm2, tmm5, tmm6\ntdpbf16ps tmm3, tmm5, tmm7\n"
    };
}

/// The sums of all steps: tmm0 to tmm3 are the four quarters. `$step` bytes go by at each step.
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

/// The 32 x 32 products of two panels. Small products come first, and each change of pieces loads
/// one operand only.
///
/// # Safety
/// The unit must be configured on this thread, and both panels hold `steps` times `pieces` pairs of tiles.
unsafe fn panel_product(left: &[u8], right: &[u8], steps: usize, pieces: usize, sums: &mut Sums) {
    let (left, right, sums) = (left.as_ptr(), right.as_ptr(), sums.0.as_mut_ptr());
    if steps == 0 {
        // SAFETY: `sums` was a reference.
        return unsafe { sums.write_bytes(0, LINES * LINES) };
    }
    // SAFETY: the loads stay inside the panels, as the caller promised, the stores inside `sums`.
    unsafe {
        match pieces {
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

/// The lowest `n` lanes of 16.
fn lanes(n: usize) -> __mmask16 {
    ((1u32 << n.min(16)) - 1) as __mmask16
}

/// `c = alpha sums`, or `c += alpha sums`, for the first rows and columns.
///
/// # Safety
/// `c` must be valid for `rows` x `cols` with so many elements between rows; needs AVX-512.
#[target_feature(enable = "avx512f")]
unsafe fn add_sums(
    alpha: f32,
    sums: &Sums,
    accumulate: bool,
    c: *mut f32,
    stride: usize,
    rows: usize,
    cols: usize,
) {
    let alpha = _mm512_set1_ps(alpha);
    for row in 0..rows {
        for half in (0..cols).step_by(16) {
            let mask = lanes(cols - half);
            // SAFETY: inside the 32 x 32 sums; lanes of `c` beyond `cols` are masked out.
            unsafe {
                let at = c.add(row * stride + half);
                let sum = _mm512_load_ps(sums.0.as_ptr().add(row * LINES + half));
                let sum = _mm512_mul_ps(sum, alpha);
                let sum = match accumulate {
                    true => _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, at)),
                    false => sum,
                };
                _mm512_mask_storeu_ps(at, mask, sum);
            }
        }
    }
}

/// Packs up to 32 lines; what the panel has beyond them and beyond their depth becomes zero.
///
/// Element `i` of a row of pairs is of depths `i` and `16 + i`: which two make a pair is free as long as
/// both operands agree, and these two need no shuffle.
///
/// # Safety
/// The panel must be as long as the depth and the pieces ask for; needs AVX-512.
#[target_feature(enable = "avx512f")]
unsafe fn pack_panel(lines: Mat<f32>, side: Side, pieces: usize, panel: &mut [u8]) {
    assert!(lines.rows <= LINES && lines.row_stride.min(lines.col_stride) <= 1);
    assert_eq!(panel.len(), panel_bytes(lines.cols, pieces));
    // Numbers that lie together are of one line, or of one depth.
    let along_depth = lines.col_stride == 1;
    // A tile's rows are lines on the left, pairs of depths on the right; they come as they lie.
    let turned = along_depth == (side == Side::Right);
    for (step, panel) in panel.chunks_exact_mut(pieces * 2 * TILE).enumerate() {
        let depth = step * DEPTH;
        let deep = DEPTH.min(lines.cols - depth);
        for half in 0..2 {
            let first = half * 16;
            let count = lines.rows.saturating_sub(first).min(16);
            // Row `i` of 16: its 32 depths of line `i`, or depths `i` and `16 + i` of 16 lines.
            let load = |i: usize, second: usize| {
                let (line, depth_at, lanes_read) = match along_depth {
                    true if i < count => (first + i, second * 16, deep.saturating_sub(second * 16)),
                    false if second * 16 + i < deep => (first, second * 16 + i, count),
                    _ => (0, 0, 0),
                };
                let from = line * lines.row_stride + (depth + depth_at) * lines.col_stride;
                // SAFETY: the lanes that are read are elements of the view, whose bounds were
                // checked when it was made.
                unsafe {
                    _mm512_maskz_loadu_ps(lanes(lanes_read), lines.data.as_ptr().wrapping_add(from))
                }
            };
            let mut rest = [(_mm512_setzero_ps(), _mm512_setzero_ps()); 16];
            for (i, rest) in rest.iter_mut().enumerate() {
                *rest = (load(i, 0), load(i, 1));
            }
            for piece in 0..pieces {
                let mut rows = [_mm512_setzero_si512(); 16];
                for (row, (low, high)) in rows.iter_mut().zip(&mut rest) {
                    let (first, second) = (rounded(*low), rounded(*high));
                    *row = _mm512_or_si512(_mm512_srli_epi32::<16>(first), second);
                    // What a piece leaves over is exact in single precision.
                    *low = _mm512_sub_ps(*low, _mm512_castsi512_ps(first));
                    *high = _mm512_sub_ps(*high, _mm512_castsi512_ps(second));
                }
                let rows = if turned { transposed(&rows) } else { rows };
                let tile = &mut panel[(piece * 2 + half) * TILE..][..TILE];
                for (row, to) in rows.iter().zip(tile.chunks_exact_mut(64)) {
                    // SAFETY: the chunk has the 64 bytes.
                    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), *row) }
                }
            }
        }
    }
}

/// The nearest number whose lower 16 bits are zero, a bf16; of two as near, that away from zero.
#[target_feature(enable = "avx512f")]
fn rounded(x: __m512) -> __m512i {
    let half = _mm512_set1_epi32(0x8000);
    let kept = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(x), half), kept)
}

/// The transpose of 16 x 16 elements of 32 bits.
#[target_feature(enable = "avx512f")]
fn transposed(rows: &[__m512i; 16]) -> [__m512i; 16] {
    let mut a = [_mm512_setzero_si512(); 16];
    for i in 0..8 {
        a[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    // Columns 4 q + i of four rows in each quarter q.
    let mut b = a;
    for i in 0..4 {
        let [p, q, r, s] = [a[4 * i], a[4 * i + 1], a[4 * i + 2], a[4 * i + 3]];
        b[4 * i] = _mm512_unpacklo_epi64(p, r);
        b[4 * i + 1] = _mm512_unpackhi_epi64(p, r);
        b[4 * i + 2] = _mm512_unpacklo_epi64(q, s);
        b[4 * i + 3] = _mm512_unpackhi_epi64(q, s);
    }
    let mut out = a;
    for i in 0..4 {
        let (p, q) = (
            _mm512_shuffle_i32x4::<0x88>(b[i], b[4 + i]),
            _mm512_shuffle_i32x4::<0x88>(b[8 + i], b[12 + i]),
        );
        let (r, s) = (
            _mm512_shuffle_i32x4::<0xdd>(b[i], b[4 + i]),
            _mm512_shuffle_i32x4::<0xdd>(b[8 + i], b[12 + i]),
        );
        out[i] = _mm512_shuffle_i32x4::<0x88>(p, q);
        out[8 + i] = _mm512_shuffle_i32x4::<0xdd>(p, q);
        out[4 + i] = _mm512_shuffle_i32x4::<0x88>(r, s);
        out[12 + i] = _mm512_shuffle_i32x4::<0xdd>(r, s);
    }
    out
}

/// 64 bytes, as the vectors want them.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

thread_local! {
    static POOL: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Memory that goes back to its thread for the next product: fresh pages cost more than packing.
struct Buffer(Vec<Line>);

impl Buffer {
    /// Memory of at least so many bytes: the smallest there is, so that large ones stay few.
    fn take(len: usize) -> Buffer {
        let lines = len.div_ceil(64);
        let kept = POOL.with_borrow_mut(|pool| {
            let large = pool
                .iter()
                .enumerate()
                .filter(|(_, kept)| kept.len() >= lines);
            let smallest = large.min_by_key(|(_, kept)| kept.len()).map(|(i, _)| i);
            smallest.map(|i| pool.swap_remove(i))
        });
        Buffer(kept.unwrap_or_else(|| vec![Line([0; 64]); lines]))
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: a `Line` is 64 bytes without padding.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * 64) }
    }

    /// The first bytes, with what they held before.
    fn bytes_mut(&mut self, len: usize) -> &mut [u8] {
        assert!(len <= self.0.len() * 64);
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.0);
        POOL.with_borrow_mut(|pool| pool.push(lines));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::dropout::tests::noise;

    fn single(seed: u64, n: usize) -> Vec<f32> {
        noise(seed, n).iter().map(|v| *v as f32).collect()
    }

    /// The largest error of `a b`, relative to the sum of the products' magnitudes.
    fn error(
        [rows, cols, depth]: [usize; 3],
        turned: (bool, bool),
        pieces: usize,
        threads: Threads,
    ) -> f64 {
        let (a, b) = (single(1, rows * depth), single(2, depth * cols));
        let left = match turned.0 {
            true => Mat::new(&a, depth, rows).t(),
            false => Mat::new(&a, rows, depth),
        };
        let right = match turned.1 {
            true => Mat::new(&b, cols, depth).t(),
            false => Mat::new(&b, depth, cols),
        };
        let start = single(3, rows * cols);
        let mut c = start.clone();
        let out = MatMut::new(&mut c, rows, cols);
        multiply(0.5, left, right, true, out, pieces, threads);
        let at = |m: &Mat<f32>, i: usize, j: usize| {
            f64::from(m.data[i * m.row_stride + j * m.col_stride])
        };
        let mut worst = 0.0f64;
        for i in 0..rows {
            for j in 0..cols {
                let products = (0..depth).map(|k| 0.5 * at(&left, i, k) * at(&right, k, j));
                let magnitude: f64 = products.clone().map(f64::abs).sum();
                let want = f64::from(start[i * cols + j]) + products.sum::<f64>();
                worst = worst.max((f64::from(c[i * cols + j]) - want).abs() / (1.0 + magnitude));
            }
        }
        worst
    }

    #[test]
    fn products_are_as_exact_as_their_pieces() {
        if !available() {
            eprintln!("skipped: this processor has no AMX");
            return;
        }
        let shapes = [
            [32, 32, 32],
            [1, 1, 1],
            [33, 17, 5],
            [70, 100, 65],
            [200, 31, 1100],
            [5, 300, 2100],
        ];
        let mut worst = [0.0f64; 4];
        for turned in [(false, false), (false, true), (true, false), (true, true)] {
            for shape in shapes {
                for (pieces, limit) in [(3, 2.0 * f32::EPSILON), (2, 1.2e-5), (1, 5e-3)] {
                    for threads in [Threads::One, Threads::All] {
                        let error = error(shape, turned, pieces, threads);
                        worst[pieces] = worst[pieces].max(error);
                        assert!(
                            error < f64::from(limit),
                            "{shape:?}, {turned:?}, {pieces} pieces: {error}"
                        );
                    }
                }
            }
        }
        println!(
            "largest error by pieces: {:.1e} {:.1e} {:.1e}",
            worst[1], worst[2], worst[3]
        );
        // One piece is bf16 indeed.
        assert!(error([64, 64, 64], (false, false), 1, Threads::One) > 1e-4);
    }
}
