// Numbers: single precision, brain floating point, eight at a time; dropout's random bits.
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

/// Two numbers rounded to nearest even, the first in the lower half.
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

DEVICE float get(const float* p) { return *p; }
DEVICE float get(const bf16* p) { return bits_to_float(unsigned(p->bits) << 16); }
DEVICE void put(float* p, float x) { *p = x; }
DEVICE void put(bf16* p, float x) { p->bits = pack(x, 0.f); }

/// Numbers that a thread takes at once: 16 bytes of bf16. Rows are multiples of it.
constexpr int WIDE = 8;

struct alignas(16) Quad {
    unsigned words[4];
};

DEVICE void get8(const float* p, float x[WIDE]) {
    for (int i = 0; i < 2; ++i) {
        Quad quad = reinterpret_cast<const Quad*>(p)[i];
        for (int j = 0; j < 4; ++j) x[4 * i + j] = bits_to_float(quad.words[j]);
    }
}

DEVICE void get8(const bf16* p, float x[WIDE]) {
    Quad quad = *reinterpret_cast<const Quad*>(p);
    for (int j = 0; j < 4; ++j) {
        x[2 * j] = bits_to_float(quad.words[j] << 16);
        x[2 * j + 1] = bits_to_float(quad.words[j] & 0xffff0000u);
    }
}

DEVICE void put8(float* p, const float x[WIDE]) {
    for (int i = 0; i < 2; ++i) {
        Quad quad;
        for (int j = 0; j < 4; ++j) quad.words[j] = float_to_bits(x[4 * i + j]);
        reinterpret_cast<Quad*>(p)[i] = quad;
    }
}

DEVICE void put8(bf16* p, const float x[WIDE]) {
    Quad quad;
    for (int j = 0; j < 4; ++j) quad.words[j] = pack(x[2 * j], x[2 * j + 1]);
    *reinterpret_cast<Quad*>(p) = quad;
}

/// Which row a warp has, where each has one.
DEVICE int warp_row() { return blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; }
DEVICE int lane() { return threadIdx.x % 32; }

/// The sum over the lanes of a warp, in every lane.
DEVICE float warp_sum(float x) {
    for (int lane = 16; lane; lane /= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
    return x;
}

/// The dropout of one module in one step, as `kernels/dropout.rs` has it; `threshold` 0 for none.
struct Dropout {
    unsigned threshold;
    float keep;
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

/// Random words of columns `8 group .. 8 group + 8` of row `row`, which is `width` wide: 16 bits each.
DEVICE void random_words(const Dropout& drop, unsigned module, unsigned sample, unsigned row, unsigned width,
                         unsigned group, unsigned words[4]) {
    words[0] = row * ((width + 7) / 8) + group;
    words[1] = sample;
    words[2] = drop.module + module;
    words[3] = drop.step;
    philox(words, drop.key[0], drop.key[1]);
}

/// 0 or `1 / (1 - rate)` for the column `8 group + i` whose words those are.
DEVICE float kept(const Dropout& drop, const unsigned words[4], int i) {
    return ((words[i / 2] >> (16 * (i % 2))) & 0xffff) < drop.threshold ? 0.f : drop.keep;
}

/// Multiplies eight columns by their mask.
DEVICE void drop8(const Dropout& drop, unsigned module, unsigned sample, unsigned row, unsigned width, unsigned group,
                  float x[WIDE]) {
    if (!drop.threshold) return;
    unsigned words[4];
    random_words(drop, module, sample, row, width, group, words);
    for (int i = 0; i < WIDE; ++i) x[i] *= kept(drop, words, i);
}
