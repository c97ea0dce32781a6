// Layer normalisation, adapters, activations and dropout: everything around the matrix products.
//
// Token matrices are packed, `n x d` with d a multiple of 8, sequence after sequence; `positions`
// holds (sample, position) of each row, and may be null where nothing is dropped. Weights and
// activations are of type T, everything learnable, every statistic and every sum is in single
// precision. Sums have a fixed order, so that the same input gives the same bits.
#pragma once
#include "numbers.h"

/// A block of `column_sums` has `SUM_LANES` threads for each of `SUM_GROUPS` groups of columns.
constexpr int SUM_GROUPS = 96, SUM_LANES = 4;
/// Blocks of `column_sums` that a multiprocessor can hold, whose registers allow more numbers.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr int SUM_BLOCKS = 2;
#else
constexpr int SUM_BLOCKS = 3;
#endif
/// Parts of a stacked layer, at most.
constexpr int MAX_PARTS = 3;

/// The adapters of the parts of one stacked linear layer, rank x d or width x rank each.
struct Factors {
    const float *first, *second, *third;
    DEVICE const float* of(int part) const { return part == 0 ? first : part == 1 ? second : third; }
};

/// y = (x - mean) rstd * scale + shift. The statistics (mean, rstd) of each row are computed and
/// written if `compute_stats`, else read. With adapters (`parts` is not 0) also their
/// u = dropout(y) A, as `lora_down` computes it. One warp per row.
template <class T>
DEVICE void layer_norm(const T* x, const float* scale, const float* shift, T* y, float* stats, float eps,
                       bool compute_stats, Factors a, float* u, const unsigned* positions, int n, int d, int parts,
                       int rank, Dropout drop) {
    int row = warp_row();
    if (row >= n) return;
    x += size_t(row) * d;
    y += size_t(row) * d;
    float mean, rstd, v[VECTOR_WIDTH], w[VECTOR_WIDTH], b[VECTOR_WIDTH];
    if (compute_stats) {
        float sum = 0.f, squares = 0.f;
        for (int c = lane() * VECTOR_WIDTH; c < d; c += 32 * VECTOR_WIDTH) {
            load8(x + c, v);
            for (int i = 0; i < VECTOR_WIDTH; ++i) sum += v[i];
        }
        mean = warp_sum(sum) / d;
        for (int c = lane() * VECTOR_WIDTH; c < d; c += 32 * VECTOR_WIDTH) {
            load8(x + c, v);
            for (int i = 0; i < VECTOR_WIDTH; ++i) squares += (v[i] - mean) * (v[i] - mean);
        }
        rstd = 1.f / sqrtf(warp_sum(squares) / d + eps);
        if (lane() == 0) stats[2 * row] = mean, stats[2 * row + 1] = rstd;
    } else {
        mean = stats[2 * row], rstd = stats[2 * row + 1];
    }
    // Each pass normalises again for one number of each part's u.
    for (int r = 0; r == 0 || r < rank; ++r) {
        float sum[MAX_PARTS] = {};
        for (int c = lane() * VECTOR_WIDTH; c < d; c += 32 * VECTOR_WIDTH) {
            load8(x + c, v), load8(scale + c, w), load8(shift + c, b);
            for (int i = 0; i < VECTOR_WIDTH; ++i) v[i] = (v[i] - mean) * rstd * w[i] + b[i];
            if (r == 0) store8(y + c, v);
            round8(y, v);
            UNROLL for (int part = 0; part < MAX_PARTS; ++part) {
                if (part >= parts) continue;
                load8(a.of(part) + size_t(r) * d + c, w);
                apply_dropout(drop, part, positions + 2 * row, d, c / VECTOR_WIDTH, w);
                for (int i = 0; i < VECTOR_WIDTH; ++i) sum[part] += v[i] * w[i];
            }
        }
        UNROLL for (int part = 0; part < MAX_PARTS; ++part) {
            if (part >= parts) continue;
            sum[part] = warp_sum(sum[part]);
            if (lane() == 0) u[size_t(row * parts + part) * rank + r] = sum[part];
        }
    }
}

/// g += mask * (du A) of eight columns from `c` on; `du` and `position` are those of the row.
DEVICE void add_lora_down_backward(Factors a, const float* du, const unsigned* position, int c, int d, int parts,
                                   int rank, Dropout drop, float g[VECTOR_WIDTH]) {
    UNROLL for (int part = 0; part < MAX_PARTS; ++part) {
        if (part >= parts) continue;
        float sum[VECTOR_WIDTH] = {}, w[VECTOR_WIDTH];
        for (int r = 0; r < rank; ++r) {
            load8(a.of(part) + size_t(r) * d + c, w);
            for (int i = 0; i < VECTOR_WIDTH; ++i) sum[i] += du[part * rank + r] * w[i];
        }
        apply_dropout(drop, part, position, d, c / VECTOR_WIDTH, sum);
        for (int i = 0; i < VECTOR_WIDTH; ++i) g[i] += sum[i];
    }
}

