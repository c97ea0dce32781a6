// The platform of the kernels: CUDA itself, or an emulator that runs a grid on the host.
//
// The emulator is for tests: it runs the very source that a GPU runs, one block after the other,
// each thread of a block as a coroutine that yields at every barrier and warp exchange. It is slow,
// and its results are exact; it does not always show races and missing barriers.
#pragma once

#ifdef __CUDACC__

#define KERNEL extern "C" __global__ void
#define DEVICE __device__ __forceinline__
/// Unrolls a loop over numbers in registers, which cannot be indexed.
#define UNROLL _Pragma("unroll")
#define SHARED(type, name)                             \
    extern __shared__ __align__(16) char name##_raw[]; \
    type* name = reinterpret_cast<type*>(name##_raw)
#define EXPORT(name)

#else

#include <cstdint>
#include <cmath>
#include <csetjmp>
#include <cstring>
#include <map>
#include <string>
#include <ucontext.h>
#include <utility>
#include <vector>

#define KERNEL static void
#define DEVICE inline
#define UNROLL
#define __launch_bounds__(...)
#define SHARED(type, name) type* name = reinterpret_cast<type*>(emulated::shared.data())
#define EXPORT(name) static const bool name##_exported = emulated::add(#name, name);

struct Index {
    unsigned x, y, z;
};
static Index threadIdx, blockIdx, blockDim, gridDim;

namespace emulated {

constexpr unsigned STACK = 64 * 1024;

// A thread, started with makecontext and then switched with setjmp, which makes no system call.
struct Fiber {
    ucontext_t context;
    jmp_buf at;
    std::vector<char> stack;
    bool begun, done;
};

// A barrier for all threads of a block, or for the 32 of a warp.
struct Barrier {
    unsigned size, arrived, generation;
};

// What a lane shows to the other lanes of its warp.
struct Slot {
    unsigned words[8];
    const void* pointer;
};

static std::vector<Fiber> fibers;
static std::vector<Barrier> warps;
static std::vector<Slot> slots;
static Barrier block;
static std::vector<uint64_t> shared;
static jmp_buf scheduler;
static unsigned current;
// Static, so that setjmp does not restore them.
static unsigned left;
static void* body;
static void (*run_body)(void*);

inline void yield() {
    if (!_setjmp(fibers[current].at)) _longjmp(scheduler, 1);
}

inline void wait_at(Barrier& barrier) {
    unsigned generation = barrier.generation;
    if (++barrier.arrived == barrier.size) {
        barrier.arrived = 0;
        ++barrier.generation;
        return;
    }
    while (barrier.generation == generation) yield();
}

inline Barrier& warp() { return warps[current / 32]; }
inline Slot& slot(unsigned lane) { return slots[current / 32 * 32 + lane]; }

inline void enter() {
    run_body(body);
    fibers[current].done = true;
    // The barrier no longer waits for a thread that has ended.
    --block.size;
    if (block.size && block.arrived == block.size) block.arrived = 0, ++block.generation;
    _longjmp(scheduler, 1);
}

inline void run_block(unsigned threads) {
    fibers.resize(threads);
    warps.assign((threads + 31) / 32, Barrier{32, 0, 0});
    slots.assign(warps.size() * 32, Slot{});
    block = Barrier{threads, 0, 0};
    for (auto& fiber : fibers) {
        fiber.begun = fiber.done = false;
        if (fiber.stack.empty()) fiber.stack.resize(STACK);
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, enter, 0);
    }
    left = threads;
    while (left) {
        for (current = 0; current < threads; ++current) {
            Fiber& fiber = fibers[current];
            if (fiber.done) continue;
            threadIdx = Index{current, 0, 0};
            if (!_setjmp(scheduler)) {
                if (fiber.begun) _longjmp(fiber.at, 1);
                fiber.begun = true;
                setcontext(&fiber.context);
            }
            if (fibers[current].done) --left;
        }
    }
}

struct Kernel {
    void (*call)(void (*)(), void**);
    void (*function)();
};

inline std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}

template <class... A, size_t... I>
void spread(void (*function)(A...), void** arguments, std::index_sequence<I...>) {
    function(*static_cast<A*>(arguments[I])...);
}

template <class... A>
bool add(const char* name, void (*function)(A...)) {
    auto call = [](void (*f)(), void** arguments) {
        spread(reinterpret_cast<void (*)(A...)>(f), arguments, std::index_sequence_for<A...>{});
    };
    kernels()[name] = Kernel{call, reinterpret_cast<void (*)()>(function)};
    return true;
}

struct Call {
    Kernel kernel;
    void** arguments;
};

inline void run_call(void* call) {
    Call* c = static_cast<Call*>(call);
    c->kernel.call(c->kernel.function, c->arguments);
}

}  // namespace emulated

inline void __syncthreads() { emulated::wait_at(emulated::block); }

inline float __shfl_xor_sync(unsigned, float value, int mask) {
    unsigned lane = emulated::current % 32;
    std::memcpy(emulated::slot(lane).words, &value, 4);
    emulated::wait_at(emulated::warp());
    std::memcpy(&value, emulated::slot(lane ^ mask).words, 4);
    emulated::wait_at(emulated::warp());
    return value;
}

inline unsigned __umulhi(unsigned a, unsigned b) { return uint64_t(a) * b >> 32; }

/// Runs a kernel over its grid. Returns false if there is none of that name.
extern "C" bool emulate(const char* name, const unsigned grid[3], unsigned threads, unsigned shared_bytes,
                        void** arguments) {
    auto found = emulated::kernels().find(name);
    if (found == emulated::kernels().end() || threads % 32) return false;
    emulated::Call call{found->second, arguments};
    emulated::body = &call;
    emulated::run_body = emulated::run_call;
    emulated::shared.assign(shared_bytes / 8 + 1, 0x7ff7dead7ff7dead);
    gridDim = Index{grid[0], grid[1], grid[2]};
    blockDim = Index{threads, 1, 1};
    for (blockIdx.z = 0; blockIdx.z < grid[2]; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < grid[1]; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < grid[0]; ++blockIdx.x) emulated::run_block(threads);
    return true;
}

#endif
