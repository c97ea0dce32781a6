// Kernels that need every one of their barriers and waits, each also with one left out.
#include "../../cuda/async_copy.h"

constexpr int ROUNDS = 4;

/// Each thread passes a number to a thread of the next warp, `ROUNDS` times: out[i] is the sum of
/// what it was given.
template <bool before_read, bool before_write>
DEVICE void pass_on(float* out) {
    SHARED(float, tile);
    float sum = 0.f;
    for (int round = 0; round < ROUNDS; ++round) {
        tile[threadIdx.x] = float(threadIdx.x + round);
        if (before_read) __syncthreads();
        // A few exchanges, so that warps can drift apart.
        float other = 0.f;
        for (int i = 0; i < 8; ++i) other = warp_sum(1.f);
        sum += tile[(threadIdx.x + 32) % blockDim.x] * other / 32.f;
        if (before_write) __syncthreads();
    }
    out[threadIdx.x] = sum;
}

/// out[i] = in[i] of every stage of `blockDim.x` quads, copied into two buffers in turn; the thread
/// reads what its neighbour in the next warp has copied.
template <bool wait, bool before_read, bool before_reuse>
DEVICE void copy_on(const Quad* in, Quad* out) {
    SHARED(Quad, tiles);
    int n = blockDim.x;
    copy_async<16>(tiles + threadIdx.x, in + threadIdx.x, true);
    commit_copies();
    for (int round = 0; round < ROUNDS; ++round) {
        const Quad* tile = tiles + round % 2 * n;
        if (round + 1 < ROUNDS)
            copy_async<16>(tiles + (round + 1) % 2 * n + threadIdx.x, in + (round + 1) * n + threadIdx.x, true);
        commit_copies();
        if (wait) wait_for_copies<1>();
        if (before_read) __syncthreads();
        for (int i = 0; i < 8; ++i) warp_sum(1.f);
        out[round * n + threadIdx.x] = tile[(threadIdx.x + 32) % n];
        if (before_reuse) __syncthreads();
    }
}

#define PASS_ON(name, ...) \
    KERNEL name(float* out) { pass_on<__VA_ARGS__>(out); } \
    EXPORT(name)
#define COPY_ON(name, ...) \
    KERNEL name(const Quad* in, Quad* out) { copy_on<__VA_ARGS__>(in, out); } \
    EXPORT(name)

PASS_ON(pass_on_right, true, true)
PASS_ON(pass_on_reads_early, false, true)
PASS_ON(pass_on_writes_early, true, false)
COPY_ON(copy_on_right, true, true, true)
COPY_ON(copy_on_does_not_wait, false, true, true)
COPY_ON(copy_on_reads_early, true, false, true)
COPY_ON(copy_on_reuses_early, true, true, false)

/// Copies no bytes, which gives zeros.
KERNEL copy_nothing(const Quad* in, Quad* out) {
    SHARED(Quad, tile);
    copy_async<16>(tile + threadIdx.x, in + threadIdx.x, false);
    commit_copies();
    wait_for_copies<0>();
    __syncthreads();
    out[threadIdx.x] = tile[threadIdx.x];
}
EXPORT(copy_nothing)

/// Reads shared memory that no thread has written.
KERNEL read_unwritten(float* out) {
    SHARED(float, tile);
    out[threadIdx.x] = tile[threadIdx.x];
    tile[threadIdx.x] = 1.f;
}
EXPORT(read_unwritten)

/// Writes one number more than the block has shared memory for.
KERNEL write_beyond(float*) {
    SHARED(float, tile);
    tile[threadIdx.x + 1] = 1.f;
}
EXPORT(write_beyond)

/// Half of the threads wait for the block, half for their warp.
KERNEL wait_apart(float*) {
    if (threadIdx.x % 2)
        __syncthreads();
    else
        warp_sum(1.f);
}
EXPORT(wait_apart)