/// dx = residual + rstd (g - mean(g) - h mean(g h)), g = dy scale, h = (x - mean) rstd; `residual`
/// may be null. With adapters the gradient of the norm's output is dy + mask * (du A), as
/// `lora_down_backward` computes it. One warp per row.
template <class T>
DEVICE void layer_norm_backward(const T* dy, const T* x, const float* scale, const float* stats,
                                const T* residual, T* dx, Factors a, const float* du, const unsigned* positions,
                                int n, int d, int parts, int rank, Dropout drop) {
    SHARED(float, rows);
    int row = warp_row();
    if (row >= n) return;
    size_t at = size_t(row) * d;
    float mean = stats[2 * row], rstd = stats[2 * row + 1];
    float g_sum = 0.f, gh_sum = 0.f, g[VECTOR_WIDTH], h[VECTOR_WIDTH], w[VECTOR_WIDTH];
    // The row's g between the two loops. A lane reads what it has written itself.
    float* saved = rows + threadIdx.x / 32 * d;
    for (int c = lane() * VECTOR_WIDTH; c < d; c += 32 * VECTOR_WIDTH) {
        load8(dy + at + c, g);
        add_lora_down_backward(a, du + size_t(row) * parts * rank, positions + 2 * row, c, d, parts, rank, drop, g);
        load8(x + at + c, h), load8(scale + c, w);
        for (int i = 0; i < VECTOR_WIDTH; ++i) {
            g[i] *= w[i];
            g_sum += g[i];
            gh_sum += g[i] * ((h[i] - mean) * rstd);
        }
        store8(saved + c, g);
    }
    float g_mean = warp_sum(g_sum) / d, gh_mean = warp_sum(gh_sum) / d;
    for (int c = lane() * VECTOR_WIDTH; c < d; c += 32 * VECTOR_WIDTH) {
        float sum[VECTOR_WIDTH] = {};
        if (residual) load8(residual + at + c, sum);
        load8(saved + c, g), load8(x + at + c, h);
        for (int i = 0; i < VECTOR_WIDTH; ++i) sum[i] += rstd * (g[i] - g_mean - (h[i] - mean) * rstd * gh_mean);
        store8(dx + at + c, sum);
    }
}

/// u[row, part * rank + r] = dropout(x) . A_part[r]; part i draws from module + i. One warp per
/// row.
template <class T>
DEVICE void lora_down(const T* x, Factors a, float* u, const unsigned* positions, int n, int d, int parts, int rank,
                      Dropout drop) {
    int row = warp_row();
    if (row >= n) return;
    x += size_t(row) * d;
    for (int k = 0; k < parts * rank; ++k) {
        const float* factor = a.of(k / rank) + size_t(k % rank) * d;
        float sum = 0.f, v[VECTOR_WIDTH], w[VECTOR_WIDTH];
        for (int c = lane() * VECTOR_WIDTH; c < d; c += 32 * VECTOR_WIDTH) {
            load8(x + c, v), load8(factor + c, w);
            apply_dropout(drop, k / rank, positions + 2 * row, d, c / VECTOR_WIDTH, v);
            for (int i = 0; i < VECTOR_WIDTH; ++i) sum += v[i] * w[i];
        }
        sum = warp_sum(sum);
        if (lane() == 0) u[size_t(row) * parts * rank + k] = sum;
    }
}

/// x sigmoid(1.702 x), or x Phi(x).
DEVICE float activation(float z, int quick_gelu) {
    if (quick_gelu) return z / (1.f + expf(-1.702f * z));
    return 0.5f * z * (1.f + erff(z * 0.70710678118654752f));
}

/// The derivative of `activation`.
DEVICE float activation_derivative(float z, int quick_gelu) {
    if (quick_gelu) {
        float s = 1.f / (1.f + expf(-1.702f * z));
        return s * (1.f + 1.702f * z * (1.f - s));
    }
    float density = 0.39894228040143268f * expf(-0.5f * z * z);
    return 0.5f * (1.f + erff(z * 0.70710678118654752f)) + z * density;
}

