// The kernels by name: each template of the other files for the number types and head sizes that
// occur. `src/cuda` launches them.
#include "attention_bf16.cuh"
#include "attention_f32.cuh"
#include "head.cuh"
#include "layers.cuh"
#include "tokens.cuh"

#define LAYERS(T, suffix)                                                                                            \
    KERNEL layer_norm_##suffix(const T* x, const float* scale, const float* shift, T* y, float* stats, float eps,    \
                               int compute_stats, Factors a, float* u, const unsigned* positions, int n, int d,      \
                               int parts, int rank, Dropout drop) {                                                  \
        layer_norm(x, scale, shift, y, stats, eps, compute_stats != 0, a, u, positions, n, d, parts, rank, drop);    \
    }                                                                                                                \
    EXPORT(layer_norm_##suffix)                                                                                      \
    KERNEL layer_norm_backward_##suffix(const T* dy, const T* x, const float* scale, const float* stats,             \
                                        const T* residual, T* dx, Factors a, const float* du,                        \
                                        const unsigned* positions, int n, int d, int parts, int rank,                \
                                        Dropout drop) {                                                              \
        layer_norm_backward(dy, x, scale, stats, residual, dx, a, du, positions, n, d, parts, rank, drop);           \
    }                                                                                                                \
    EXPORT(layer_norm_backward_##suffix)                                                                             \
    KERNEL lora_down_##suffix(const T* x, Factors a, float* u, const unsigned* positions, int n, int d, int parts,   \
                              int rank, Dropout drop) {                                                              \
        lora_down(x, a, u, positions, n, d, parts, rank, drop);                                                      \
    }                                                                                                                \
    EXPORT(lora_down_##suffix)                                                                                       \
    KERNEL linear_epilogue_##suffix(T* y, const float* bias, Factors b, const float* u, const T* residual,           \
                                    T* activated, const unsigned* positions, int n, int out, int parts, int rank,    \
                                    float scale, Dropout drop, int quick_gelu) {                                     \
        linear_epilogue(y, bias, b, u, residual, activated, positions, n, out, parts, rank, scale, drop,             \
                        quick_gelu);                                                                                 \
    }                                                                                                                \
    EXPORT(linear_epilogue_##suffix)                                                                                 \
    KERNEL lora_up_backward_##suffix(const T* dy, Factors b, float* du, int n, int out, int parts, int rank,         \
                                     float scale) {                                                                  \
        lora_up_backward(dy, b, du, n, out, parts, rank, scale);                                                     \
    }                                                                                                                \
    EXPORT(lora_up_backward_##suffix)                                                                                \
    KERNEL lora_down_backward_##suffix(T* dx, Factors a, const float* du, const unsigned* positions, int n, int d,   \
                                       int parts, int rank, Dropout drop) {                                          \
        lora_down_backward(dx, a, du, positions, n, d, parts, rank, drop);                                           \
    }                                                                                                                \
    EXPORT(lora_down_backward_##suffix)                                                                              \
    KERNEL __launch_bounds__(SUM_GROUPS* SUM_LANES, SUM_BLOCKS) column_sums_##suffix(                                \
        const T* x, const float* stats, const float* norm_scale, const float* norm_shift, const float* weights,      \
        float* partial, const unsigned* positions, int n, int columns, int width, int chunk, int parts, int rank,    \
        float scale, Dropout drop) {                                                                                 \
        column_sums(x, stats, norm_scale, norm_shift, weights, partial, positions, n, columns, width, chunk, parts,  \
                    rank, scale, drop);                                                                              \
    }                                                                                                                \
    EXPORT(column_sums_##suffix)                                                                                     \
    KERNEL activate_##suffix(const T* z, T* y, unsigned groups, int quick_gelu) {                                    \
        activate(z, y, groups, quick_gelu);                                                                          \
    }                                                                                                                \
    EXPORT(activate_##suffix)                                                                                        \
    KERNEL activate_backward_##suffix(const T* z, const float* bias, const T* dy, T* dz, unsigned groups,            \
                                      unsigned columns, int quick_gelu) {                                            \
        activate_backward(z, bias, dy, dz, groups, columns, quick_gelu);                                             \
    }                                                                                                                \
    EXPORT(activate_backward_##suffix)                                                                               \
    KERNEL dropout_##suffix(const T* x, T* y, const unsigned* positions, int n, int d, Dropout drop) {               \
        dropout(x, y, positions, n, d, drop);                                                                        \
    }                                                                                                                \
    EXPORT(dropout_##suffix)                                                                                         \
    KERNEL attention_delta_##suffix(const T* out, const T* d_out, float* delta, int n, int d, int heads) {           \
        attention_delta(out, d_out, delta, n, d, heads);                                                             \
    }                                                                                                                \
    EXPORT(attention_delta_##suffix)

#define TOKENS(T, suffix)                                                                                            \
    KERNEL cut_patches_##suffix(const float* input, T* out, unsigned total, int step, int channels, int rows,        \
                                int cols, int patch, int row_stride, int col_stride, int down, int across,           \
                                int transposed) {                                                                    \
        cut_patches(input, out, total, step, channels, rows, cols, patch, row_stride, col_stride, down, across,      \
                    transposed);                                                                                     \
    }                                                                                                                \
    EXPORT(cut_patches_##suffix)                                                                                     \
    KERNEL embed_words_##suffix(const T* words, const T* positions, const unsigned* ids, const unsigned* offsets,    \
                                T* out, int d) {                                                                     \
        embed_words(words, positions, ids, offsets, out, d);                                                         \
    }                                                                                                                \
    EXPORT(embed_words_##suffix)                                                                                     \
    KERNEL pack_tokens_##suffix(const T* own, const T* positions, const T* special, const float* mask_token,         \
                                const unsigned* offsets, T* out, int d, int specials) {                              \
        pack_tokens(own, positions, special, mask_token, offsets, out, d, specials);                                 \
    }                                                                                                                \
    EXPORT(pack_tokens_##suffix)                                                                                     \
    KERNEL pick_ends_##suffix(const T* x, const unsigned* offsets, T* out, int sequences, int d, int each) {         \
        pick_ends(x, offsets, out, sequences, d, each);                                                              \
    }                                                                                                                \
    EXPORT(pick_ends_##suffix)                                                                                       \
    KERNEL spread_ends_##suffix(const T* ends, const unsigned* offsets, T* out, int d) {                             \
        spread_ends(ends, offsets, out, d);                                                                          \
    }                                                                                                                \
    EXPORT(spread_ends_##suffix)                                                                                     \
    KERNEL sum_rows_##suffix(const T* x, float* sum, int n, int d) { sum_rows(x, sum, n, d); }                       \
    EXPORT(sum_rows_##suffix)                                                                                        \
    KERNEL head_sample_##suffix(const unsigned* table, EncoderTokens<T> m1, EncoderTokens<T> m2,                     \
                                const float* weight, const float* bias, float* features, float* logits,              \
                                float* d_logits, float* losses, HeadSizes h, HeadFactors f) {                        \
        head_sample(table, m1, m2, weight, bias, features, logits, d_logits, losses, h, f);                          \
    }                                                                                                                \
    EXPORT(head_sample_##suffix)

/// The attention kernels with the template arguments `...`. The compiler keeps to as few registers as let
/// a processor run the given numbers of blocks at once.
#define ATTENTION(name, T, forward_blocks, q_blocks, kv_blocks, ...)                                                 \
    KERNEL __launch_bounds__(128, forward_blocks)                                                                    \
        attention_forward_##name(const T* qkv, T* out, float* lse, Attention h) {                                    \
        attention_forward<__VA_ARGS__>(qkv, out, lse, h);                                                            \
    }                                                                                                                \
    EXPORT(attention_forward_##name)                                                                                 \
    KERNEL __launch_bounds__(128, q_blocks) attention_backward_q_##name(                                             \
        const T* qkv, const T* d_out, const float* lse, const float* delta, T* d_qkv, Attention h) {                 \
        attention_backward_q<__VA_ARGS__>(qkv, d_out, lse, delta, d_qkv, h);                                         \
    }                                                                                                                \
    EXPORT(attention_backward_q_##name)                                                                              \
    KERNEL __launch_bounds__(128, kv_blocks) attention_backward_kv_##name(                                           \
        const T* qkv, const T* d_out, const float* lse, const float* delta, T* d_qkv, Attention h) {                 \
        attention_backward_kv<__VA_ARGS__>(qkv, d_out, lse, delta, d_qkv, h);                                        \
    }                                                                                                                \
    EXPORT(attention_backward_kv_##name)

#define ATTENTION_F32(D) ATTENTION(f32_##D, float, 1, 1, 1, D)

/// Blocks of 64 rows without and with dropout, and of 128 rows without: with it the gradients of keys and
/// values would need more registers than there are.
#define ATTENTION_BF16(D)                                  \
    ATTENTION(bf16_##D, bf16, 3, 4, 3, D, 1, false)        \
    ATTENTION(dropout_bf16_##D, bf16, 3, 3, 2, D, 1, true) \
    ATTENTION(wide_bf16_##D, bf16, D == 64 ? 3 : 2, 2, 2, D, 2, false)

LAYERS(float, f32)
LAYERS(bf16, bf16)
TOKENS(float, f32)
TOKENS(bf16, bf16)
ATTENTION_F32(16)
ATTENTION_F32(32)
ATTENTION_F32(64)
ATTENTION_BF16(16)
ATTENTION_BF16(32)
ATTENTION_BF16(64)

KERNEL head_sums_f32(const float* features, const float* d_logits, const float* sample_losses, float* d_weight,
                     float* d_bias, float* losses, int n, int width, int classes, HeadFactors f) {
    head_sums(features, d_logits, sample_losses, d_weight, d_bias, losses, n, width, classes, f);
}
EXPORT(head_sums_f32)

/// positions[row] = (sample, position in its sequence). Block: (256 positions, sequence).
KERNEL row_positions(const unsigned* offsets, const unsigned* samples, unsigned* positions) {
    unsigned s = blockIdx.y, position = blockIdx.x * blockDim.x + threadIdx.x, row = offsets[s] + position;
    if (row >= offsets[s + 1]) return;
    positions[2 * row] = samples[s], positions[2 * row + 1] = position;
}
EXPORT(row_positions)

/// The partial sums of one call of `column_sums`, and where their sum goes.
struct PartialSums {
    const float* partial;
    float* sum;
    /// Chunks, and numbers in each of them.
    int chunks, numbers;
    /// The sum is `numbers / (rank * width)` matrices `rank x width`, and is written transposed.
    int width, rank;
};

/// Threads that add up the chunks of one number.
constexpr int CHUNK_LANES = 8;

/// sum[i] = partial[0, i] + partial[1, i] + ... in a fixed order, over a table of sums. Block: (32
/// numbers, sum), with a warp for every eighth chunk.
KERNEL add_chunks(const PartialSums* table) {
    SHARED(float, chunk_sums);
    PartialSums s = table[blockIdx.y];
    int i = blockIdx.x * 32 + lane(), first = threadIdx.x / 32;
    float total = 0.f;
    if (i < s.numbers)
        for (int chunk = first; chunk < s.chunks; chunk += CHUNK_LANES)
            total += s.partial[size_t(chunk) * s.numbers + i];
    chunk_sums[threadIdx.x] = total;
    __syncthreads();
    if (first || i >= s.numbers) return;
    for (int other = 1; other < CHUNK_LANES; ++other) total += chunk_sums[other * 32 + lane()];
    int k = i / s.width, c = i % s.width;
    s.sum[(k / s.rank * s.width + c) * s.rank + k % s.rank] = total;
}
EXPORT(add_chunks)

/// One learnable tensor in an optimizer step.
struct AdamWTensor {
    float *value, *m, *v;
    const float* gradient;
    int n;
    /// lr / (1 - beta1^t), and sqrt(1 - beta2^t).
    float step, root_correction;
    /// 1 - lr * weight_decay.
    float decay;
};

/// AdamW as `src/optim.rs` computes it, over a table of tensors, with a column of blocks for each.
/// 1 - beta1 and 1 - beta2 are arguments, because single precision would round them.
KERNEL adamw(const AdamWTensor* table, float one_minus_beta1, float beta2, float one_minus_beta2, float eps) {
    AdamWTensor t = table[blockIdx.y];
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < t.n; i += gridDim.x * blockDim.x) {
        float gradient = t.gradient[i], value = t.value[i] * t.decay;
        float m = t.m[i] + one_minus_beta1 * (gradient - t.m[i]);
        float v = beta2 * t.v[i] + one_minus_beta2 * gradient * gradient;
        t.m[i] = m, t.v[i] = v;
        t.value[i] = value - t.step * m / (sqrtf(v) / t.root_correction + eps);
    }
}
EXPORT(adamw)
