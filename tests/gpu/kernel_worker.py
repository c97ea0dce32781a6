"""Runs the cases of kernel_cases.py one after the other and prints a line of JSON for each, for kernels.py."""

import json
import statistics
import time

import kernel_build as build
import kernel_cases as cases
import kernel_peers as peers
import kernel_reference as reference
import torch

# The error of a result that is not a number.
NO_NUMBER = 1e30
# The exit code after an error that the GPU's context does not survive, as kernels.py knows it.
LOST_CONTEXT = 3
# What lies around tensors in a second run; in the first one it is NaN.
GUARD_NUMBER = 3.0
# Timing: repetitions of about this many seconds, of which the median counts.
REPETITIONS, REPETITION_SECONDS = 5, 2e-3
# No GPU has a faster clock.
CLOCK_HZ = 2e9


def say(kind, **found):
    print(json.dumps({"kind": kind, **found}), flush=True)


def finding(text):
    say("finding", text=text)


def bits(tensor):
    """The bits of a tensor, so that NaN equals itself."""
    return tensor.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])


def relative_error(got, want):
    """The largest difference, relative to the largest number wanted."""
    difference = (got.double() - want).abs_()
    error = float(difference.max() / want.abs().max().clamp(min=1e-12))
    return error if error == error else NO_NUMBER


class Build:
    """The kernels of one build: source, binary and what ptxas has said."""

    def __init__(self, spec, device):
        self.name, self.used = spec["name"], spec["resources"]
        self.source = build.Source(spec["source"], spec["defines"])
        on_host = device.type == "cpu"
        self.binary = build.Emulator(spec["binary"]) if on_host else build.Cubin(spec["binary"], torch.cuda.current_stream().cuda_stream)


