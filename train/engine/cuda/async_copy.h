// Copies from global to shared memory that run beside arithmetic (`cp.async`, from compute capability
// 8.0 on; earlier cards copy at once). A thread issues copies, commits them as a group, and later
// waits for its groups; other threads may read what it has copied after a barrier that follows the
// wait.
#pragma once
#include "numbers.h"

/// Issues a copy of 4 or 16 bytes, or of as many zeros if not `inside`. Both addresses are multiples of
/// that size.
template <int BYTES>
DEVICE void copy_async(void* to, const void* from, bool inside) {
    static_assert(BYTES == 4 || BYTES == 16, "sizes that copy_async is written for");
#ifdef __CUDACC__
#if __CUDA_ARCH__ >= 800
    unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to));
    int bytes = inside ? BYTES : 0;
    if (BYTES == 4)
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
    else
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
#else
    for (int i = 0; i < BYTES / 4; ++i)
        static_cast<unsigned*>(to)[i] = inside ? static_cast<const unsigned*>(from)[i] : 0;
#endif
#else
    emulated::issue(to, from, BYTES, inside ? BYTES : 0);
#endif
}

/// Ends a group of copies.
DEVICE void commit_copies() {
#ifdef __CUDACC__
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
#else
    ++emulated::fibers[emulated::current].commits;
#endif
}

/// Waits for all of the thread's groups but the last `LATEST`.
template <int LATEST>
DEVICE void wait_for_copies() {
#ifdef __CUDACC__
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(LATEST) : "memory");
#endif
#else
    emulated::wait_for_groups(LATEST);
#endif
}
