// Matrix products of one warp on tensor cores: D (16 x 8) += A (16 x 16) B (16 x 8), operands in bf16,
// sums in single precision. The elements that each lane holds are those of the PTX ISA, section "Matrix
// Fragments for mma.m16n8k16": with g = lane / 4 and t = lane % 4,
//   A: registers (g, 2t) (g + 8, 2t) (g, 2t + 8) (g + 8, 2t + 8), two neighbours along a row in each;
//   B: registers (2t, g) (2t + 8, g), two neighbours along a column in each;
//   D: numbers (g, 2t) (g, 2t + 1) (g + 8, 2t) (g + 8, 2t + 1).
#pragma once
#include "numbers.h"

/// Loads four 8 x 8 matrices: lane l points to row l % 8 of matrix l / 8 and receives, of each
/// matrix, the two neighbours at (l / 4, 2 (l % 4)), or with `transposed` at (2 (l % 4), l / 4)
/// down a column.
template <bool transposed>
DEVICE void load_matrices(unsigned r[4], const bf16* row) {
#ifdef __CUDACC__
    unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
    if (transposed)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(address)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(address)
                     : "memory");
#else
    unsigned lane = emulated::current % 32, g = lane / 4, t = lane % 4;
    emulated::slot(lane).pointer = row;
    emulated::wait_at(emulated::warp());
    for (int m = 0; m < 4; ++m) {
        auto at = [&](unsigned i, unsigned j) {
            return unsigned(static_cast<const bf16*>(emulated::slot(8 * m + i).pointer)[j].bits);
        };
        r[m] = transposed ? at(2 * t, g) | at(2 * t + 1, g) << 16 : at(g, 2 * t) | at(g, 2 * t + 1) << 16;
    }
    emulated::wait_at(emulated::warp());
#endif
}

/// Computes D += A B.
DEVICE void multiply_add(float d[4], const unsigned a[4], const unsigned b[2]) {
#ifdef __CUDACC__
#if __CUDA_ARCH__ >= 800
    // All lanes of the warp take part, so the compiler must not move it into a branch or copy it.
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    __trap();  // The host launches no kernel of bf16 on such a card.
#endif
#else
    unsigned lane = emulated::current % 32, g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) emulated::slot(lane).words[i] = a[i];
    for (int i = 0; i < 2; ++i) emulated::slot(lane).words[4 + i] = b[i];
    emulated::wait_at(emulated::warp());
    auto half = [](unsigned word, unsigned which) { return bits_to_float(which ? word & 0xffff0000u : word << 16); };
    for (unsigned e = 0; e < 4; ++e) {
        unsigned row = g + e / 2 * 8, col = 2 * t + e % 2;
        for (unsigned k = 0; k < 16; ++k) {
            unsigned left = emulated::slot(row % 8 * 4 + k % 8 / 2).words[k / 8 * 2 + row / 8];
            unsigned right = emulated::slot(col * 4 + k % 8 / 2).words[4 + k / 8];
            d[e] += half(left, k % 2) * half(right, k % 2);
        }
    }
    emulated::wait_at(emulated::warp());
#endif
}

/// Loads A from a tile in shared memory, rows from `row` and columns from `col` on.
DEVICE void load_a(unsigned a[4], const bf16* tile, int stride, int row, int col) {
    int lane = threadIdx.x % 32;
    load_matrices<false>(a, tile + (row + lane % 16) * stride + col + lane / 16 * 8);
}

/// Loads two B side by side (b[0..2], b[2..4]) whose columns are the tile's rows, for a product
/// with the transposed tile.
DEVICE void load_b_rows(unsigned b[4], const bf16* tile, int stride, int row, int col) {
    int lane = threadIdx.x % 32;
    load_matrices<false>(b, tile + (row + lane % 8 + lane / 16 * 8) * stride + col + lane / 8 % 2 * 8);
}

/// Loads two B side by side as they lie in the tile: 16 rows from `row`, 16 columns from `col` on.
DEVICE void load_b(unsigned b[4], const bf16* tile, int stride, int row, int col) {
    // The addresses of `load_b_rows`, so that a loop with both keeps one register for them.
    int lane = threadIdx.x % 32;
    unsigned r[4];
    load_matrices<true>(r, tile + (row + lane % 8 + lane / 16 * 8) * stride + col + lane / 8 % 2 * 8);
    b[0] = r[0], b[1] = r[2], b[2] = r[1], b[3] = r[3];
}

/// Rounds two neighbouring D (16 x 8 each) to one A (16 x 16).
DEVICE void concat_a(unsigned a[4], const float left[4], const float right[4]) {
    a[0] = pack(left[0], left[1]);
    a[1] = pack(left[2], left[3]);
    a[2] = pack(right[0], right[1]);
    a[3] = pack(right[2], right[3]);
}
