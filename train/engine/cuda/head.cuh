// Everything behind the encoders: token selection, fusion, the linear head, the losses, and the
// gradients of all of it (equations 4 to 7).
//
// All numbers but the encoders' tokens are in single precision, and every sum has a fixed order.
#pragma once
#include "numbers.h"

/// A token of a sample is numbered 2 modality + (0 for the class token, 1 for the mask token); NO_TOKEN
/// is a token of zeros. NO_ROW is the row of a sample without the modality.
constexpr unsigned NO_TOKEN = 0xffffffffu, NO_ROW = 0xffffffffu;

/// One modality's class and mask tokens, in turn for each sequence, and their gradients, null if
/// nobody wants them. `images` sequences belong to a sample, whose tokens are the means over them.
template <class T>
struct EncoderTokens {
    const T* tokens;
    T* gradient;
    int images;
};

struct HeadSizes {
    int d, classes;
    /// Whether the tokens are concatenated instead of added.
    int concat;
    /// Whether each class has a binary cross-entropy of its own.
    int multi_label;
};

struct HeadFactors {
    /// The factors of a sample's cross-entropy and of its squared distances in the losses.
    float task, align;
    /// The factor of the alignment loss in the training loss.
    float align_weight;
    /// Whether the alignment loss sends no gradient to the class tokens.
    int stop_gradient;
};

/// One sample: its entry of the table is the five numbers and its labels, one class or a bit for
/// each class.
struct HeadSample {
    /// The sample's number among those that have the modality.
    unsigned row1, row2;
    /// The tokens that are fused.
    unsigned token1, token2;
    /// Whether the sample counts in the alignment loss.
    unsigned aligned;
    const unsigned* labels;

    DEVICE HeadSample(const unsigned* table, int sample, HeadSizes h) {
        const unsigned* own = table + size_t(sample) * (5 + (h.multi_label ? (h.classes + 31) / 32 : 1));
        row1 = own[0], row2 = own[1], token1 = own[2], token2 = own[3], aligned = own[4];
        labels = own + 5;
    }

    /// Returns whether the sample is of class k.
    DEVICE bool has_label(int k, HeadSizes h) const {
        return h.multi_label ? labels[k / 32] >> k % 32 & 1 : labels[0] == unsigned(k);
    }
};

/// Loads columns c .. c + 8 of a token of a sample.
template <class T>
DEVICE void load_token(EncoderTokens<T> m, unsigned row, unsigned is_mask, int d, int c, float x[VECTOR_WIDTH]) {
    const T* first = m.tokens + (size_t(row) * m.images * 2 + is_mask) * d + c;
    float v[VECTOR_WIDTH];
    for (int i = 0; i < VECTOR_WIDTH; ++i) x[i] = 0.f;
    for (int image = 0; image < m.images; ++image) {
        load8(first + size_t(image) * 2 * d, v);
        for (int i = 0; i < VECTOR_WIDTH; ++i) x[i] += v[i];
    }
    float share = 1.f / m.images;
    for (int i = 0; i < VECTOR_WIDTH; ++i) x[i] *= share;
}

/// Loads columns c .. c + 8 of the token of that number.
template <class T>
DEVICE void load_selected(EncoderTokens<T> m1, EncoderTokens<T> m2, const HeadSample& sample, unsigned token, int d,
                          int c, float x[VECTOR_WIDTH]) {
    if (token == NO_TOKEN) {
        for (int i = 0; i < VECTOR_WIDTH; ++i) x[i] = 0.f;
    } else if (token < 2) {
        load_token(m1, sample.row1, token % 2, d, c, x);
    } else {
        load_token(m2, sample.row2, token % 2, d, c, x);
    }
}

/// Loads columns c .. c + 8 of MT_1 - CLS_2 and of MT_2 - CLS_1.
template <class T>
DEVICE void load_differences(EncoderTokens<T> m1, EncoderTokens<T> m2, const HeadSample& sample, int d, int c,
                             float first[VECTOR_WIDTH], float second[VECTOR_WIDTH]) {
    float v[VECTOR_WIDTH];
    load_token(m1, sample.row1, 1, d, c, first), load_token(m2, sample.row2, 0, d, c, v);
    for (int i = 0; i < VECTOR_WIDTH; ++i) first[i] -= v[i];
    load_token(m2, sample.row2, 1, d, c, second), load_token(m1, sample.row1, 0, d, c, v);
    for (int i = 0; i < VECTOR_WIDTH; ++i) second[i] -= v[i];
}

