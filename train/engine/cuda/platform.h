// The platform of the kernels: CUDA itself, or an emulator that runs a grid on the host.
//
// The emulator is for tests: it runs the very source that a GPU runs, one block after the other,
// each thread of a block as a coroutine that yields at every barrier and warp exchange. A GPU
// promises no order between these points, so the emulator chooses one at random: threads run in
// another order each round, and some warps wait for many rounds, so that a result that depends on a
// missing barrier changes. Shared memory is filled with NaN before each block. The seed is fixed, so
// a failure repeats.
#pragma once

#ifdef __CUDACC__

#define KERNEL extern "C" __global__ void
#define DEVICE __device__ __forceinline__
/// Unrolls a loop over numbers in registers, which cannot be indexed.
#define UNROLL _Pragma("unroll")
/// Unrolls a loop `n` times.
#define UNROLL_BY(n) PRAGMA(unroll n)
#define PRAGMA(text) _Pragma(#text)
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
#define UNROLL_BY(n)
#define __launch_bounds__(...)
#define SHARED(type, name) type* name = reinterpret_cast<type*>(emulated::shared.words.data())
#define EXPORT(name) static const bool name##_exported = emulated::add(#name, name);

struct Index {
    unsigned x, y, z;
};
static Index threadIdx, blockIdx, blockDim, gridDim;

namespace emulated {

constexpr unsigned STACK = 64 * 1024;

// A barrier for all threads of a block, or for the 32 of a warp.
struct Barrier {
    unsigned size, arrived, generation;
};

// A copy of `size` bytes to shared memory that a thread has issued, of which those from `bytes` on are
// zeros; `group` counts the thread's commits before it.
struct Copy {
    void* to;
    const void* from;
    unsigned size, bytes, group;
};

// A thread, started with makecontext and then switched with setjmp, which makes no system call.
struct Fiber {
    ucontext_t context;
    jmp_buf at;
    std::vector<char> stack;
    bool begun, done;
    // The barrier that it waits at, until that has another generation.
    const Barrier* barrier;
    unsigned generation;
    std::vector<Copy> copies;
    unsigned commits;
};

// What a lane shows to the other lanes of its warp.
struct Slot {
    unsigned words[8];
    const void* pointer;
};

// A block's shared memory: NaN as single precision and as bf16 until it is written, and some bytes
// beyond its size that must stay so.
struct SharedMemory {
    static constexpr uint64_t POISON = 0x7fff7fff7fff7fff;
    static constexpr size_t GUARD = 512;
    std::vector<uint64_t> words;

