// Layer normalisation, adapters, activations, dropout: what stands around the matrix products.
//
// Token matrices are packed, `n x d` with d a multiple of 8, sequence after sequence; `places` holds
// (sample, position) of each row. Weights and activations are T, everything learnable, every
// statistic and every sum is single precision. Sums have a fixed order: the same input gives the
// same bits.
#pragma once
#include "numbers.h"

/// Rows that one block of `column_sums` adds up.
constexpr int SUM_ROWS = 128;

/// y = (x - mean) rstd * scale + shift; statistics (mean, rstd) per row are written where `fresh`,
/// read where not. One warp per row.
template <class T>
DEVICE void layer_norm(const T* x, const float* scale, const float* shift, T* y, float* stats, int n, int d,
                       float eps, bool fresh) {
    int row = warp_row();
    if (row >= n) return;
    x += size_t(row) * d;
    y += size_t(row) * d;
    float mean, rstd, v[WIDE], w[WIDE], b[WIDE];
    if (fresh) {
        float sum = 0.f, squares = 0.f;
        for (int c = lane() * WIDE; c < d; c += 32 * WIDE) {
            get8(x + c, v);
            for (int i = 0; i < WIDE; ++i) sum += v[i];
        }
        mean = warp_sum(sum) / d;
        for (int c = lane() * WIDE; c < d; c += 32 * WIDE) {
            get8(x + c, v);
            for (int i = 0; i < WIDE; ++i) squares += (v[i] - mean) * (v[i] - mean);
        }
        rstd = 1.f / sqrtf(warp_sum(squares) / d + eps);
        if (lane() == 0) stats[2 * row] = mean, stats[2 * row + 1] = rstd;
    } else {
        mean = stats[2 * row], rstd = stats[2 * row + 1];
    }
    for (int c = lane() * WIDE; c < d; c += 32 * WIDE) {
        get8(x + c, v), get8(scale + c, w), get8(shift + c, b);
        for (int i = 0; i < WIDE; ++i) v[i] = (v[i] - mean) * rstd * w[i] + b[i];
        put8(y + c, v);
    }
}

/// dx = plus + rstd (g - mean(g) - h mean(g h)), g = dy scale, h = (x - mean) rstd; `plus` may be
/// null. One warp per row.
template <class T>
DEVICE void layer_norm_backward(const T* dy, const T* x, const float* scale, const float* stats, const T* plus, T* dx,
                                int n, int d) {
    int row = warp_row();
    if (row >= n) return;
    size_t at = size_t(row) * d;
    float mean = stats[2 * row], rstd = stats[2 * row + 1];
    float g_sum = 0.f, gh_sum = 0.f, g[WIDE], h[WIDE], w[WIDE];
    for (int c = lane() * WIDE; c < d; c += 32 * WIDE) {
        get8(dy + at + c, g), get8(x + at + c, h), get8(scale + c, w);
        for (int i = 0; i < WIDE; ++i) {
            g[i] *= w[i];
            g_sum += g[i];
            gh_sum += g[i] * ((h[i] - mean) * rstd);
        }
    }
    float g_mean = warp_sum(g_sum) / d, gh_mean = warp_sum(gh_sum) / d;
    for (int c = lane() * WIDE; c < d; c += 32 * WIDE) {
        float sum[WIDE] = {};
        if (plus) get8(plus + at + c, sum);
        get8(dy + at + c, g), get8(x + at + c, h), get8(scale + c, w);
        for (int i = 0; i < WIDE; ++i)
            sum[i] += rstd * (g[i] * w[i] - g_mean - (h[i] - mean) * rstd * gh_mean);
        put8(dx + at + c, sum);
    }
}

/// Up to three adapters of one stacked linear layer, rank x d or width x rank each.
struct Parts {
    const float *first, *second, *third;
    DEVICE const float* of(int part) const { return part == 0 ? first : part == 1 ? second : third; }
};

