"""The loop of every peer of the benchmarks: a line of input, a unit of work, a line of JSON.

A peer is started once, prints a line when it is ready, and then does a unit of work for each line that it reads. So two of
them can be timed in alternation on a machine that is shared and noisy.
"""

import json
import os
import sys
import time

# Two threads, for the two cores of the machine that the targets are for; set before numpy and torch are loaded.
THREADS = int(os.environ.get("BENCH_THREADS", "2"))
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, str(THREADS))


def peak():
    """The peak resident memory of this process, in MB."""
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def serve(unit, items, memory=None, resize=None, refusals=()):
    """Runs `unit()` for each line of input and reports its time. `items` is the number of items in a unit; `memory()`
    returns the peak in bytes if that is not this process's own memory. A dictionary that `unit()` returns joins the report.

    A line `go N...` asks for units of another size: `resize(N, ...)`, which is not timed, returns the new number of items.
    An exception of one of the types `refusals` in either function is reported as a result, and the next line is read.
    """
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        words = line.split()
        try:
            if len(words) > 1:
                items = resize(*map(int, words[1:]))
            start = time.perf_counter()
            found = unit()
            found = found if isinstance(found, dict) else {}
            seconds = time.perf_counter() - start
            report = {"seconds": seconds, "items": items, "peak_mb": memory() / 1e6 if memory else peak(), **found}
        except refusals as problem:
            report = {"error": str(problem), "kind": "out of memory"}
        print(json.dumps(report), flush=True)