/// The epilogue of a linear layer, whose product is y (`n x out`, in place):
/// y = dropout(y + bias + scale B u) + residual, and, if `activated` is not null, activated = f(y),
/// which may take the place of y. `parts` is 0 without adapters; `residual` may be null. A thread
/// handles eight columns.
template <class T>
DEVICE void linear_epilogue(T* y, const float* bias, Factors b, const float* u, const T* residual, T* activated,
                            const unsigned* positions, int n, int out, int parts, int rank, float scale,
                            Dropout drop, int quick_gelu) {
    unsigned index = element_group(), groups = out / VECTOR_WIDTH, row = index / groups;
    if (row >= unsigned(n)) return;
    unsigned c = (index - row * groups) * VECTOR_WIDTH;
    size_t at = size_t(index) * VECTOR_WIDTH;
    float v[VECTOR_WIDTH], w[VECTOR_WIDTH];
    load8(y + at, v), load8(bias + c, w);
    for (int i = 0; i < VECTOR_WIDTH; ++i) v[i] += w[i];
    if (parts) {
        unsigned width = out / parts, part = c / width;
        const float* factor = b.of(part) + (c - part * width) * rank;
        const float* own_u = u + size_t(row * parts + part) * rank;
        for (int i = 0; i < VECTOR_WIDTH; ++i) {
            float sum = 0.f;
            for (int r = 0; r < rank; ++r) sum += factor[i * rank + r] * own_u[r];
            v[i] += scale * sum;
        }
    }
    apply_dropout(drop, 0, positions + 2 * row, out, c / VECTOR_WIDTH, v);
    if (residual) {
        load8(residual + at, w);
        for (int i = 0; i < VECTOR_WIDTH; ++i) v[i] += w[i];
    }
    if (activated != y) store8(y + at, v);
    if (activated) {
        // The backward pass has y as it is stored, so the activation is that of the rounded number.
        round8(y, v);
        for (int i = 0; i < VECTOR_WIDTH; ++i) v[i] = activation(v[i], quick_gelu);
        store8(activated + at, v);
    }
}

/// du[row, part * rank + r] = scale * (dy of that part) . B_part[:, r]. One warp per row.
template <class T>
DEVICE void lora_up_backward(const T* dy, Factors b, float* du, int n, int out, int parts, int rank, float scale) {
    int row = warp_row();
    if (row >= n) return;
    int width = out / parts;
    for (int k = 0; k < parts * rank; ++k) {
        const T* own_u = dy + size_t(row) * out + k / rank * width;
        const float* factor = b.of(k / rank) + k % rank;
        float sum = 0.f, v[VECTOR_WIDTH];
        for (int c = lane() * VECTOR_WIDTH; c < width; c += 32 * VECTOR_WIDTH) {
            load8(own_u + c, v);
            for (int i = 0; i < VECTOR_WIDTH; ++i) sum += v[i] * factor[size_t(c + i) * rank];
        }
        sum = warp_sum(sum);
        if (lane() == 0) du[size_t(row) * parts * rank + k] = scale * sum;
    }
}

/// dx += mask * (du A), in place. A thread handles eight columns.
template <class T>
DEVICE void lora_down_backward(T* dx, Factors a, const float* du, const unsigned* positions, int n, int d, int parts,
                               int rank, Dropout drop) {
    unsigned index = element_group(), groups = d / VECTOR_WIDTH, row = index / groups;
    if (row >= unsigned(n)) return;
    unsigned c = (index - row * groups) * VECTOR_WIDTH;
    float sum[VECTOR_WIDTH];
    load8(dx + size_t(index) * VECTOR_WIDTH, sum);
    add_lora_down_backward(a, du + size_t(row) * parts * rank, positions + 2 * row, c, d, parts, rank, drop, sum);
    store8(dx + size_t(index) * VECTOR_WIDTH, sum);
}

