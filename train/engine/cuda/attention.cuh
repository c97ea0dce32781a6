// Multi-head attention over packed sequences that never stores its scores (FlashAttention, Dao 2022
// and 2023): a block handles a tile of one head's queries (or, for the gradients of keys and
// values, of its keys) and goes over the other side tile by tile.
//
// `qkv` is `n x 3d`: queries, keys, values side by side, heads side by side in each, D numbers to a
// head. The forward pass saves `lse`, the logarithm of the softmax's denominator, per head and row.
// Gradients of queries and of keys and values are two kernels, so that every sum has one owner and
// a fixed order. Grid: (tiles of the longest sequence, heads, sequences).
#pragma once
#include "mma.h"

constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LN_2 = 0.6931471805599453f;

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

// Brain floating point, on tensor cores: four warps of 16 rows; 64 rows of the other side at a
// time.

constexpr int WARPS = 4;
constexpr int TILE_BF16 = 64;
/// Rows in shared memory are 16 bytes longer than D numbers, so that eight of them, which a warp
/// reads at once, lie in different banks.
constexpr int TILE_PADDING = 8;

/// One step of 16 columns: out (16 x 16, two halves) += A times 16 rows of the tile, transposed.
template <int D>
DEVICE void multiply_rows(float out[2][4], const unsigned a[D / 16][4], const bf16* tile, int row) {
    UNROLL for (int k = 0; k < D / 16; ++k) {
        unsigned b[4];
        load_b_rows(b, tile, D + TILE_PADDING, row, k * 16);
        multiply_add(out[0], a[k], b);
        multiply_add(out[1], a[k], b + 2);
    }
}

/// acc (16 x D) += (16 x 16, two halves) times 16 rows of the tile.
template <int D>
DEVICE void multiply_tile(float acc[D / 8][4], const float weights[2][4], const bf16* tile, int row) {
    unsigned a[4], b[4];
    concat_a(a, weights[0], weights[1]);
    UNROLL for (int i = 0; i < D / 16; ++i) {
        load_b(b, tile, D + TILE_PADDING, row, i * 16);
        multiply_add(acc[2 * i], a, b);
        multiply_add(acc[2 * i + 1], a, b + 2);
    }
}

/// out = softmax(q k^T scale) v.
template <int D>
DEVICE void attention_forward(const bf16* qkv, bf16* out, float* lse, Attention h) {
    constexpr int STRIDE = D + TILE_PADDING;
    SHARED(bf16, keys);
    bf16* values = keys + TILE_BF16 * STRIDE;
    BlockTile p = block_tile(h, TILE_BF16);
    if (p.from >= p.length) return;
    int warp = threadIdx.x / 32, g = lane() / 4, t = lane() % 4;
    size_t stride = 3 * size_t(h.d);
    const bf16* base = qkv + p.start * stride + p.head * D;

    unsigned q[D / 16][4];
    load_tile<TILE_BF16, D, STRIDE>(keys, base + p.from * stride, stride, p.length - p.from);
    __syncthreads();
    UNROLL for (int k = 0; k < D / 16; ++k) load_a(q[k], keys, STRIDE, warp * 16, k * 16);

    // Rows g and g + 8 of the warp: highest score so far (in powers of 2), sum, weighted values.
    float running_max[2] = {-INFINITY, -INFINITY}, sum[2] = {0.f, 0.f}, acc[D / 8][4] = {};
    float scale = h.scale * LOG2_E;
    for (int tile = 0; tile < p.length; tile += TILE_BF16) {
        __syncthreads();
        load_tile<TILE_BF16, D, STRIDE>(keys, base + h.d + tile * stride, stride, p.length - tile);
        load_tile<TILE_BF16, D, STRIDE>(values, base + 2 * h.d + tile * stride, stride, p.length - tile);
        __syncthreads();
        float s[TILE_BF16 / 8][4] = {};
        UNROLL for (int j = 0; j < TILE_BF16 / 16; ++j) multiply_rows<D>(s + 2 * j, q, keys, j * 16);
        float top[2] = {running_max[0], running_max[1]};
        UNROLL for (int j = 0; j < TILE_BF16 / 8; ++j)
            UNROLL for (int e = 0; e < 4; ++e) {
                bool inside = tile + j * 8 + 2 * t + e % 2 < p.length;
                s[j][e] = inside ? s[j][e] * scale : -INFINITY;
                top[e / 2] = fmaxf(top[e / 2], s[j][e]);
            }
        UNROLL for (int r = 0; r < 2; ++r) {
            top[r] = quad_max(top[r]);
            float shrink = exp2f(running_max[r] - top[r]);
            running_max[r] = top[r];
            sum[r] *= shrink;
            UNROLL for (int i = 0; i < D / 8; ++i) acc[i][2 * r] *= shrink, acc[i][2 * r + 1] *= shrink;
        }
        UNROLL for (int j = 0; j < TILE_BF16 / 8; ++j)
            UNROLL for (int e = 0; e < 4; ++e) {
                s[j][e] = exp2f(s[j][e] - running_max[e / 2]);
                sum[e / 2] += s[j][e];
            }
        if (h.drop.threshold)
            UNROLL for (int j = 0; j < TILE_BF16 / 8; ++j)
                UNROLL for (int e = 0; e < 4; ++e)
                    s[j][e] *= probability_factor(h, p, p.from + warp * 16 + g + e / 2 * 8,
                                                tile + j * 8 + 2 * t + e % 2);
        UNROLL for (int j = 0; j < TILE_BF16 / 16; ++j) multiply_tile<D>(acc, s + 2 * j, values, j * 16);
    }
    UNROLL for (int r = 0; r < 2; ++r) {
        int row = p.from + warp * 16 + g + r * 8;
        float total = quad_sum(sum[r]);
        if (row >= p.length) continue;
        bf16* to = out + size_t(p.start + row) * h.d + p.head * D;
        UNROLL for (int i = 0; i < D / 8; ++i)
            *reinterpret_cast<unsigned*>(to + i * 8 + 2 * t) = pack(acc[i][2 * r] / total, acc[i][2 * r + 1] / total);
        if (t == 0) lse[size_t(p.head) * h.n + p.start + row] = (running_max[r] + log2f(total)) * LN_2;
    }
}

