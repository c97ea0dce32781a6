// The ends of an encoder: from inputs to packed tokens (equations 1 and 2), and from the last block
// to class and mask tokens.
//
// `offsets` holds the rows at which the sequences of a packed matrix begin, and their total as the
// last entry. A sequence is `specials` special tokens, its own tokens and the mask token.
#pragma once
#include "numbers.h"

/// Column groups and row slices of a block of `sum_rows`, and its columns.
constexpr int END_GROUPS = 4, END_SLICES = 32, END_COLUMNS = END_GROUPS * VECTOR_WIDTH;

/// Patches of images or spectrograms as rows (`inputs * down * across` x `channels * patch * patch`);
/// a transposed plane lies column after column. A thread handles `step` numbers of a patch's row: 8,
/// or 1 where a patch's row is no multiple of 8. `total` is below 2^32.
template <class T>
DEVICE void cut_patches(const float* input, T* out, unsigned total, int step, int channels, int rows, int cols,
                        int patch, int row_stride, int col_stride, int down, int across, int transposed) {
    unsigned index = (blockIdx.x * blockDim.x + threadIdx.x) * unsigned(step);
    if (index >= total) return;
    unsigned rest = index / patch, x = index - rest * patch;
    unsigned next = rest / patch, y = rest - next * patch;
    rest = next / channels;
    unsigned channel = next - rest * channels;
    next = rest / across;
    unsigned j = rest - next * across;
    rest = next / down;
    unsigned i = next - rest * down;
    int row = i * row_stride + y, col = j * col_stride + x;
    input += size_t(rest * channels + channel) * rows * cols;
    input += transposed ? col * rows + row : row * cols + col;
    int stride = transposed ? rows : 1;
    if (step == 1) {
        store(out + index, *input);
        return;
    }
    float v[VECTOR_WIDTH];
    for (int k = 0; k < VECTOR_WIDTH; ++k) v[k] = input[k * stride];
    store8(out + index, v);
}

/// The tokens of texts before the normalisation: out[row] = words[ids[row]] + positions[place]. The
/// offsets count a mask token behind each text, which is left out here. Block: (eight columns per
/// thread, text).
template <class T>
DEVICE void embed_words(const T* words, const T* positions, const unsigned* ids, const unsigned* offsets, T* out,
                        int d) {
    int text = blockIdx.y, groups = d / VECTOR_WIDTH;
    int first = offsets[text] - text, length = offsets[text + 1] - offsets[text] - 1;
    int index = blockIdx.x * blockDim.x + threadIdx.x, place = index / groups, c = index % groups * VECTOR_WIDTH;
    if (place >= length) return;
    int row = first + place;
    float v[VECTOR_WIDTH], w[VECTOR_WIDTH];
    load8(words + size_t(ids[row]) * d + c, v), load8(positions + size_t(place) * d + c, w);
    for (int i = 0; i < VECTOR_WIDTH; ++i) v[i] += w[i];
    store8(out + size_t(row) * d + c, v);
}

/// The sequences of an encoder (equation 2): special tokens, own tokens plus their position
/// embeddings (null if they have them), mask token. `own` holds the own tokens of all sequences.
/// Block: (eight columns per thread, sequence).
template <class T>
DEVICE void pack_tokens(const T* own, const T* positions, const T* special, const float* mask_token,
                        const unsigned* offsets, T* out, int d, int specials) {
    int sequence = blockIdx.y, groups = d / VECTOR_WIDTH;
    int first = offsets[sequence], length = offsets[sequence + 1] - first;
    int index = blockIdx.x * blockDim.x + threadIdx.x, at = index / groups, c = index % groups * VECTOR_WIDTH;
    if (at >= length) return;
    float v[VECTOR_WIDTH], w[VECTOR_WIDTH];
    if (at < specials) {
        load8(special + size_t(at) * d + c, v);
    } else if (at == length - 1) {
        load8(mask_token + c, v);
    } else {
        int place = at - specials, row = first - sequence * (specials + 1) + place;
        load8(own + size_t(row) * d + c, v);
        if (positions) {
            load8(positions + size_t(place) * d + c, w);
            for (int i = 0; i < VECTOR_WIDTH; ++i) v[i] += w[i];
        }
    }
    store8(out + size_t(first + at) * d + c, v);
}

/// The first and the last row of each sequence in turn, or (`each` = 1) the last row alone:
/// `each * sequences` x d. A thread handles eight columns.
template <class T>
DEVICE void pick_ends(const T* x, const unsigned* offsets, T* out, int sequences, int d, int each) {
    int index = blockIdx.x * blockDim.x + threadIdx.x, groups = d / VECTOR_WIDTH;
    int row = index / groups, c = index % groups * VECTOR_WIDTH;
    if (row >= sequences * each) return;
    int sequence = row / each;
    bool last = row % each == each - 1;
    size_t from = last ? offsets[sequence + 1] - 1 : offsets[sequence];
    float v[VECTOR_WIDTH];
    load8(x + from * d + c, v);
    store8(out + size_t(row) * d + c, v);
}

/// The gradient of `pick_ends` of first and last rows: zero in all other rows. Block: (eight columns
/// per thread, sequence).
template <class T>
DEVICE void spread_ends(const T* ends, const unsigned* offsets, T* out, int d) {
    int sequence = blockIdx.y, groups = d / VECTOR_WIDTH;
    int first = offsets[sequence], length = offsets[sequence + 1] - first;
    int index = blockIdx.x * blockDim.x + threadIdx.x, at = index / groups, c = index % groups * VECTOR_WIDTH;
    if (at >= length) return;
    ends += size_t(2 * sequence) * d + c;
    float v[VECTOR_WIDTH], sum[VECTOR_WIDTH] = {};
    if (at == 0) load8(ends, sum);
    if (at == length - 1) {
        load8(ends + d, v);
        for (int i = 0; i < VECTOR_WIDTH; ++i) sum[i] += v[i];
    }
    store8(out + size_t(first + at) * d + c, sum);
}

/// sum[c] = x[0, c] + x[1, c] + ..., in a fixed order. A block sums END_COLUMNS columns, each of its
/// END_SLICES slices every END_SLICES-th row.
template <class T>
DEVICE void sum_rows(const T* x, float* sum, int n, int d) {
    SHARED(float, partial);
    int group = threadIdx.x % END_GROUPS, slice = threadIdx.x / END_GROUPS;
    int c = blockIdx.x * END_COLUMNS + group * VECTOR_WIDTH;
    float own[VECTOR_WIDTH] = {}, v[VECTOR_WIDTH];
    for (int row = slice; row < n && c < d; row += END_SLICES) {
        load8(x + size_t(row) * d + c, v);
        for (int i = 0; i < VECTOR_WIDTH; ++i) own[i] += v[i];
    }
    store8(partial + slice * END_COLUMNS + group * VECTOR_WIDTH, own);
    __syncthreads();
    int column = blockIdx.x * END_COLUMNS + threadIdx.x;
    if (threadIdx.x >= END_COLUMNS || column >= d) return;
    float total = 0.f;
    for (int i = 0; i < END_SLICES; ++i) total += partial[i * END_COLUMNS + threadIdx.x];
    sum[column] = total;
}
