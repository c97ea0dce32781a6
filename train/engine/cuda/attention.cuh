// Multi-head attention over packed sequences that never stores its scores (FlashAttention, Dao 2022
// and 2023): a block handles a tile of one head's queries (or, for the gradients of keys and
// values, of its keys) and goes over the other side tile by tile.
//
// `qkv` is `n x 3d`: queries, keys, values side by side, heads side by side in each, D numbers to a
// head. The forward pass saves `lse`, the logarithm of the softmax's denominator, per head and row.
// Gradients of queries and of keys and values are two kernels, so that every sum has one owner and
// a fixed order. Grid: (tiles of the longest sequence, heads, sequences).
#pragma once
#include "numbers.h"

/// The arguments that all attention kernels share.
struct Attention {
    /// The rows at which sequences begin, and the total; the number of each sequence's sample.
    const unsigned* offsets;
    const unsigned* samples;
    int n, d;
    /// 1 / sqrt(D).
    float scale;
    Dropout drop;
};

/// The tile of a block: its sequence and head, and its first row.
struct BlockTile {
    int start, length, from, head, heads;
    unsigned sample;
};

DEVICE BlockTile block_tile(const Attention& h, int tile) {
    BlockTile p;
    p.start = h.offsets[blockIdx.z];
    p.length = h.offsets[blockIdx.z + 1] - p.start;
    p.from = blockIdx.x * tile;
    p.head = blockIdx.y;
    p.heads = gridDim.y;
    p.sample = h.samples[blockIdx.z];
    return p;
}

/// Returns the largest number, or the sum, of the four lanes that share a row.
DEVICE float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
DEVICE float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

/// delta[head, row] = out . d_out of that head: the sum of p dp over a row. One warp per row and
/// head.
template <class T>
DEVICE void attention_delta(const T* out, const T* d_out, float* delta, int n, int d, int heads) {
    int index = warp_row(), row = index / heads, head = index % heads, dim = d / heads;
    if (row >= n) return;
    float sum = 0.f;
    for (int c = lane(); c < dim; c += 32) {
        size_t at = size_t(row) * d + head * dim + c;
        sum += load(out + at) * load(d_out + at);
    }
    sum = warp_sum(sum);
    if (lane() == 0) delta[size_t(head) * n + row] = sum;
}