/// Writes 16 x D sums of a warp as bf16 into rows of `stride`, those below `count`.
template <int D>
DEVICE void store_rows(bf16* to, size_t stride, const float acc[D / 8][4], float scale, int count) {
    int g = lane() / 4, t = lane() % 4;
    for (int r = 0; r < 2; ++r) {
        if (g + r * 8 >= count) continue;
        bf16* row = to + (g + r * 8) * stride;
        for (int i = 0; i < D / 8; ++i)
            *reinterpret_cast<unsigned*>(row + i * 8 + 2 * t) = pack(acc[i][2 * r] * scale, acc[i][2 * r + 1] * scale);
    }
}

/// The gradient of the queries: a block per tile of queries, over all keys.
template <int D>
DEVICE void attention_backward_q(const bf16* qkv, const bf16* d_out, const float* lse, const float* delta,
                                 bf16* d_qkv, Attention h) {
    constexpr int STRIDE = D + TILE_PADDING;
    SHARED(bf16, keys);
    bf16* values = keys + TILE_BF16 * STRIDE;
    BlockTile p = block_tile(h, TILE_BF16);
    if (p.from >= p.length) return;
    int warp = threadIdx.x / 32, g = lane() / 4, t = lane() % 4;
    size_t stride = 3 * size_t(h.d);
    const bf16* base = qkv + p.start * stride + p.head * D;

    unsigned q[D / 16][4], d_o[D / 16][4];
    load_tile<TILE_BF16, D, STRIDE>(keys, base + p.from * stride, stride, p.length - p.from);
    load_tile<TILE_BF16, D, STRIDE>(values, d_out + size_t(p.start + p.from) * h.d + p.head * D, size_t(h.d),
                               p.length - p.from);
    __syncthreads();
    for (int k = 0; k < D / 16; ++k) {
        load_a(q[k], keys, STRIDE, warp * 16, k * 16);
        load_a(d_o[k], values, STRIDE, warp * 16, k * 16);
    }
    float row_lse[2], row_delta[2];
    for (int r = 0; r < 2; ++r) {
        int row = p.from + warp * 16 + g + r * 8;
        size_t at = size_t(p.head) * h.n + p.start + row;
        row_lse[r] = row < p.length ? lse[at] * LOG2_E : 0.f;
        row_delta[r] = row < p.length ? delta[at] : 0.f;
    }
    float dq[D / 8][4] = {}, scale = h.scale * LOG2_E;
    for (int tile = 0; tile < p.length; tile += TILE_BF16) {
        __syncthreads();
        load_tile<TILE_BF16, D, STRIDE>(keys, base + h.d + tile * stride, stride, p.length - tile);
        load_tile<TILE_BF16, D, STRIDE>(values, base + 2 * h.d + tile * stride, stride, p.length - tile);
        __syncthreads();
        // 16 keys at a time, so that few registers are needed.
        for (int j = 0; j < TILE_BF16 / 16; ++j) {
            float s[2][4] = {}, dp[2][4] = {};
            multiply_rows<D>(s, q, keys, j * 16);
            multiply_rows<D>(dp, d_o, values, j * 16);
            for (int c = 0; c < 2; ++c)
                for (int e = 0; e < 4; ++e) {
                    int query = p.from + warp * 16 + g + e / 2 * 8, key = tile + j * 16 + c * 8 + 2 * t + e % 2;
                    float mask = probability_factor(h, p, query, key);
                    float prob = key < p.length ? exp2f(s[c][e] * scale - row_lse[e / 2]) : 0.f;
                    s[c][e] = prob * (mask * dp[c][e] - row_delta[e / 2]);
                }
            multiply_tile<D>(dq, s, keys, j * 16);
        }
    }
    int row = p.from + warp * 16;
    store_rows<D>(d_qkv + (p.start + row) * stride + p.head * D, stride, dq, h.scale, p.length - row);
}

