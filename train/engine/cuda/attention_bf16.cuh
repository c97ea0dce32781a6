// Attention in bf16 on tensor cores: a block of four warps, each of which holds 16 M rows of one side in
// registers and goes over the other side in tiles of 64 rows. While the warps multiply one tile, the next
// one is copied to the other half of the block's shared memory.
//
// M is 1 or 2. With M = 2 (128 rows to a block) all that a warp loads from shared memory enters twice as
// many products, but a thread needs almost twice the registers, and short sequences fill blocks less well.
#pragma once
#include "async_copy.h"
#include "attention.cuh"
#include "mma.h"

constexpr int WARPS = 4;
/// Rows of the other side in shared memory at a time.
constexpr int TILE_BF16 = 64;
/// Rows in shared memory are 16 bytes longer than D numbers, so that eight of them, which a warp
/// reads at once, lie in different banks.
constexpr int TILE_PADDING = 8;
constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LN_2 = 0.6931471805599453f;

/// Some columns of a matrix: D numbers of each row, rows `stride` apart.
struct Columns {
    const bf16* first;
    int stride;
};

/// Issues the copies of `ROWS` rows to shared memory, with zeros from row `count` on.
template <int ROWS, int D, int UNROLLED = 4>
DEVICE void copy_rows(bf16* to, Columns from, int row, int count) {
    constexpr int PER_ROW = D / VECTOR_WIDTH;
    const bf16* first = from.first + size_t(row) * from.stride;
    UNROLL_BY(UNROLLED) for (int i = threadIdx.x; i < ROWS * PER_ROW; i += WARPS * 32) {
        int r = i / PER_ROW, c = i % PER_ROW * VECTOR_WIDTH;
        copy_async<16>(to + r * (D + TILE_PADDING) + c, first + r * from.stride + c, row + r < count);
    }
}

/// The other side of a block: tiles of the rows of two matrices, and for the gradients of keys and values
/// of two numbers per row. Fewer copies at a time (`UNROLLED`) need fewer registers.
template <int D, int UNROLLED = 4>
struct Tiles {
    /// Numbers of one matrix's tile, and of a stage: a tile of each, then two floats per row.
    static constexpr int NUMBERS = TILE_BF16 * (D + TILE_PADDING);
    static constexpr int STAGE = 2 * NUMBERS + 4 * TILE_BF16;

    bf16* shared;
    Columns a, b;
    /// Null, or the thread's numbers.
    const float* numbers;
    int length;

    DEVICE bf16* stage(int number) const { return shared + number % 2 * STAGE; }

    /// Issues the copies of tile `number` as a group.
    DEVICE void copy(int number) const {
        bf16* to = stage(number);
        int row = number * TILE_BF16;
        copy_rows<TILE_BF16, D, UNROLLED>(to, a, row, length);
        copy_rows<TILE_BF16, D, UNROLLED>(to + NUMBERS, b, row, length);
        if (numbers)
            copy_async<4>(reinterpret_cast<float*>(to + 2 * NUMBERS) + threadIdx.x, numbers + row,
                          row + int(threadIdx.x % TILE_BF16) < length);
        commit_copies();
    }

    /// Waits for tile `number`, issues the copies of the next one, and returns the tile.
    DEVICE const bf16* next(int number) const {
        wait_for_copies<0>();
        // All warps have what others copied, and none still reads the tile before this one.
        __syncthreads();
        if ((number + 1) * TILE_BF16 < length) copy(number + 1);
        return stage(number);
    }
};

/// The rows of a block that its warps hold in registers, as A of mma.h.
template <int D, int M>
struct OwnRows {
    unsigned a[M][D / 16][4];

    DEVICE void load(const bf16* shared) {
        int row = threadIdx.x / 32 * 16 * M;
        UNROLL for (int m = 0; m < M; ++m)
            UNROLL for (int k = 0; k < D / 16; ++k)
                load_a(a[m][k], shared, D + TILE_PADDING, row + m * 16, k * 16);
    }
};

/// out (16 M x 16) = own rows times 16 rows of the tile, transposed.
template <int D, int M>
DEVICE void multiply_rows(float out[M][2][4], const OwnRows<D, M>& own, const bf16* tile, int row) {
    UNROLL for (int m = 0; m < M; ++m)
        UNROLL for (int e = 0; e < 4; ++e) out[m][0][e] = out[m][1][e] = 0.f;
    UNROLL for (int k = 0; k < D / 16; ++k) {
        unsigned b[4];
        load_b_rows(b, tile, D + TILE_PADDING, row, k * 16);
        UNROLL for (int m = 0; m < M; ++m) {
            multiply_add(out[m][0], own.a[m][k], b);
            multiply_add(out[m][1], own.a[m][k], b + 2);
        }
    }
}