/// partial[chunk, part * rank + r, c] = scale * sum over the chunk's rows of
/// weights[row, part * rank + r] mask x[row, start(part) + c]: both factors' gradients. `x` is
/// `n x columns`, of which each part reads `width`: all of them, or a slice of its own. If `stats`
/// is not null, x is what `layer_norm` has made of it, rounded as it was stored. Block:
/// (SUM_GROUPS groups of columns, chunk of `chunk` rows, r), so that x is read once for all parts.
/// Each lane adds up every SUM_LANES-th row; the lanes' sums are added in their order.
template <class T>
DEVICE void column_sums(const T* x, const float* stats, const float* norm_scale, const float* norm_shift,
                        const float* weights, float* partial, const unsigned* positions, int n, int columns,
                        int width, int chunk, int parts, int rank, float scale, Dropout drop) {
    SHARED(float, lane_sums);
    int at = threadIdx.x % SUM_GROUPS, lane = threadIdx.x / SUM_GROUPS;
    int c = (blockIdx.x * SUM_GROUPS + at) * VECTOR_WIDTH, r = blockIdx.z;
    int part = c / width, count = columns == width ? parts : 1;
    float sum[MAX_PARTS][VECTOR_WIDTH] = {};
    int first = blockIdx.y * chunk, last = first + chunk < n ? first + chunk : n;
    for (int row = first + lane; row < last && c < columns; row += SUM_LANES) {
        float v[VECTOR_WIDTH], w[VECTOR_WIDTH];
        load8(x + size_t(row) * columns + c, v);
        if (stats) {
            float mean = stats[2 * row], rstd = stats[2 * row + 1];
            load8(norm_scale + c, w);
            for (int i = 0; i < VECTOR_WIDTH; ++i) v[i] = (v[i] - mean) * rstd * w[i];
            load8(norm_shift + c, w);
            for (int i = 0; i < VECTOR_WIDTH; ++i) v[i] += w[i];
            round8(x, v);
        }
        UNROLL for (int p = 0; p < MAX_PARTS; ++p) {
            if (p >= count) continue;
            float weight = weights[size_t(row * parts + part + p) * rank + r];
            for (int i = 0; i < VECTOR_WIDTH; ++i) w[i] = v[i];
            apply_dropout(drop, part + p, positions + 2 * row, width, (c - part * width) / VECTOR_WIDTH, w);
            for (int i = 0; i < VECTOR_WIDTH; ++i) sum[p][i] += weight * w[i];
        }
    }
    UNROLL for (int p = 0; p < MAX_PARTS; ++p) {
        if (p >= count) continue;
        // The first lane has read the last part's sums.
        if (p) __syncthreads();
        if (lane) {
            for (int i = 0; i < VECTOR_WIDTH; ++i)
                lane_sums[((lane - 1) * VECTOR_WIDTH + i) * SUM_GROUPS + at] = sum[p][i];
        }
        __syncthreads();
        if (lane || c >= columns) continue;
        for (int i = 0; i < VECTOR_WIDTH; ++i) {
            for (int other = 0; other < SUM_LANES - 1; ++other)
                sum[p][i] += lane_sums[(other * VECTOR_WIDTH + i) * SUM_GROUPS + at];
            sum[p][i] *= scale;
        }
        size_t k = (size_t(blockIdx.y) * parts + part + p) * rank + r;
        store8(partial + k * width + c - part * width, sum[p]);
    }
}

/// Applies the activation function: y = f(z), eight values per thread.
template <class T>
DEVICE void activate(const T* z, T* y, unsigned groups, int quick_gelu) {
    size_t index = element_group();
    if (index >= groups) return;
    float v[VECTOR_WIDTH];
    load8(z + index * VECTOR_WIDTH, v);
    for (int i = 0; i < VECTOR_WIDTH; ++i) v[i] = activation(v[i], quick_gelu);
    store8(y + index * VECTOR_WIDTH, v);
}

/// dz = dy f'(z), eight values per thread. `bias`, if it is not null, is added to z, and the sum
/// rounded as `linear_epilogue` does it; `columns` are the groups of eight in a row.
template <class T>
DEVICE void activate_backward(const T* z, const float* bias, const T* dy, T* dz, unsigned groups, unsigned columns,
                              int quick_gelu) {
    size_t index = element_group();
    if (index >= groups) return;
    float v[VECTOR_WIDTH], g[VECTOR_WIDTH];
    load8(z + index * VECTOR_WIDTH, v);
    if (bias) {
        load8(bias + unsigned(index) % columns * VECTOR_WIDTH, g);
        for (int i = 0; i < VECTOR_WIDTH; ++i) v[i] += g[i];
        round8(z, v);
    }
    load8(dy + index * VECTOR_WIDTH, g);
    for (int i = 0; i < VECTOR_WIDTH; ++i) g[i] *= activation_derivative(v[i], quick_gelu);
    store8(dz + index * VECTOR_WIDTH, g);
}

/// y = dropout(x), `n x d`.
template <class T>
DEVICE void dropout(const T* x, T* y, const unsigned* positions, int n, int d, Dropout drop) {
    unsigned index = element_group(), groups = d / VECTOR_WIDTH, row = index / groups;
    if (row >= unsigned(n)) return;
    float v[VECTOR_WIDTH];
    load8(x + size_t(index) * VECTOR_WIDTH, v);
    apply_dropout(drop, 0, positions + 2 * row, d, index - row * groups, v);
    store8(y + size_t(index) * VECTOR_WIDTH, v);
}
