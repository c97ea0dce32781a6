// Attention in single precision: four lanes share a row, each with every fourth of its D numbers; 32
// rows to a block, 32 of the other side at a time.
#pragma once
#include "attention.cuh"

constexpr int LANES = 4;
constexpr int TILE_F32 = 32;

/// Returns the dropout factor of the probability of `query` and `key`, as `src/cpu/attention.rs`
/// draws it.
DEVICE float probability_factor(const Attention& h, const BlockTile& p, int query, int key) {
    if (!h.drop.threshold) return 1.f;
    unsigned words[4];
    random_words(h.drop, 0, p.sample, p.head * p.length + query, p.length, key / 8, words);
    return dropout_factor(h.drop, words, key % 8);
}

/// Copies `ROWS` rows of D numbers into shared memory, with zeros from row `count` on.
template <int ROWS, int D, int STRIDE, class T>
DEVICE void load_tile(T* tile, const T* from, size_t stride, int count) {
    constexpr int PER_ROW = D * int(sizeof(T)) / 16;
    for (int i = threadIdx.x; i < ROWS * PER_ROW; i += blockDim.x) {
        int row = i / PER_ROW, c = i % PER_ROW;
        Quad quad = {{0, 0, 0, 0}};
        if (row < count) quad = reinterpret_cast<const Quad*>(from + row * stride)[c];
        reinterpret_cast<Quad*>(tile + row * STRIDE)[c] = quad;
    }
}

/// Loads the lane's share of a row.
template <int D>
DEVICE void load_share(float x[D / LANES], const float* row, bool inside) {
    for (int i = 0; i < D / LANES; ++i) x[i] = inside ? row[i * LANES + threadIdx.x % LANES] : 0.f;
}

template <int D>
DEVICE void store_share(float* row, const float x[D / LANES], float scale) {
    for (int i = 0; i < D / LANES; ++i) row[i * LANES + threadIdx.x % LANES] = x[i] * scale;
}

/// Returns the dot product with a row in shared memory, in all four lanes.
template <int D>
DEVICE float dot(const float x[D / LANES], const float* row) {
    float sum = 0.f;
    for (int i = 0; i < D / LANES; ++i) sum += x[i] * row[i * LANES + threadIdx.x % LANES];
    return quad_sum(sum);
}

template <int D>
DEVICE void add_scaled(float acc[D / LANES], float weight, const float* row) {
    for (int i = 0; i < D / LANES; ++i) acc[i] += weight * row[i * LANES + threadIdx.x % LANES];
}

template <int D>
DEVICE void attention_forward(const float* qkv, float* out, float* lse, Attention h) {
    SHARED(float, keys);
    float* values = keys + TILE_F32 * D;
    BlockTile p = block_tile(h, TILE_F32);
    if (p.from >= p.length) return;
    size_t stride = 3 * size_t(h.d);
    const float* base = qkv + p.start * stride + p.head * D;
    int row = p.from + threadIdx.x / LANES;
    float q[D / LANES], acc[D / LANES] = {}, running_max = -INFINITY, sum = 0.f;
    load_share<D>(q, base + row * stride, row < p.length);
    for (int tile = 0; tile < p.length; tile += TILE_F32) {
        int count = p.length - tile < TILE_F32 ? p.length - tile : TILE_F32;
        __syncthreads();
        load_tile<TILE_F32, D, D>(keys, base + h.d + tile * stride, stride, count);
        load_tile<TILE_F32, D, D>(values, base + 2 * h.d + tile * stride, stride, count);
        __syncthreads();
        float s[TILE_F32], top = running_max;
        UNROLL for (int j = 0; j < TILE_F32; ++j) {
            s[j] = j < count ? dot<D>(q, keys + j * D) * h.scale : -INFINITY;
            top = fmaxf(top, s[j]);
        }
        float shrink = expf(running_max - top);
        running_max = top;
        sum *= shrink;
        for (int i = 0; i < D / LANES; ++i) acc[i] *= shrink;
        UNROLL for (int j = 0; j < TILE_F32; ++j) {
            float prob = expf(s[j] - running_max);
            sum += prob;
            add_scaled<D>(acc, prob * probability_factor(h, p, row, tile + j), values + j * D);
        }
    }
    if (row >= p.length) return;
    store_share<D>(out + size_t(p.start + row) * h.d + p.head * D, acc, 1.f / sum);
    if (threadIdx.x % LANES == 0) lse[size_t(p.head) * h.n + p.start + row] = running_max + logf(sum);
}