/// acc (16 M x D) += weights (16 M x 16) times 16 rows of the tile.
template <int D, int M>
DEVICE void multiply_tile(float acc[M][D / 8][4], const float weights[M][2][4], const bf16* tile, int row) {
    unsigned a[M][4], b[4];
    UNROLL for (int m = 0; m < M; ++m) concat_a(a[m], weights[m][0], weights[m][1]);
    UNROLL for (int i = 0; i < D / 16; ++i) {
        load_b(b, tile, D + TILE_PADDING, row, i * 16);
        UNROLL for (int m = 0; m < M; ++m) {
            multiply_add(acc[m][2 * i], a[m], b);
            multiply_add(acc[m][2 * i + 1], a[m], b + 2);
        }
    }
}

/// Returns one bit for each key of a group of eight: whether dropout keeps its probability.
DEVICE unsigned kept_keys(const Attention& h, const BlockTile& p, int query, int group) {
    unsigned words[4], kept = 0;
    random_words(h.drop, 0, p.sample, p.head * p.length + query, p.length, group, words);
    UNROLL for (int i = 0; i < 8; ++i) kept |= unsigned(!is_dropped(h.drop, words, i)) << i;
    return kept;
}

/// Draws the dropout of 16 x 16 probabilities, rows are queries: bits for `query_factor`. One draw serves
/// eight keys: each of the four lanes that share rows makes one of the four draws that they need.
DEVICE unsigned draw_queries(const Attention& h, const BlockTile& p, int query, int key) {
    int g = lane() / 4, t = lane() % 4;
    unsigned kept = kept_keys(h, p, query + g + t % 2 * 8, key / 8 + t / 2) << (8 * t);
    kept |= __shfl_xor_sync(0xffffffffu, kept, 1);
    kept |= __shfl_xor_sync(0xffffffffu, kept, 2);
    return kept >> (2 * t);
}

/// Returns the dropout factor of element e of half c.
DEVICE float query_factor(const Attention& h, unsigned kept, int c, int e) {
    return kept >> (16 * c + e / 2 * 8 + e % 2) & 1 ? h.drop.scale : 0.f;
}

/// Draws the dropout of 16 x 16 probabilities, rows are keys: bits for `key_factor`. Eight lanes share
/// columns, and each makes one of the eight draws that they need.
DEVICE unsigned draw_keys(const Attention& h, const BlockTile& p, int key, int query) {
    int g = lane() / 4, t = lane() % 4;
    unsigned own = kept_keys(h, p, query + g / 4 * 8 + 2 * t + g % 2, key / 8 + g / 2 % 2) << (8 * (g % 4));
    unsigned kept[2] = {g < 4 ? own : 0, g < 4 ? 0 : own};
    UNROLL for (int c = 0; c < 2; ++c) {
        UNROLL for (int mask = 4; mask < 32; mask *= 2) kept[c] |= __shfl_xor_sync(0xffffffffu, kept[c], mask);
        kept[c] = kept[c] >> g & 0x01010101;
    }
    return kept[0] | kept[1] << 1;
}

DEVICE float key_factor(const Attention& h, unsigned kept, int c, int e) {
    return kept >> (8 * e + c) & 1 ? h.drop.scale : 0.f;
}

/// Writes 16 x D sums of a warp as bf16 into rows of `stride`, those below `count`.
template <int D>
DEVICE void store_rows(bf16* to, size_t stride, const float acc[D / 8][4], float scale, int count) {
    int g = lane() / 4, t = lane() % 4;
    UNROLL for (int r = 0; r < 2; ++r) {
        if (g + r * 8 >= count) continue;
        bf16* row = to + (g + r * 8) * stride;
        UNROLL for (int i = 0; i < D / 8; ++i)
            *reinterpret_cast<unsigned*>(row + i * 8 + 2 * t) = pack(acc[i][2 * r] * scale, acc[i][2 * r + 1] * scale);
    }
}

