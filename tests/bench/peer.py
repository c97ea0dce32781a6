"""What every peer of the benchmarks shares: one line in, one unit of work, one line of JSON out.

A peer is started once, prints a line when it is ready, and then works whenever it reads a line: so two of them can be
timed in turns in the same minute, on a machine that is shared and noisy.
"""

import json
import os
import sys
import time

# Two threads, as the machine of the targets has cores; set before numpy and torch are loaded.
THREADS = int(os.environ.get("BENCH_THREADS", "2"))
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, str(THREADS))


def peak():
    """Highest resident memory of this process so far, in MB."""
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def serve(unit, items, memory=None):
    """`unit()` is the work, `items` how many things it handles, `memory()` the most bytes in use so far, where that is
    not this process's own memory."""
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        unit()
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "items": items, "peak_mb": memory() / 1e6 if memory else peak()}), flush=True)