template <int D>
DEVICE void attention_backward_q(const float* qkv, const float* d_out, const float* lse, const float* delta,
                                 float* d_qkv, Attention h) {
    SHARED(float, keys);
    float* values = keys + TILE_F32 * D;
    BlockTile p = block_tile(h, TILE_F32);
    if (p.from >= p.length) return;
    size_t stride = 3 * size_t(h.d);
    const float* base = qkv + p.start * stride + p.head * D;
    int row = p.from + threadIdx.x / LANES;
    bool inside = row < p.length;
    size_t at = size_t(p.head) * h.n + p.start + row;
    float q[D / LANES], d_o[D / LANES], dq[D / LANES] = {};
    load_share<D>(q, base + row * stride, inside);
    load_share<D>(d_o, d_out + size_t(p.start + row) * h.d + p.head * D, inside);
    float row_lse = inside ? lse[at] : 0.f, row_delta = inside ? delta[at] : 0.f;
    for (int tile = 0; tile < p.length; tile += TILE_F32) {
        int count = p.length - tile < TILE_F32 ? p.length - tile : TILE_F32;
        __syncthreads();
        load_tile<TILE_F32, D, D>(keys, base + h.d + tile * stride, stride, count);
        load_tile<TILE_F32, D, D>(values, base + 2 * h.d + tile * stride, stride, count);
        __syncthreads();
        for (int j = 0; j < count; ++j) {
            float prob = expf(dot<D>(q, keys + j * D) * h.scale - row_lse);
            float dp = dot<D>(d_o, values + j * D) * probability_factor(h, p, row, tile + j);
            add_scaled<D>(dq, prob * (dp - row_delta), keys + j * D);
        }
    }
    if (inside) store_share<D>(d_qkv + (p.start + row) * stride + p.head * D, dq, h.scale);
}

template <int D>
DEVICE void attention_backward_kv(const float* qkv, const float* d_out, const float* lse, const float* delta,
                                  float* d_qkv, Attention h) {
    SHARED(float, queries);
    float* d_outs = queries + TILE_F32 * D;
    float* row_lse = d_outs + TILE_F32 * D;
    float* row_delta = row_lse + TILE_F32;
    BlockTile p = block_tile(h, TILE_F32);
    if (p.from >= p.length) return;
    size_t stride = 3 * size_t(h.d);
    const float* base = qkv + p.start * stride + p.head * D;
    int row = p.from + threadIdx.x / LANES;
    bool inside = row < p.length;
    float key[D / LANES], value[D / LANES], dk[D / LANES] = {}, dv[D / LANES] = {};
    load_share<D>(key, base + h.d + row * stride, inside);
    load_share<D>(value, base + 2 * h.d + row * stride, inside);
    for (int tile = 0; tile < p.length; tile += TILE_F32) {
        int count = p.length - tile < TILE_F32 ? p.length - tile : TILE_F32;
        __syncthreads();
        load_tile<TILE_F32, D, D>(queries, base + tile * stride, stride, count);
        load_tile<TILE_F32, D, D>(d_outs, d_out + size_t(p.start + tile) * h.d + p.head * D, size_t(h.d), count);
        for (int i = threadIdx.x; i < count; i += blockDim.x) {
            size_t at = size_t(p.head) * h.n + p.start + tile + i;
            row_lse[i] = lse[at], row_delta[i] = delta[at];
        }
        __syncthreads();
        for (int j = 0; j < count; ++j) {
            float mask = probability_factor(h, p, tile + j, row);
            float prob = expf(dot<D>(key, queries + j * D) * h.scale - row_lse[j]);
            float dp = dot<D>(value, d_outs + j * D) * mask;
            add_scaled<D>(dv, prob * mask, d_outs + j * D);
            add_scaled<D>(dk, prob * (dp - row_delta[j]), queries + j * D);
        }
    }
    if (!inside) return;
    store_share<D>(d_qkv + (p.start + row) * stride + h.d + p.head * D, dk, h.scale);
    store_share<D>(d_qkv + (p.start + row) * stride + 2 * h.d + p.head * D, dv, 1.f);
}