/// out = softmax(q k^T scale) v.
template <int D, int M, bool DROP>
DEVICE void attention_forward(const bf16* qkv, bf16* out, float* lse, const Attention& h) {
    BlockTile p = block_tile(h, WARPS * 16 * M);
    if (p.from >= p.length) return;
    int g = lane() / 4, t = lane() % 4, row = p.from + threadIdx.x / 32 * 16 * M;
    int stride = 3 * h.d;
    const bf16* base = qkv + size_t(p.start) * stride + p.head * D;
    SHARED(bf16, shared);
    Tiles<D> tiles = {shared, {base + h.d, stride}, {base + 2 * h.d, stride}, nullptr, p.length};

    OwnRows<D, M> queries;
    copy_rows<WARPS * 16 * M, D>(tiles.stage(1), {base, stride}, p.from, p.length);
    commit_copies();
    tiles.copy(0);
    wait_for_copies<1>();
    __syncthreads();
    queries.load(tiles.stage(1));

    constexpr int STEP = M == 1 ? 64 : 32;
    // Of rows g and g + 8 of each 16: highest score so far, sum, weighted values.
    float running_max[2 * M], sum[2 * M] = {}, acc[M][D / 8][4] = {}, scale = h.scale * LOG2_E;
    UNROLL for (int r = 0; r < 2 * M; ++r) running_max[r] = -INFINITY;
    for (int tile = 0; tile * TILE_BF16 < p.length; ++tile) {
        const bf16* keys = tiles.next(tile);
        const bf16* values = keys + Tiles<D>::NUMBERS;
        if (row >= p.length) continue;
        for (int from = 0; from < TILE_BF16; from += STEP) {
            int key = tile * TILE_BF16 + from;
            float s[STEP / 16][M][2][4];
            UNROLL for (int j = 0; j < STEP / 16; ++j) multiply_rows<D, M>(s[j], queries, keys, from + j * 16);
            if (key + STEP > p.length)
                UNROLL for (int j = 0; j < STEP / 16; ++j)
                    UNROLL for (int m = 0; m < M; ++m)
                        UNROLL for (int c = 0; c < 2; ++c)
                            UNROLL for (int e = 0; e < 4; ++e)
                                if (key + j * 16 + c * 8 + 2 * t + e % 2 >= p.length) s[j][m][c][e] = -INFINITY;
            UNROLL for (int r = 0; r < 2 * M; ++r) {
                float top = running_max[r];
                UNROLL for (int j = 0; j < STEP / 16; ++j)
                    UNROLL for (int c = 0; c < 2; ++c)
                        UNROLL for (int e = r % 2 * 2; e < r % 2 * 2 + 2; ++e) top = fmaxf(top, s[j][r / 2][c][e]);
                top = quad_max(top);
                float shrink = exp2_approx((running_max[r] - top) * scale), shift = top * scale;
                running_max[r] = top;
                sum[r] *= shrink;
                UNROLL for (int i = 0; i < D / 8; ++i)
                    UNROLL for (int e = r % 2 * 2; e < r % 2 * 2 + 2; ++e) acc[r / 2][i][e] *= shrink;
                UNROLL for (int j = 0; j < STEP / 16; ++j)
                    UNROLL for (int c = 0; c < 2; ++c)
                        UNROLL for (int e = r % 2 * 2; e < r % 2 * 2 + 2; ++e) {
                            float prob = exp2_approx(s[j][r / 2][c][e] * scale - shift);
                            s[j][r / 2][c][e] = prob;
                            sum[r] += prob;
                        }
            }
            if (DROP)
                UNROLL for (int j = 0; j < STEP / 16; ++j)
                    UNROLL for (int m = 0; m < M; ++m) {
                        unsigned kept = draw_queries(h, p, row + m * 16, key + j * 16);
                        UNROLL for (int c = 0; c < 2; ++c)
                            UNROLL for (int e = 0; e < 4; ++e) s[j][m][c][e] *= query_factor(h, kept, c, e);
                    }
            UNROLL for (int j = 0; j < STEP / 16; ++j) multiply_tile<D, M>(acc, s[j], values, from + j * 16);
        }
    }
    UNROLL for (int r = 0; r < 2 * M; ++r) {
        int own = row + r / 2 * 16 + r % 2 * 8 + g;
        float total = quad_sum(sum[r]);
        if (own >= p.length) continue;
        bf16* to = out + size_t(p.start + own) * h.d + p.head * D;
        UNROLL for (int i = 0; i < D / 8; ++i)
            *reinterpret_cast<unsigned*>(to + i * 8 + 2 * t) =
                pack(acc[r / 2][i][r % 2 * 2] / total, acc[r / 2][i][r % 2 * 2 + 1] / total);
        if (t == 0) lse[size_t(p.head) * h.n + p.start + own] = (running_max[r] * scale + log2f(total)) * LN_2;
    }
}

