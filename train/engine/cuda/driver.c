// The entry points of NVIDIA's driver, libcuda.so.1, as functions of this program that jump to the driver's where it is
// installed. A program that links libcuda.so.1 itself does not even start without it; this one starts, and each entry
// point answers CUDA_ERROR_NO_DEVICE. `build.rs` writes entries.h: a line ENTRY(name) for each name in cuda.h.
#include <dlfcn.h>
#include <stddef.h>

#if defined(__x86_64__)
#define JUMP(name) "jmp *u2a_" #name "(%rip)\n"
#elif defined(__aarch64__)
#define JUMP(name) "adrp x16, u2a_" #name "\nldr x16, [x16, :lo12:u2a_" #name "]\nbr x16\n"
#else
#error "no jump for this processor: see train/engine/cuda/driver.c"
#endif

// The driver's function, and a function of the driver's name that jumps there with all its arguments in place.
#define ENTRY(name)                                              \
    __attribute__((visibility("hidden"))) void *u2a_##name;      \
    __asm__(".pushsection .text\n.globl " #name "\n.type " #name ", %function\n" #name ":\n" JUMP(name) ".popsection");
#include "entries.h"
#undef ENTRY

// CUDA_ERROR_NO_DEVICE, cuda.h.
static int no_device(void) { return 100; }

static const struct {
    const char *name;
    void **function;
} ENTRIES[] = {
#define ENTRY(name) {#name, &u2a_##name},
#include "entries.h"
#undef ENTRY
};

// Before main, as the loader would have resolved them.
__attribute__((constructor)) static void resolve(void) {
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
    for (size_t i = 0; i < sizeof ENTRIES / sizeof *ENTRIES; i++) {
        void *found = driver ? dlsym(driver, ENTRIES[i].name) : NULL;
        *ENTRIES[i].function = found ? found : (void *)no_device;
    }
}