/// The gradients of keys and values: a block per tile of keys, over all queries.
template <int D>
DEVICE void attention_backward_kv(const bf16* qkv, const bf16* d_out, const float* lse, const float* delta,
                                  bf16* d_qkv, Attention h) {
    constexpr int STRIDE = D + TILE_PADDING;
    SHARED(bf16, queries);
    bf16* d_outs = queries + TILE_BF16 * STRIDE;
    float* row_lse = reinterpret_cast<float*>(d_outs + TILE_BF16 * STRIDE);
    float* row_delta = row_lse + TILE_BF16;
    BlockTile p = block_tile(h, TILE_BF16);
    if (p.from >= p.length) return;
    int warp = threadIdx.x / 32, g = lane() / 4, t = lane() % 4;
    size_t stride = 3 * size_t(h.d);
    const bf16* base = qkv + p.start * stride + p.head * D;

    unsigned keys[D / 16][4], values[D / 16][4];
    load_tile<TILE_BF16, D, STRIDE>(queries, base + h.d + p.from * stride, stride, p.length - p.from);
    load_tile<TILE_BF16, D, STRIDE>(d_outs, base + 2 * h.d + p.from * stride, stride, p.length - p.from);
    __syncthreads();
    for (int k = 0; k < D / 16; ++k) {
        load_a(keys[k], queries, STRIDE, warp * 16, k * 16);
        load_a(values[k], d_outs, STRIDE, warp * 16, k * 16);
    }
    float dk[D / 8][4] = {}, dv[D / 8][4] = {}, scale = h.scale * LOG2_E;
    for (int tile = 0; tile < p.length; tile += TILE_BF16) {
        __syncthreads();
        load_tile<TILE_BF16, D, STRIDE>(queries, base + tile * stride, stride, p.length - tile);
        load_tile<TILE_BF16, D, STRIDE>(d_outs, d_out + size_t(p.start + tile) * h.d + p.head * D, size_t(h.d),
                                   p.length - tile);
        for (int i = threadIdx.x; i < TILE_BF16; i += blockDim.x) {
            size_t at = size_t(p.head) * h.n + p.start + tile + i;
            row_lse[i] = tile + i < p.length ? lse[at] * LOG2_E : 0.f;
            row_delta[i] = tile + i < p.length ? delta[at] : 0.f;
        }
        __syncthreads();
        for (int j = 0; j < TILE_BF16 / 16; ++j) {
            // Scores transposed: rows are keys, columns queries.
            float s[2][4] = {}, dp[2][4] = {};
            multiply_rows<D>(s, keys, queries, j * 16);
            multiply_rows<D>(dp, values, d_outs, j * 16);
            for (int c = 0; c < 2; ++c)
                for (int e = 0; e < 4; ++e) {
                    int in_tile = j * 16 + c * 8 + 2 * t + e % 2, query = tile + in_tile;
                    int key = p.from + warp * 16 + g + e / 2 * 8;
                    bool inside = query < p.length && key < p.length;
                    float mask = probability_factor(h, p, query, key);
                    float prob = inside ? exp2f(s[c][e] * scale - row_lse[in_tile]) : 0.f;
                    s[c][e] = prob * mask;
                    dp[c][e] = prob * (mask * dp[c][e] - row_delta[in_tile]);
                }
            multiply_tile<D>(dv, s, d_outs, j * 16);
            multiply_tile<D>(dk, dp, queries, j * 16);
        }
    }
    int row = p.from + warp * 16;
    bf16* to = d_qkv + (p.start + row) * stride + p.head * D;
    store_rows<D>(to + h.d, stride, dk, h.scale, p.length - row);
    store_rows<D>(to + 2 * h.d, stride, dv, 1.f, p.length - row);
}

// Single precision: four lanes share a row, each with every fourth of its D numbers; 32 rows to a
// block, 32 of the other side at a time.

constexpr int LANES = 4;
constexpr int TILE_F32 = 32;

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