/// Loads the block's rows of two matrices and issues the copies of the first tile.
template <int D, int M, int UNROLLED>
DEVICE void load_own_rows(OwnRows<D, M>& x, OwnRows<D, M>& y, Columns x_from, Columns y_from, const BlockTile& p,
                          const Tiles<D, UNROLLED>& tiles) {
    constexpr int ROWS = WARPS * 16 * M;
    // With M = 1 they fit into the second stage, with M = 2 they need both.
    bf16* shared = tiles.stage(M == 1);
    bf16* second = shared + ROWS * (D + TILE_PADDING);
    copy_rows<ROWS, D>(shared, x_from, p.from, p.length);
    copy_rows<ROWS, D>(second, y_from, p.from, p.length);
    commit_copies();
    if (M == 1) tiles.copy(0);
    wait_for_copies<M == 1>();
    __syncthreads();
    x.load(shared);
    y.load(second);
    if (M == 1) return;
    __syncthreads();
    tiles.copy(0);
}

/// The gradient of the queries: a block per tile of queries, over all keys.
template <int D, int M, bool DROP>
DEVICE void attention_backward_q(const bf16* qkv, const bf16* d_out, const float* lse, const float* delta,
                                 bf16* d_qkv, const Attention& h) {
    BlockTile p = block_tile(h, WARPS * 16 * M);
    if (p.from >= p.length) return;
    int g = lane() / 4, t = lane() % 4, row = p.from + threadIdx.x / 32 * 16 * M;
    int stride = 3 * h.d;
    size_t at = size_t(p.head) * h.n + p.start;
    const bf16* base = qkv + size_t(p.start) * stride + p.head * D;
    Columns d_outs = {d_out + size_t(p.start) * h.d + p.head * D, h.d};
    SHARED(bf16, shared);
    Tiles<D> tiles = {shared, {base + h.d, stride}, {base + 2 * h.d, stride}, nullptr, p.length};

    OwnRows<D, M> queries, own_d_out;
    load_own_rows(queries, own_d_out, {base, stride}, d_outs, p, tiles);
    float row_lse[2 * M], row_delta[2 * M];
    UNROLL for (int r = 0; r < 2 * M; ++r) {
        int own = row + r / 2 * 16 + r % 2 * 8 + g;
        row_lse[r] = own < p.length ? lse[at + own] * LOG2_E : 0.f;
        row_delta[r] = own < p.length ? delta[at + own] : 0.f;
    }
    float dq[M][D / 8][4] = {}, scale = h.scale * LOG2_E;
    for (int tile = 0; tile * TILE_BF16 < p.length; ++tile) {
        const bf16* keys = tiles.next(tile);
        const bf16* values = keys + Tiles<D>::NUMBERS;
        if (row >= p.length) continue;
        // 16 keys at a time, so that few registers are needed.
        for (int j = 0; j < TILE_BF16 && tile * TILE_BF16 + j < p.length; j += 16) {
            int key = tile * TILE_BF16 + j;
            unsigned kept[M];
            if (DROP)
                UNROLL for (int m = 0; m < M; ++m) kept[m] = draw_queries(h, p, row + m * 16, key);
            float s[M][2][4], dp[M][2][4];
            multiply_rows<D, M>(s, queries, keys, j);
            multiply_rows<D, M>(dp, own_d_out, values, j);
            // Keys beyond the end are zeros and add nothing, but where all scores of a row are far below 0
            // their probability would be infinite.
            if (key + 16 > p.length)
                UNROLL for (int m = 0; m < M; ++m)
                    UNROLL for (int c = 0; c < 2; ++c)
                        UNROLL for (int e = 0; e < 4; ++e)
                            if (key + c * 8 + 2 * t + e % 2 >= p.length) s[m][c][e] = -INFINITY;
            UNROLL for (int m = 0; m < M; ++m) {
                UNROLL for (int c = 0; c < 2; ++c)
                    UNROLL for (int e = 0; e < 4; ++e) {
                        int r = 2 * m + e / 2;
                        float prob = exp2_approx(s[m][c][e] * scale - row_lse[r]);
                        float d_prob = dp[m][c][e];
                        if (DROP) d_prob *= query_factor(h, kept[m], c, e);
                        s[m][c][e] = prob * (d_prob - row_delta[r]);
                    }
            }
            multiply_tile<D, M>(dq, s, keys, j);
        }
    }
    UNROLL for (int m = 0; m < M; ++m) {
        int own = row + m * 16;
        store_rows<D>(d_qkv + size_t(p.start + own) * stride + p.head * D, stride, dq[m], h.scale, p.length - own);
    }
}