    void poison(size_t bytes) { words.assign((bytes + 7) / 8 + GUARD, POISON); }
    bool is_guard_intact() const {
        for (size_t i = words.size() - GUARD; i < words.size(); ++i)
            if (words[i] != POISON) return false;
        return true;
    }
};

// xorshift32 (Marsaglia 2003).
struct Random {
    unsigned state;
    unsigned below(unsigned n) {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        return state % n;
    }
};

static std::vector<Fiber> fibers;
static std::vector<Barrier> warps;
static std::vector<Slot> slots;
static Barrier block;
static SharedMemory shared;
static Random schedule;
static jmp_buf scheduler;
static unsigned current;
// The order of the threads in a round, and the rounds for which each warp is still held back.
static std::vector<unsigned> order, held;
// The generation of the block's barrier in the round before.
static unsigned last_generation;
// Static, so that setjmp does not restore them.
static unsigned left, at;
static void* body;
static void (*run_body)(void*);

inline void wait_at(Barrier& barrier) {
    Fiber& fiber = fibers[current];
    fiber.barrier = &barrier;
    fiber.generation = barrier.generation;
    if (++barrier.arrived == barrier.size) {
        barrier.arrived = 0;
        ++barrier.generation;
        return;
    }
    if (!_setjmp(fiber.at)) _longjmp(scheduler, 1);
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

// Chooses the order of the next round, and now and then a warp that is held back for many rounds:
// above all when a barrier has just opened, where warps of a GPU part.
inline void shuffle() {
    bool opened = last_generation != block.generation;
    last_generation = block.generation;
    for (unsigned i = order.size() - 1; i; --i) std::swap(order[i], order[schedule.below(i + 1)]);
    for (unsigned& rounds : held) {
        if (rounds)
            --rounds;
        else if (!schedule.below(opened ? 4 : 256))
            rounds = schedule.below(512);
    }
}

inline bool is_any_held() {
    for (unsigned rounds : held)
        if (rounds) return true;
    return false;
}

// Runs the block `blockIdx`. Returns what is wrong with it, or null.
inline const char* run_block(unsigned threads, unsigned shared_bytes) {
    fibers.resize(threads);
    warps.assign((threads + 31) / 32, Barrier{32, 0, 0});
    slots.assign(warps.size() * 32, Slot{});
    held.assign(warps.size(), 0);
    order.resize(threads);
    for (unsigned i = 0; i < threads; ++i) order[i] = i;
    shared.poison(shared_bytes);
    block = Barrier{threads, 0, 0};
    last_generation = ~0u;
    for (auto& fiber : fibers) {
        fiber.begun = fiber.done = false;
        fiber.barrier = nullptr;
        fiber.copies.clear();
        fiber.commits = 0;
        if (fiber.stack.empty()) fiber.stack.resize(STACK);
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, enter, 0);
    }
    left = threads;
    while (left) {
        shuffle();
        static bool ran;
        ran = is_any_held();
        for (at = 0; at < threads; ++at) {
            current = order[at];
            Fiber& fiber = fibers[current];
            bool waits = fiber.barrier && fiber.barrier->generation == fiber.generation;
            if (fiber.done || waits || held[current / 32]) continue;
            ran = true;
            threadIdx = Index{current, 0, 0};
            if (!_setjmp(scheduler)) {
                if (fiber.begun) _longjmp(fiber.at, 1);
                fiber.begun = true;
                setcontext(&fiber.context);
            }
            if (fibers[current].done) --left;
        }
        if (!ran) return "has threads that wait at different barriers";
    }
    return shared.is_guard_intact() ? nullptr : "writes beyond its shared memory";
}

inline void finish(const Copy& copy) {
    std::memcpy(copy.to, copy.from, copy.bytes);
    std::memset(static_cast<char*>(copy.to) + copy.bytes, 0, copy.size - copy.bytes);
}

// Issues a copy. A GPU makes it at any time before the thread's wait for it ends, so the emulator
// makes it at once or in the wait, at random.
inline void issue(void* to, const void* from, unsigned size, unsigned bytes) {
    Copy issued{to, from, size, bytes, fibers[current].commits};
    if (schedule.below(2))
        finish(issued);
    else
        fibers[current].copies.push_back(issued);
}

// Waits for all copies of the thread but those of its last `latest` commits.
inline void wait_for_groups(unsigned latest) {
    Fiber& fiber = fibers[current];
    size_t kept = 0;
    for (const Copy& issued : fiber.copies) {
        if (issued.group + latest < fiber.commits)
            finish(issued);
        else
            fiber.copies[kept++] = issued;
    }
    fiber.copies.resize(kept);
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

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
    static_assert(sizeof(T) == 4, "a slot shows words");
    unsigned lane = emulated::current % 32;
    std::memcpy(emulated::slot(lane).words, &value, 4);
    emulated::wait_at(emulated::warp());
    std::memcpy(&value, emulated::slot(lane ^ mask).words, 4);
    emulated::wait_at(emulated::warp());
    return value;
}

inline unsigned __umulhi(unsigned a, unsigned b) { return uint64_t(a) * b >> 32; }

/// Runs a kernel over its grid. Returns null, or what went wrong, which the caller may read until the
/// next call.
extern "C" const char* emulate(const char* name, const unsigned grid[3], unsigned threads, unsigned shared_bytes,
                               void** arguments) {
    static std::string error;
    auto found = emulated::kernels().find(name);
    if (found == emulated::kernels().end()) return (error = std::string("no kernel ") + name).c_str();
    if (threads % 32) return (error = std::string("the kernel ") + name + " has blocks that are not whole warps").c_str();
    emulated::Call call{found->second, arguments};
    emulated::body = &call;
    emulated::run_body = emulated::run_call;
    emulated::schedule = emulated::Random{2463534242};
    gridDim = Index{grid[0], grid[1], grid[2]};
    blockDim = Index{threads, 1, 1};
    for (blockIdx.z = 0; blockIdx.z < grid[2]; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < grid[1]; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < grid[0]; ++blockIdx.x)
                if (const char* fault = emulated::run_block(threads, shared_bytes))
                    return (error = std::string("the kernel ") + name + " " + fault).c_str();
    return nullptr;
}

#endif