/// Stores columns c .. c + 8 of a token's gradient, an equal share for each image.
template <class T>
DEVICE void store_gradient(EncoderTokens<T> m, unsigned row, unsigned is_mask, int d, int c, float x[VECTOR_WIDTH]) {
    T* first = m.gradient + (size_t(row) * m.images * 2 + is_mask) * d + c;
    float share = 1.f / m.images;
    for (int i = 0; i < VECTOR_WIDTH; ++i) x[i] *= share;
    for (int image = 0; image < m.images; ++image) store8(first + size_t(image) * 2 * d, x);
}

/// Stores the gradients of one modality's class and mask token. g1 and g2 are the gradients of the
/// two selected tokens, `d_class` and `d_mask` those of the alignment loss.
template <class T>
DEVICE void token_gradients(EncoderTokens<T> m, unsigned modality, unsigned row, const HeadSample& sample, int d, int c,
                            const float g1[VECTOR_WIDTH], const float g2[VECTOR_WIDTH], float d_class[VECTOR_WIDTH],
                            float d_mask[VECTOR_WIDTH]) {
    if (row == NO_ROW || !m.gradient) return;
    unsigned token = 2 * modality;
    for (int i = 0; i < VECTOR_WIDTH; ++i) {
        if (sample.token1 == token) d_class[i] += g1[i];
        if (sample.token2 == token) d_class[i] += g2[i];
        if (sample.token1 == token + 1) d_mask[i] += g1[i];
        if (sample.token2 == token + 1) d_mask[i] += g2[i];
    }
    store_gradient(m, row, 0, d, c, d_class);
    store_gradient(m, row, 1, d, c, d_mask);
}

DEVICE float warp_max(float x) {
    for (int lane = 16; lane; lane /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lane));
    return x;
}

/// Computes a sample's cross-entropy (for several labels the sum of the classes' binary ones), the
/// same in every thread, and its gradient. Every warp goes through all classes.
DEVICE float cross_entropy(const float* logits, const HeadSample& sample, HeadSizes h, float factor, float* d_logits) {
    if (h.multi_label) {
        // max(x, 0) - x y + ln(1 + e^-|x|), which is finite at any logit.
        float loss = 0.f;
        for (int k = lane(); k < h.classes; k += 32) {
            float x = logits[k];
            loss += fmaxf(x, 0.f) - (sample.has_label(k, h) ? x : 0.f) + log1pf(expf(-fabsf(x)));
        }
        for (int k = threadIdx.x; k < h.classes; k += blockDim.x)
            d_logits[k] = factor * (1.f / (1.f + expf(-logits[k])) - (sample.has_label(k, h) ? 1.f : 0.f));
        return warp_sum(loss);
    }
    float largest = logits[0], sum = 0.f;
    for (int k = lane(); k < h.classes; k += 32) largest = fmaxf(largest, logits[k]);
    largest = warp_max(largest);
    for (int k = lane(); k < h.classes; k += 32) sum += expf(logits[k] - largest);
    sum = warp_sum(sum);
    for (int k = threadIdx.x; k < h.classes; k += blockDim.x)
        d_logits[k] = factor * (expf(logits[k] - largest) / sum - (sample.has_label(k, h) ? 1.f : 0.f));
    return logf(sum) - (logits[sample.labels[0]] - largest);
}