/// u[row, part * rank + r] = dropout(x) . A_part[r]; part i draws from module + i. One warp per row.
template <class T>
DEVICE void lora_down(const T* x, Parts a, float* u, const unsigned* places, int n, int d, int parts, int rank,
                      Dropout drop) {
    int row = warp_row();
    if (row >= n) return;
    x += size_t(row) * d;
    for (int k = 0; k < parts * rank; ++k) {
        const float* factor = a.of(k / rank) + size_t(k % rank) * d;
        float sum = 0.f, v[WIDE], w[WIDE];
        for (int c = lane() * WIDE; c < d; c += 32 * WIDE) {
            get8(x + c, v), get8(factor + c, w);
            drop8(drop, k / rank, places[2 * row], places[2 * row + 1], d, c / WIDE, v);
            for (int i = 0; i < WIDE; ++i) sum += v[i] * w[i];
        }
        sum = warp_sum(sum);
        if (lane() == 0) u[size_t(row) * parts * rank + k] = sum;
    }
}

/// x sigmoid(1.702 x), or x Phi(x).
DEVICE float activated(float z, int quick) {
    if (quick) return z / (1.f + expf(-1.702f * z));
    return 0.5f * z * (1.f + erff(z * 0.70710678118654752f));
}

/// The derivative of `activated`.
DEVICE float activated_slope(float z, int quick) {
    if (quick) {
        float s = 1.f / (1.f + expf(-1.702f * z));
        return s * (1.f + 1.702f * z * (1.f - s));
    }
    float density = 0.39894228040143268f * expf(-0.5f * z * z);
    return 0.5f * (1.f + erff(z * 0.70710678118654752f)) + z * density;
}

/// What is left of a linear layer after its product y (`n x out`, in place):
/// y = dropout(y + bias + scale B u) + plus, and where `after` is not null, after = f(y).
/// `parts` is 0 without adapters; `plus` may be null. A thread takes eight columns.
template <class T>
DEVICE void finish_linear(T* y, const float* bias, Parts b, const float* u, const T* plus, T* after,
                          const unsigned* places, int n, int out, int parts, int rank, float scale, Dropout drop,
                          int quick) {
    size_t index = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    int groups = out / WIDE;
    if (index >= size_t(n) * groups) return;
    int row = index / groups, c = index % groups * WIDE;
    size_t at = size_t(row) * out + c;
    float v[WIDE], w[WIDE];
    get8(y + at, v), get8(bias + c, w);
    for (int i = 0; i < WIDE; ++i) v[i] += w[i];
    if (parts) {
        int width = out / parts, part = c / width;
        const float* factor = b.of(part) + size_t(c % width) * rank;
        const float* mine = u + (size_t(row) * parts + part) * rank;
        for (int i = 0; i < WIDE; ++i) {
            float sum = 0.f;
            for (int r = 0; r < rank; ++r) sum += factor[i * rank + r] * mine[r];
            v[i] += scale * sum;
        }
    }
    drop8(drop, 0, places[2 * row], places[2 * row + 1], out, c / WIDE, v);
    if (plus) {
        get8(plus + at, w);
        for (int i = 0; i < WIDE; ++i) v[i] += w[i];
    }
    put8(y + at, v);
    if (after) {
        // What is stored is what the backward pass will see.
        get8(y + at, v);
        for (int i = 0; i < WIDE; ++i) v[i] = activated(v[i], quick);
        put8(after + at, v);
    }
}

/// du[row, part * rank + r] = scale * (dy of that part) . B_part[:, r]. One warp per row.
template <class T>
DEVICE void lora_up_backward(const T* dy, Parts b, float* du, int n, int out, int parts, int rank, float scale) {
    int row = warp_row();
    if (row >= n) return;
    int width = out / parts;
    for (int k = 0; k < parts * rank; ++k) {
        const T* mine = dy + size_t(row) * out + k / rank * width;
        const float* factor = b.of(k / rank) + k % rank;
        float sum = 0.f, v[WIDE];
        for (int c = lane() * WIDE; c < width; c += 32 * WIDE) {
            get8(mine + c, v);
            for (int i = 0; i < WIDE; ++i) sum += v[i] * factor[size_t(c + i) * rank];
        }
        sum = warp_sum(sum);
        if (lane() == 0) du[size_t(row) * parts * rank + k] = scale * sum;
    }
}