/// The gradients of keys and values: a block per tile of keys, over all queries. Rows beyond the
/// sequence's end are zeros in shared memory: queries there add nothing, and sums of keys there are not
/// stored.
template <int D, int M, bool DROP>
DEVICE void attention_backward_kv(const bf16* qkv, const bf16* d_out, const float* lse, const float* delta,
                                  bf16* d_qkv, const Attention& h) {
    BlockTile p = block_tile(h, WARPS * 16 * M);
    if (p.from >= p.length) return;
    int t = lane() % 4, row = p.from + threadIdx.x / 32 * 16 * M;
    int stride = 3 * h.d;
    size_t at = size_t(p.head) * h.n + p.start;
    const bf16* base = qkv + size_t(p.start) * stride + p.head * D;
    SHARED(bf16, shared);
    const float* numbers = (threadIdx.x < TILE_BF16 ? lse : delta) + at + threadIdx.x % TILE_BF16;
    Tiles<D, M == 1 ? 4 : 2> tiles = {shared, {base, stride}, {d_out + size_t(p.start) * h.d + p.head * D, h.d}, numbers, p.length};

    OwnRows<D, M> keys, values;
    load_own_rows(keys, values, {base + h.d, stride}, {base + 2 * h.d, stride}, p, tiles);
    float dk[M][D / 8][4] = {}, dv[M][D / 8][4] = {}, scale = h.scale * LOG2_E;
    for (int tile = 0; tile * TILE_BF16 < p.length; ++tile) {
        const bf16* queries = tiles.next(tile);
        const bf16* d_outs = queries + Tiles<D>::NUMBERS;
        if (row >= p.length) continue;
        // The second condition only saves time, and with M = 2 there is no register for it.
        for (int j = 0; j < TILE_BF16 && (M > 1 || tile * TILE_BF16 + j < p.length); j += 16) {
            const Pair* lses = reinterpret_cast<const Pair*>(d_outs + Tiles<D>::NUMBERS) + j / 2 + t;
            const Pair* deltas = lses + TILE_BF16 / 2;
            unsigned kept[M];
            if (DROP)
                UNROLL for (int m = 0; m < M; ++m) kept[m] = draw_keys(h, p, row + m * 16, tile * TILE_BF16 + j);
            // Transposed: rows are keys, columns queries.
            float prob[M][2][4], weights[M][2][4], dp[M][2][4];
            multiply_rows<D, M>(prob, keys, queries, j);
            UNROLL for (int c = 0; c < 2; ++c) {
                Pair column = lses[4 * c];
                UNROLL for (int m = 0; m < M; ++m)
                    UNROLL for (int e = 0; e < 4; ++e) {
                        prob[m][c][e] = exp2_approx(prob[m][c][e] * scale - column.x[e % 2] * LOG2_E);
                        weights[m][c][e] = prob[m][c][e];
                        if (DROP) weights[m][c][e] *= key_factor(h, kept[m], c, e);
                    }
            }
            multiply_tile<D, M>(dv, weights, d_outs, j);
            multiply_rows<D, M>(dp, values, d_outs, j);
            UNROLL for (int c = 0; c < 2; ++c) {
                Pair column = deltas[4 * c];
                UNROLL for (int m = 0; m < M; ++m)
                    UNROLL for (int e = 0; e < 4; ++e) {
                        float d_prob = dp[m][c][e];
                        if (DROP) d_prob *= key_factor(h, kept[m], c, e);
                        dp[m][c][e] = prob[m][c][e] * (d_prob - column.x[e % 2]);
                    }
            }
            multiply_tile<D, M>(dk, dp, queries, j);
        }
    }
    UNROLL for (int m = 0; m < M; ++m) {
        int own = row + m * 16;
        bf16* to = d_qkv + size_t(p.start + own) * stride + p.head * D;
        store_rows<D>(to + h.d, stride, dk[m], h.scale, p.length - own);
        store_rows<D>(to + 2 * h.d, stride, dv[m], 1.f, p.length - own);
    }
}
