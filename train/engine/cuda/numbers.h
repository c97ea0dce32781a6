// Numbers of single precision and brain floating point, loaded and stored eight at a time, and the
// random bits of dropout.
#pragma once
#include "platform.h"

/// The upper half of a single-precision number.
struct bf16 {
    unsigned short bits;
};

DEVICE float bits_to_float(unsigned bits) {
#ifdef __CUDACC__
    return __uint_as_float(bits);
#else
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
#endif
}

DEVICE unsigned float_to_bits(float x) {
#ifdef __CUDACC__
    return __float_as_uint(x);
#else
    unsigned bits;
    std::memcpy(&bits, &x, 4);
    return bits;
#endif
}

/// Returns 2^x with a relative error below 2^-22, and 0 where that is smaller than the normal numbers: one
/// instruction.
DEVICE float exp2_approx(float x) {
#ifdef __CUDACC__
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return exp2f(x);
#endif
}

/// Rounds two numbers to bf16, to nearest even, the first into the lower half.
DEVICE unsigned pack(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    unsigned both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
#else
    unsigned two[2] = {float_to_bits(low), float_to_bits(high)};
    for (int i = 0; i < 2; ++i) {
        bool nan = (two[i] & 0x7fffffff) > 0x7f800000;
        two[i] = nan ? 0x7fff : (two[i] + 0x7fff + ((two[i] >> 16) & 1)) >> 16;
    }
    return two[0] | two[1] << 16;
#endif
}

DEVICE float load(const float* p) { return *p; }
DEVICE float load(const bf16* p) { return bits_to_float(unsigned(p->bits) << 16); }
DEVICE void store(float* p, float x) { *p = x; }
DEVICE void store(bf16* p, float x) { p->bits = pack(x, 0.f); }

/// The numbers that a thread loads at once: 16 bytes of bf16. The width of every matrix is a
/// multiple.
constexpr int VECTOR_WIDTH = 8;

struct alignas(16) Quad {
    unsigned words[4];
};

/// Two numbers that are loaded at once.
struct alignas(8) Pair {
    float x[2];
};

DEVICE void load8(const float* p, float x[VECTOR_WIDTH]) {
    for (int i = 0; i < 2; ++i) {
        Quad quad = reinterpret_cast<const Quad*>(p)[i];
        for (int j = 0; j < 4; ++j) x[4 * i + j] = bits_to_float(quad.words[j]);
    }
}

DEVICE void load8(const bf16* p, float x[VECTOR_WIDTH]) {
    Quad quad = *reinterpret_cast<const Quad*>(p);
    for (int j = 0; j < 4; ++j) {
        x[2 * j] = bits_to_float(quad.words[j] << 16);
        x[2 * j + 1] = bits_to_float(quad.words[j] & 0xffff0000u);
    }
}

DEVICE void store8(float* p, const float x[VECTOR_WIDTH]) {
    for (int i = 0; i < 2; ++i) {
        Quad quad;
        for (int j = 0; j < 4; ++j) quad.words[j] = float_to_bits(x[4 * i + j]);
        reinterpret_cast<Quad*>(p)[i] = quad;
    }
}

DEVICE void store8(bf16* p, const float x[VECTOR_WIDTH]) {
    Quad quad;
    for (int j = 0; j < 4; ++j) quad.words[j] = pack(x[2 * j], x[2 * j + 1]);
    *reinterpret_cast<Quad*>(p) = quad;
}

/// Rounds eight numbers as storing and loading them would.
DEVICE void round8(const float*, float[VECTOR_WIDTH]) {}
DEVICE void round8(const bf16*, float x[VECTOR_WIDTH]) {
    for (int j = 0; j < 4; ++j) {
        unsigned both = pack(x[2 * j], x[2 * j + 1]);
        x[2 * j] = bits_to_float(both << 16);
        x[2 * j + 1] = bits_to_float(both & 0xffff0000u);
    }
}

/// The row that a warp handles, where each warp handles one.
DEVICE int warp_row() { return blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; }
DEVICE int lane() { return threadIdx.x % 32; }

/// The group of eight numbers that a thread handles, where each thread handles one. A matrix has
/// fewer groups than 2^32, and the GPU divides numbers of 32 bits several times faster than those
/// of 64.
DEVICE unsigned element_group() { return blockIdx.x * blockDim.x + threadIdx.x; }

/// Returns the sum over the lanes of a warp, in every lane.
DEVICE float warp_sum(float x) {
    for (int lane = 16; lane; lane /= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
    return x;
}

/// The dropout of one module in one step, as in `src/cpu/dropout.rs`; a `threshold` of 0 drops
/// nothing. `scale` is 1 / (1 - rate).
struct Dropout {
    unsigned threshold;
    float scale;
    unsigned key[2];
    unsigned module, step;
};

/// One block of Philox4x32-10 (Salmon et al. 2011).
DEVICE void philox(unsigned counter[4], unsigned k0, unsigned k1) {
    for (int round = 0; round < 10; ++round) {
        unsigned low0 = 0xD2511F53u * counter[0], high0 = __umulhi(0xD2511F53u, counter[0]);
        unsigned low1 = 0xCD9E8D57u * counter[2], high1 = __umulhi(0xCD9E8D57u, counter[2]);
        counter[0] = high1 ^ counter[1] ^ k0;
        counter[1] = low1;
        counter[2] = high0 ^ counter[3] ^ k1;
        counter[3] = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

/// Computes the random words of columns `8 group .. 8 group + 8` of row `row`, which is `width`
/// wide: 16 bits for each column.
DEVICE void random_words(const Dropout& drop, unsigned module, unsigned sample, unsigned row, unsigned width,
                         unsigned group, unsigned words[4]) {
    words[0] = row * ((width + 7) / 8) + group;
    words[1] = sample;
    words[2] = drop.module + module;
    words[3] = drop.step;
    philox(words, drop.key[0], drop.key[1]);
}

/// Returns whether column `8 group + i` is dropped, given the words of its group.
DEVICE bool is_dropped(const Dropout& drop, const unsigned words[4], int i) {
    return ((words[i / 2] >> (16 * (i % 2))) & 0xffff) < drop.threshold;
}

/// Returns 0 or `1 / (1 - rate)` for column `8 group + i`, given the words of its group.
DEVICE float dropout_factor(const Dropout& drop, const unsigned words[4], int i) {
    return is_dropped(drop, words, i) ? 0.f : drop.scale;
}

/// Multiplies the eight columns of a group by their mask. `position`, the (sample, position) of the
/// row, is read only if something is dropped.
DEVICE void apply_dropout(const Dropout& drop, unsigned module, const unsigned* position, unsigned width,
                          unsigned group, float x[VECTOR_WIDTH]) {
    if (!drop.threshold) return;
    unsigned words[4];
    random_words(drop, module, position[0], position[1], width, group, words);
    for (int i = 0; i < VECTOR_WIDTH; ++i) x[i] *= dropout_factor(drop, words, i);
}