/// One sample from tokens to losses and back to the gradients of its tokens. One block per sample.
///
/// `features` is what the head reads (samples x width), `logits` and `d_logits` are samples x classes;
/// `losses` are the cross-entropy and the sum of squared differences of each sample.
template <class T>
DEVICE void head_sample(const unsigned* table, EncoderTokens<T> m1, EncoderTokens<T> m2, const float* weight,
                        const float* bias, float* features, float* logits, float* d_logits, float* losses, HeadSizes h,
                        HeadFactors f) {
    int d = h.d, width = h.concat ? 2 * d : d, warps = blockDim.x / 32, warp = threadIdx.x / 32;
    SHARED(float, feature);
    float *own_logits = feature + width, *own_d_logits = own_logits + h.classes, *squares = own_d_logits + h.classes;
    HeadSample sample(table, blockIdx.x, h);
    features += size_t(blockIdx.x) * width;
    logits += size_t(blockIdx.x) * h.classes, d_logits += size_t(blockIdx.x) * h.classes;
    float v[VECTOR_WIDTH], w[VECTOR_WIDTH], square = 0.f;
    for (int c = threadIdx.x * VECTOR_WIDTH; c < d; c += blockDim.x * VECTOR_WIDTH) {
        load_selected(m1, m2, sample, sample.token1, d, c, v);
        load_selected(m1, m2, sample, sample.token2, d, c, w);
        if (h.concat) {
            store8(feature + d + c, w), store8(features + d + c, w);
        } else {
            for (int i = 0; i < VECTOR_WIDTH; ++i) v[i] += w[i];
        }
        store8(feature + c, v), store8(features + c, v);
        if (sample.aligned) {
            load_differences(m1, m2, sample, d, c, v, w);
            for (int i = 0; i < VECTOR_WIDTH; ++i) square += v[i] * v[i] + w[i] * w[i];
        }
    }
    square = warp_sum(square);
    if (lane() == 0) squares[warp] = square;
    __syncthreads();
    for (int k = warp; k < h.classes; k += warps) {
        float sum = 0.f;
        for (int c = lane() * VECTOR_WIDTH; c < width; c += 32 * VECTOR_WIDTH) {
            load8(feature + c, v), load8(weight + size_t(k) * width + c, w);
            for (int i = 0; i < VECTOR_WIDTH; ++i) sum += v[i] * w[i];
        }
        sum = warp_sum(sum) + bias[k];
        if (lane() == 0) own_logits[k] = logits[k] = sum;
    }
    __syncthreads();
    float loss = cross_entropy(own_logits, sample, h, f.task, own_d_logits);
    if (threadIdx.x == 0) {
        float sum = 0.f;
        for (int i = 0; i < warps; ++i) sum += squares[i];
        losses[2 * blockIdx.x] = loss, losses[2 * blockIdx.x + 1] = sum;
    }
    __syncthreads();
    for (int k = threadIdx.x; k < h.classes; k += blockDim.x) d_logits[k] = own_d_logits[k];
    if (!m1.gradient && !m2.gradient) return;
    float factor = 2.f * f.align_weight * f.align;
    for (int c = threadIdx.x * VECTOR_WIDTH; c < d; c += blockDim.x * VECTOR_WIDTH) {
        float g1[VECTOR_WIDTH] = {}, g2[VECTOR_WIDTH] = {};
        for (int k = 0; k < h.classes; ++k) {
            load8(weight + size_t(k) * width + c, w);
            for (int i = 0; i < VECTOR_WIDTH; ++i) g1[i] += own_d_logits[k] * w[i];
            if (!h.concat) continue;
            load8(weight + size_t(k) * width + d + c, w);
            for (int i = 0; i < VECTOR_WIDTH; ++i) g2[i] += own_d_logits[k] * w[i];
        }
        float mask1[VECTOR_WIDTH] = {}, mask2[VECTOR_WIDTH] = {}, class1[VECTOR_WIDTH], class2[VECTOR_WIDTH];
        if (sample.aligned) load_differences(m1, m2, sample, d, c, mask1, mask2);
        for (int i = 0; i < VECTOR_WIDTH; ++i) {
            if (!h.concat) g2[i] = g1[i];
            mask1[i] *= factor, mask2[i] *= factor;
            class1[i] = f.stop_gradient ? 0.f : -mask2[i];
            class2[i] = f.stop_gradient ? 0.f : -mask1[i];
        }
        token_gradients(m1, 0, sample.row1, sample, d, c, g1, g2, class1, mask1);
        token_gradients(m2, 1, sample.row2, sample, d, c, g1, g2, class2, mask2);
    }
}

/// The sums over samples: the gradients of the head's weight and bias, and the three losses (training,
/// task, alignment). Block: (a column per thread, class).
DEVICE void head_sums(const float* features, const float* d_logits, const float* sample_losses, float* d_weight,
                      float* d_bias, float* losses, int n, int width, int classes, HeadFactors f) {
    int c = blockIdx.x * blockDim.x + threadIdx.x, k = blockIdx.y;
    if (c >= width) return;
    float weight_sum = 0.f, bias_sum = 0.f;
    for (int i = 0; i < n; ++i) {
        float g = d_logits[size_t(i) * classes + k];
        weight_sum += g * features[size_t(i) * width + c];
        bias_sum += g;
    }
    d_weight[size_t(k) * width + c] = weight_sum;
    if (c == 0) d_bias[k] = bias_sum;
    if (c != 0 || k != 0) return;
    float task = 0.f, align = 0.f;
    for (int i = 0; i < n; ++i) task += sample_losses[2 * i], align += sample_losses[2 * i + 1];
    task *= f.task, align *= f.align;
    losses[0] = task + f.align_weight * align, losses[1] = task, losses[2] = align;
}