/// dx += mask * (du A), in place. A thread takes eight columns.
template <class T>
DEVICE void lora_down_backward(T* dx, Parts a, const float* du, const unsigned* places, int n, int d, int parts,
                               int rank, Dropout drop) {
    size_t index = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    int groups = d / WIDE;
    if (index >= size_t(n) * groups) return;
    int row = index / groups, c = index % groups * WIDE;
    float sum[WIDE], v[WIDE], w[WIDE];
    get8(dx + size_t(row) * d + c, sum);
    for (int part = 0; part < parts; ++part) {
        for (int i = 0; i < WIDE; ++i) v[i] = 0.f;
        for (int r = 0; r < rank; ++r) {
            float factor = du[(size_t(row) * parts + part) * rank + r];
            get8(a.of(part) + size_t(r) * d + c, w);
            for (int i = 0; i < WIDE; ++i) v[i] += factor * w[i];
        }
        drop8(drop, part, places[2 * row], places[2 * row + 1], d, c / WIDE, v);
        for (int i = 0; i < WIDE; ++i) sum[i] += v[i];
    }
    put8(dx + size_t(row) * d + c, sum);
}

/// partial[chunk, k, c] = sum over the chunk's rows of weights[row, k] * mask * x[row, start(k) + c]:
/// both factors' gradients. `step` is 0 where all parts read the same columns of x, `width` where
/// each reads its own. Block: (eight columns per thread, chunk of SUM_ROWS rows, k).
template <class T>
DEVICE void column_sums(const T* x, const float* weights, float* partial, const unsigned* places, int n, int stride,
                        int width, int step, int parts, int rank, float scale, Dropout drop) {
    int c = (blockIdx.x * blockDim.x + threadIdx.x) * WIDE, k = blockIdx.z, part = k / rank;
    if (c >= width) return;
    float sum[WIDE] = {}, v[WIDE];
    int first = blockIdx.y * SUM_ROWS, last = first + SUM_ROWS < n ? first + SUM_ROWS : n;
    for (int row = first; row < last; ++row) {
        get8(x + size_t(row) * stride + part * step + c, v);
        drop8(drop, part, places[2 * row], places[2 * row + 1], width, c / WIDE, v);
        float weight = scale * weights[size_t(row) * parts * rank + k];
        for (int i = 0; i < WIDE; ++i) sum[i] += weight * v[i];
    }
    put8(partial + (size_t(blockIdx.y) * parts * rank + k) * width + c, sum);
}

/// y = f(z).
template <class T>
DEVICE void activate(const T* z, T* y, unsigned groups, int quick) {
    size_t index = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (index >= groups) return;
    float v[WIDE];
    get8(z + index * WIDE, v);
    for (int i = 0; i < WIDE; ++i) v[i] = activated(v[i], quick);
    put8(y + index * WIDE, v);
}

/// dz = dy f'(z).
template <class T>
DEVICE void activate_backward(const T* z, const T* dy, T* dz, unsigned groups, int quick) {
    size_t index = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (index >= groups) return;
    float v[WIDE], g[WIDE];
    get8(z + index * WIDE, v), get8(dy + index * WIDE, g);
    for (int i = 0; i < WIDE; ++i) g[i] *= activated_slope(v[i], quick);
    put8(dz + index * WIDE, g);
}

/// y = dropout(x), `n x d`.
template <class T>
DEVICE void dropout(const T* x, T* y, const unsigned* places, int n, int d, Dropout drop) {
    size_t index = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    int groups = d / WIDE;
    if (index >= size_t(n) * groups) return;
    int row = index / groups;
    float v[WIDE];
    get8(x + index * WIDE, v);
    drop8(drop, 0, places[2 * row], places[2 * row + 1], d, index % groups, v);
    put8(y + index * WIDE, v);
}

/// Patches of `planes` images or spectrograms as rows (`inputs * down * across` x
/// `channels * patch * patch`); a transposed plane lies column after column. A thread takes one number.
template <class T>
DEVICE void cut_patches(const float* input, T* out, unsigned total, int channels, int rows, int cols, int patch,
                        int row_stride, int col_stride, int down, int across, int transposed) {
    size_t index = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (index >= total) return;
    size_t rest = index;
    int x = rest % patch;
    rest /= patch;
    int y = rest % patch;
    rest /= patch;
    int channel = rest % channels;
    rest /= channels;
    int j = rest % across;
    rest /= across;
    int i = rest % down;
    size_t plane = rest / down * channels + channel;
    int row = i * row_stride + y, col = j * col_stride + x;
    input += plane * rows * cols;
    put(out + index, transposed ? input[size_t(col) * rows + row] : input[size_t(row) * cols + col]);
}