class Worker:
    def __init__(self, spec):
        self.host, self.only, self.first = spec["host"], spec["only"], spec["first"]
        self.device = torch.device("cpu" if self.host else "cuda:0")
        if not self.host:
            torch.zeros(1, device=self.device)  # Makes the context in which kernels are loaded.
        self.problems, self.builds = [], []
        for known in spec["builds"]:
            try:
                self.builds.append(Build(known, self.device))
            except (build.Problem, OSError) as problem:
                self.problems.append(f"{known['name']} cannot be loaded: {problem}")
        self.entries = self.plan()

    def plan(self):
        """All cases in their order, the most important first."""
        entries = list(cases.small_entries())
        names = {entry.kernel for entry in entries}
        known = set().union(*(b.source.kernels for b in self.builds)) if self.builds else names
        self.problems += [f"{kernel}: a kernel without a case in kernel_cases.py" for kernel in sorted(known - names)]
        self.problems += [f"{kernel}: kernel_cases.py has a case for it, but there is no such kernel" for kernel in sorted(names - known)]
        if not reference.philox_is_right():
            self.problems.append("kernel_reference.py: the generator of dropout masks does not give its known answers")
        entries = [entry for entry in entries if entry.kernel in known]
        if self.host:
            entries += peers.all_tiny()
        else:
            entries += [*peers.machine(tiny=False), *cases.real_entries()]
        return [entry for entry in entries if not self.only or any(name in entry.id for name in self.only)]

    def run(self):
        """Runs the cases from the first one on that was asked for. Returns the exit code."""
        say("plan", entries=[(entry.id, entry.key, entry.step) for entry in self.entries], findings=self.problems)
        for index, entry in enumerate(self.entries[self.first :], self.first):
            say("begin", index=index)
            try:
                self.peer(entry) if isinstance(entry, peers.Peer) else self.case(entry)
            except torch.OutOfMemoryError as problem:
                say("note", id=entry.id, text=f"does not fit into the memory: {str(problem).splitlines()[0]}")
                torch.cuda.empty_cache()
            except Exception as problem:  # Whatever goes wrong is a finding, and the next case runs.
                words = str(problem).strip().splitlines() or [type(problem).__name__]
                finding(f"{entry.id}: {words[0]}")
                if not self.answers():
                    return LOST_CONTEXT
        return 0

    def answers(self):
        """Whether the GPU still works after an error."""
        try:
            self.synchronize()
            torch.zeros(1, device=self.device).item()
        except RuntimeError:
            return False
        return True

    def synchronize(self):
        if not self.host:
            torch.cuda.synchronize()

    def case(self, entry):
        for of in self.builds:
            if entry.kernel in of.source.kernels:
                self.case_of(entry, of)

    def case_of(self, entry, of):
        where = entry.id if of.name == "kernels" else f"{entry.id} ({of.name})"
        case, inputs = entry.make(of.source, self.device)
        if case.kernel != entry.kernel:
            raise build.Problem(f"the case of {entry.kernel} runs {case.kernel}")
        packed = of.source.pack(case.kernel, case.values)
        launch = of.binary.launcher(case.kernel, case.grid, case.threads, case.shared, packed)
        before = {name: tensor.clone() for name, tensor in case.outputs.items()}
        found = {"build": of.name, "id": entry.id, "kernel": entry.kernel, "shape": entry.shape, "key": entry.key}
        inputs.fill_guards(float("nan"))
        launch()
        self.synchronize()
        got = {name: tensor.clone() for name, tensor in case.outputs.items()}
        found |= self.errors(where, case, got)
        # The second run has the same bits, whatever lies around the tensors and in whatever order threads run.
        inputs.fill_guards(GUARD_NUMBER)
        for name, tensor in case.outputs.items():
            tensor.copy_(before[name])
        launch()
        self.synchronize()
        if not inputs.guards_are(GUARD_NUMBER):
            finding(f"{where}: wrote outside of its tensors")
        for name, tensor in case.outputs.items():
            if not torch.equal(bits(tensor), bits(got[name])):
                finding(f"{where}: {name} has other bits in a second run")
        found |= of.binary.resources(case.kernel, case.threads, case.shared) | of.used.get(case.kernel, {})
        found |= {"shared_bytes": case.shared, "grid": case.grid, "threads": case.threads}
        if not self.host and not entry.small:
            found |= self.times(launch, case.bytes, case.flops)
        say("case", **found)

    def errors(self, where, case, got):
        """The error of each output, and that which is nearest to its limit."""
        errors, limits = {}, {}
        for name, want in case.expected().items():
            limits[name] = case.limits.get(name, cases.LIMITS[got[name].dtype])
            errors[name] = relative_error(got[name], want)
            if not errors[name] <= limits[name]:
                finding(f"{where}: {name} differs by {errors[name]:.1e} of its largest number, the limit is {limits[name]:.1e}")
        if errors.keys() != case.outputs.keys():
            raise build.Problem(f"outputs {sorted(case.outputs)}, but {sorted(errors)} are expected")
        worst = max(errors, key=lambda name: errors[name] / limits[name])
        return {"error": errors[worst], "limit": limits[worst], "errors": errors}

    def peer(self, entry):
        found = {"id": entry.id, "kernel": entry.kernel, "shape": entry.shape, "key": entry.key}
        try:
            enqueue = entry.make(self.device)
            enqueue()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as problem:
            # A backend that this build of PyTorch or this GPU lacks.
            say("note", id=entry.id, text=f"not available: {str(problem).splitlines()[0]}")
            if not self.answers():
                raise
            return
        say("peer", **found, **self.times(enqueue, entry.bytes, entry.flops))

    def times(self, enqueue, moved, flops):
        """The time of one call in microseconds, and what follows from it."""
        times = self.measure(enqueue)
        us = statistics.median(times)
        found = {"microseconds": us, "fastest": min(times), "slowest": max(times)}
        if moved:
            found["gb_per_s"] = moved / us / 1e3
        if flops:
            found["tflop_per_s"] = flops / us / 1e6
        return found

    def measure(self, enqueue):
        if self.host:
            begun = time.perf_counter()
            enqueue()
            return [1e6 * (time.perf_counter() - begun)]
        for _ in range(3):
            enqueue()
        self.synchronize()
        begun = time.perf_counter()
        for _ in range(3):
            enqueue()
        on_host = (time.perf_counter() - begun) / 3
        self.synchronize()
        whole = (time.perf_counter() - begun) / 3
        count = min(max(int(REPETITION_SECONDS / whole), 3), 50)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        times = []
        for _ in range(REPETITIONS):
            # The GPU waits until all calls are in its queue, so that the time of the host is not measured.
            torch.cuda._sleep(int((2 * count * on_host + 1e-4) * CLOCK_HZ))
            start.record()
            for _ in range(count):
                enqueue()
            end.record()
            end.synchronize()
            times.append(1e3 * start.elapsed_time(end) / count)
        return times
