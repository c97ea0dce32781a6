"""Checks and times this project on a GPU; the machine needs no Rust, libav or network.

    python gpu_check.py --out DIR [--minutes 8] [--bundle DIR] [--device cuda:0] [--tiny]

It needs what `scripts/gpu-check --bundle` makes, and nothing but Python's standard library for our own numbers; for the peers
PyTorch, transformers and peft, in the Python of U2A_PYTHON or in the running one.

Everything goes into --out: results.jsonl gets a line for each result the moment it is known, gpu-check.json and gpu-check.md are
the summary of it, programs.txt is what the programs printed, kernels.jsonl and profile.csv are results of single kernels. An error
is a finding and does not end the check, every wait has a limit, and where time is short the least important part is left out. The
exit code is 1 if there is a finding. `--device cpu --tiny` rehearses it without a GPU.
"""

import argparse
import glob
import json
import lzma
import os
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, NamedTuple

import kernel_build
from check_process import Failure, Log, Process, Worker, environment, without_interruption
from check_report import PAIRS, Report, flops, without
from forecast import forecast

ROOT = Path(__file__).resolve().parents[2]
# The batch sizes that the peers of torch.compile begin with while correctness is checked, and the larger ones. From
# the latter on, no two processes hold memory of the GPU.
EARLY, LATE = (4, 8), (32, 128)
# Small encoders have one size, so that nothing is compiled twice.
TINY_EARLY, TINY_LATE = (4,), ()
# The steps of a round by batch size, and the rounds after one that warms up. The GPU is waited for once a round.
STEPS, ROUNDS = {4: 20, 8: 20, 32: 6, 128: 3}, 3
TINY_STEPS = 1
# The batch size and the steps of the times of single kernels.
TRACED = {"audio-video": (8, 4), "image-text": (8, 4)}
# The step whose launches are profiled.
PROFILED = ("audio-video", 8)
# The steps of the trainings on shards.
RUN_STEPS = {"bf16": 50, "f32": 20}
# The limits of waits in seconds: for a process that begins, for what is compiled, for a round of steps.
START_SECONDS, COMPILE_SECONDS, ROUND_SECONDS = 60, 120, 40
# The same for a comparison of the self-test. The CPU's part of a step with full-size encoders takes the longest.
CASE_SECONDS = 30
# What the driver and cuBLAS say once a kernel has broken the context of a process: every later call fails, too.
LOST_CONTEXT = (
    "ILLEGAL_ADDRESS", "ILLEGAL_INSTRUCTION", "MISALIGNED_ADDRESS", "INVALID_ADDRESS_SPACE", "INVALID_PC", "HARDWARE_STACK_ERROR",
    "LAUNCH_FAILED", "LAUNCH_TIMEOUT", "ERROR_ASSERT", "ECC_UNCORRECTABLE", "NVLINK_UNCORRECTABLE", "ERROR_CONTAINED",
    "CONTEXT_IS_DESTROYED", "CUDA_ERROR_UNKNOWN", "CUBLAS_STATUS_EXECUTION_FAILED", "CUBLAS_STATUS_INTERNAL_ERROR",
)  # fmt: skip
# How much longer a CPU may take for everything.
CPU_PATIENCE = 15
# Left for the last writes.
RESERVE_SECONDS = 5
# The flags of compute-sanitizer's tools, and those for a version that does not know the first ones, which let memcheck also find
# accesses to what `cudaFreeAsync` has freed.
SANITIZERS = {"memcheck": [["--track-stream-ordered-races", "all"], []], "racecheck": [[]]}
# Our program's exit code after a self-test with wrong numbers.
EXIT_FINDINGS = 1
PEER_MODULES = ("torch", "transformers", "peft", "safetensors", "numpy")
# Asks a Python for the modules that it lacks and for the CUDA libraries that came with PyTorch.
PROBE = f"""
import glob, importlib.util, json, os, sys
missing = [name for name in {PEER_MODULES} if importlib.util.find_spec(name) is None]
libraries = [found for folder in sys.path for found in sorted(glob.glob(os.path.join(folder, "nvidia", "*", "lib")))]
print(json.dumps({{"missing": missing, "libraries": libraries}}))
"""


class Part(NamedTuple):
    """A part of the check. A part is left out if it and those of a smaller priority number after it do not fit into the time."""

    name: str
    priority: int
    # What it is expected to take, and the most that it may take, on a GPU.
    seconds: float
    limit: float
    body: Callable
    # Whether there is anything to do.
    wanted: Callable = lambda: True


class Check:
    def __init__(self, args, train, scratch):
        self.args, self.train, self.scratch = args, train, scratch
        self.end = time.monotonic() + 60 * args.minutes - RESERVE_SECONDS
        self.part_end = self.end
        self.cuda = args.device.startswith("cuda")
        self.patience = args.patience or (1 if self.cuda else CPU_PATIENCE)
        self.early, self.late = (TINY_EARLY, TINY_LATE) if args.tiny else (EARLY, LATE)
        self.out = Path(args.out)
        self.report = Report(self.out, args.device, args.tiny)
        for name in ("kernels.jsonl", "profile.csv"):
            (self.out / name).unlink(missing_ok=True)
        self.log = Log(self.out / "programs.txt")
        self.python = os.environ.get("U2A_PYTHON") or sys.executable
        self.open = []
        self.compiling = {}
        self.failed_cases = []
        # Why there are no peers, and why single kernels cannot be compared with PyTorch; None if they can.
        self.no_peers, self.no_torch = None, None
        self.environment = self.probe()

    def probe(self):
        """Asks the Python of the peers for what it has. Returns the environment of all programs."""
        try:
            done = subprocess.run([self.python, "-c", PROBE], capture_output=True, text=True, timeout=60, check=True)
            found = json.loads(done.stdout)
        except (OSError, subprocess.SubprocessError, ValueError) as problem:
            self.no_peers = self.no_torch = f"{self.python} does not run: {problem}"
            return environment([])
        if found["missing"]:
            self.no_peers = f"{self.python} lacks {', '.join(found['missing'])}"
            self.no_torch = self.no_peers if "torch" in found["missing"] else None
        return environment(found["libraries"] if self.cuda else [])

    # Time.

    def limit(self, seconds):
        """A limit of a wait: at most what is left of the part."""
        return max(min(seconds * self.patience, self.part_end - time.monotonic()), 0.1)

    def run(self):
        plan = self.plan()
        for number, part in enumerate(plan):
            if not part.wanted():
                continue
            left = self.end - time.monotonic()
            later = sum(other.seconds for other in plan[number + 1 :] if other.priority < part.priority) if self.cuda else 0
            if left - later < (part.seconds if self.cuda else 1):
                kept = f", {later:.0f} s of them for more important parts" if later else ""
                say = self.report.skipped if part.priority else self.report.finding
                say(part.name, f"{left:.0f} s are left{kept}; {part.seconds} s are needed")
                continue
            begun = time.monotonic()
            self.part_end = begun + min(part.limit * self.patience, left - later)
            try:
                part.body()
            except Failure as problem:
                self.report.finding(part.name, str(problem))
            except Exception as problem:  # Whatever went wrong in this part, the others run.
                self.report.finding(part.name, f"{type(problem).__name__}: {problem}")
            finally:
                self.close_all(but=self.compiling.values())
            self.report.add("part", name=part.name, seconds=round(time.monotonic() - begun, 1))
        return 1 if self.report.of("finding") else 0

    def plan(self):
        """The parts in their order. Beside those up to `compiled, small batches` PyTorch compiles: they measure no time."""
        parts = [
            Part("machine", 0, 5, 60, self.machine),
            Part("selftest", 0, 30, 120, self.selftest),
            Part("memcheck of what failed", 3, 20, 60, self.memcheck_failed, lambda: self.failed_cases),
            Part("runs", 3, 40, 80, self.runs),
            Part("compiled, small batches", 2, 25, 100, self.compiled_early, lambda: self.compiling),
            Part("matrix products", 0, 5, 30, self.products),
            Part("ours", 0, 35, 120, self.ours),
            Part("trace", 2, 10, 40, self.trace),
            Part("eager", 1, 60, 110, lambda: self.peers("eager"), lambda: not self.no_peers),
            Part("kernels", 3, 50, 75, self.kernels),
            Part("compiled, large batches", 1, 90, 150, lambda: self.peers("compiled"), lambda: not self.no_peers),
            Part("memory", 3, 10, 40, self.memory),
            Part("memcheck", 4, 40, 90, self.memcheck),
            Part("profile", 5, 25, 60, self.profile),
            Part("racecheck", 5, 15, 60, self.racecheck),
            Part("cublaslt", 5, 25, 80, self.cublaslt),
        ]
        of_gpus = (self.memcheck_failed, self.kernels, self.memcheck, self.profile, self.racecheck, self.cublaslt)
        return [part for part in parts if self.cuda or part.body not in of_gpus]

    # Processes.

    def start(self, kind, name, command, variables=None, **flags):
        """Starts a program, with these environment variables beside those of all programs."""
        with without_interruption():
            process = kind(name, command, {**self.environment, **(variables or {})}, self.log, **flags)
            self.open.append(process)
        return process

    def close_all(self, but=()):
        kept = list(but)
        for process in self.open:
            if process not in kept:
                process.close()
        self.open = kept

    def output(self, name, command, seconds, wanted=(0,), **flags):
        """Runs a program to its end and returns the lines that it printed."""
        process = self.start(Process, name, command, stdin=subprocess.DEVNULL, **flags)
        code, lines = process.end(self.limit(seconds))
        if code not in wanted:
            said = " | ".join(line.strip() for line in lines[-5:])
            raise Failure(f"exit code {code}{process.last_words()}" + (f"; it printed: {said[-500:]}" if said else ""))
        return lines

    def tiny(self):
        return ["--tiny"] if self.args.tiny else []

    def bench(self, pair, batch, *flags):
        return [self.train, "bench", pair, "train", "--batch", batch, "--device", self.args.device, *self.tiny(), *flags]

    def peer(self, pair, who, batch):
        script = ROOT / "tests" / "bench" / "peer_step.py"
        precision = "bf16" if self.cuda else "f32"
        command = [self.python, script, pair, "train", "sdpa", precision, "--device", self.args.device, "--batch", batch, *self.tiny()]
        return command + (["--compile"] if who == "compiled" else [])

    def steps(self, batch):
        return TINY_STEPS if self.args.tiny else STEPS[batch]

    # Parts.

    def machine(self):
        """Lets the compiled peers begin, and collects what there is to know of the program and of the machine."""
        self.report.add("machine", name="program", revision=self.args.revision)
        if self.no_peers:
            self.report.skipped("peers", self.no_peers)
        else:
            self.start_compiling()
        if self.cuda:
            query = "--query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit"
            for name, command in {"nvidia-smi": ["nvidia-smi", query, "--format=csv"], "ldd": ["ldd", self.train]}.items():
                try:
                    text = [line.strip() for line in self.output(name, command, 20, wanted=range(256))]
                    self.report.add("machine", name=name, text=[line for line in text if name != "ldd" or "not found" in line])
                except Failure as problem:
                    self.report.finding(name, str(problem))
        doctor = self.output("doctor", [self.train, "doctor", "--json"], 30)
        self.report.add("machine", name="doctor", found=json.loads("".join(doctor)))

    def start_compiling(self):
        for pair in PAIRS:
            worker = self.start(Worker, f"compiled {pair}", self.peer(pair, "compiled", self.early[0]))
            self.compiling[pair] = worker
            for batch in self.early:
                worker.send(f"go {batch} 2")

    def selftest(self):
        """Every layer and whole steps against the CPU, a line for each comparison. A case that ends its process or breaks its context
        is a finding, and another process goes on behind it."""
        lost, case = [], None
        while case := self.selftest_process(case):
            lost.append(case)
            if time.monotonic() > self.part_end:
                self.report.finding("selftest", f"no time is left for the cases behind {case}")
                break
        wrong = [line["case"] for line in self.report.of("selftest") if not line["ok"]]
        # Wrong accesses show best in the cases that have broken a context.
        self.failed_cases = list(dict.fromkeys(lost + wrong))
        if not self.report.of("selftest"):
            raise Failure("no comparison was made")

    def selftest_process(self, after):
        """Runs the cases behind the one named `after`, in a process. Returns the case that has ended it, or None."""
        command = [self.train, "selftest", "--device", self.args.device, "--json", *self.tiny()]
        process = self.start(Worker, "selftest", command + (["--after", after] if after else []))
        case = None
        try:
            while "summary" not in (line := process.answer(self.limit(CASE_SECONDS if case else START_SECONDS))):
                if "begin" in line:
                    case = line["begin"]
                    continue
                if not {"case", "precision", "ok"} <= line.keys():
                    raise Failure(f"answered {json.dumps(line)[:200]}, which is no result")
                self.report.add("selftest", **line)
                if not line["ok"]:
                    self.report.finding("selftest", json.dumps(line))
                    # Whatever followed in this process would fail as well.
                    if any(sign in line.get("failure", "") for sign in LOST_CONTEXT):
                        return case
        except Failure as problem:
            self.report.finding("selftest", f"{case}: {problem}" if case else str(problem))
            return case
        finally:
            process.close()

    def sanitize(self, tool, of, arguments, wanted=(0,)):
        """Runs our program under a tool of compute-sanitizer. What it says of wrong accesses is a finding, and so is an exit code that
        is not wanted, since the program has then not done everything; where it does not work, it is skipped."""
        name = f"{tool} of {of}"
        sanitizer = nvidia_tool("compute-sanitizer")
        if not sanitizer:
            self.report.skipped(name, "there is no compute-sanitizer")
            return
        for flags in SANITIZERS[tool]:
            command = [sanitizer, "--tool", tool, *flags, "--error-exitcode", 99, self.train, *arguments]
            process = self.start(Process, name, command, stdin=subprocess.DEVNULL)
            try:
                code, lines = process.end(self.limit(60))
            except Failure as problem:
                self.report.finding(name, str(problem))
                return
            said = [line.strip() for line in lines if line.startswith("=========")]
            summary = next((line for line in reversed(said) if " SUMMARY: " in line), None)
            words = " | ".join(said or [line.strip() for line in lines]) + process.last_words()
            # A version that does not know a flag says so and runs nothing.
            if summary is not None or not flags or flags[0].strip("-") not in words:
                break
        if summary is None or any("not supported" in line for line in said):
            self.report.skipped(name, f"compute-sanitizer does not work here: exit code {code}; it said: {words[:1000]}")
        elif " SUMMARY: 0 " not in summary:
            self.report.finding(name, words[:3000])
        elif code not in wanted:
            self.report.finding(name, f"the program ended with exit code {code}, {summary}{process.last_words()}")
        else:
            text = f"{summary.strip('= ')}{'' if flags == SANITIZERS[tool][0] else ', without ' + ' '.join(SANITIZERS[tool][0])}"
            self.report.add("memcheck", name=name, text=text)

    def sanitize_selftest(self, tool, of, *flags):
        """The exit code of a self-test also says whether its numbers are right, which is a finding of the part of that name."""
        arguments = ["selftest", "--device", self.args.device, "--tiny", *flags]
        self.sanitize(tool, of, arguments, wanted=(0, EXIT_FINDINGS))

    def memcheck_failed(self):
        for case in self.failed_cases[:3]:
            self.sanitize_selftest("memcheck", case, "--only", case)

    def memcheck(self):
        """A training, which is the only user of the copies ahead, and all small cases."""
        try:
            shards = self.shards()[0]
            arguments = self.training(shards, self.scratch / "memcheck", "tiny", 10, "bf16")
            self.sanitize("memcheck", f"run {shards.name}", arguments)
        finally:
            self.sanitize_selftest("memcheck", "selftest")

    def racecheck(self):
        """The attention kernels, which share the most memory between the threads of a block."""
        self.sanitize_selftest("racecheck", "attention", "--only", "attention")

    def shards(self):
        found = sorted(path.parent for path in Path(self.args.shards).glob("*/manifest.json"))
        if not found:
            raise Failure(f"{self.args.shards}: no shards in it; `scripts/gpu-check --bundle` makes them")
        return found

    def training(self, shards, out, size, steps, precision):
        return [
            "run", shards.name, "--shards", shards, "--out", out, "--random-weights", 0, "--encoders", size, "--max-steps", steps,
            "--epochs", 100, "--lr", 1e-3, "--set", "warmup_epochs=0", "--device", self.args.device, "--precision", precision, "--json",
        ]  # fmt: skip

    def runs(self):
        """Trains on the shards of each dataset; reports losses, rates and waits for data."""
        size = "tiny" if self.args.tiny else "base"
        for shards in self.shards():
            for precision in ("bf16", "f32") if self.cuda else ("f32",):
                out = self.scratch / f"run-{shards.name}-{precision}"
                steps = RUN_STEPS[precision]
                name = f"run {shards.name} {precision}"
                try:
                    done = self.output(name, [self.train, *self.training(shards, out, size, steps, precision)], 60)
                except Failure as problem:
                    self.report.finding(name, str(problem))
                    continue
                lines = [json.loads(line) for line in (out / "metrics.jsonl").open()]
                losses = [line["loss"] for line in lines if "task_loss" in line]
                self.report.add(
                    "run",
                    dataset=shards.name,
                    precision=precision,
                    steps=json.loads("".join(done))["step"],
                    first=statistics.mean(losses[:5]),
                    last=statistics.mean(losses[-5:]),
                    samples_per_second=scalar(out, "pace/samples_per_second"),
                    data_wait_share=scalar(out, "pace/data_wait_share"),
                    losses=losses,
                )

    def measure(self, who, pair, worker, batches):
        """Measures a worker that has said that it is ready. A batch that does not fit into memory is a result."""
        for batch in batches:
            try:
                answers = self.rounds(worker, batch, COMPILE_SECONDS if who == "compiled" else ROUND_SECONDS)
            except Failure as problem:
                if not is_out_of_memory(str(problem)):
                    raise
                self.report.add("speed", who=who, pair=pair, batch=batch, error=str(problem)[:1000], error_kind="out of memory")
                return
            if "error" in answers[-1]:
                error, kind = answers[-1]["error"][:1000], answers[-1].get("kind", "error")
                self.report.add("speed", who=who, pair=pair, batch=batch, error=error, error_kind=kind)
                if kind != "out of memory":
                    self.report.finding(f"{who} {pair} {batch}", error)
            else:
                self.report.add("speed", who=who, pair=pair, batch=batch, **self.speed(pair, answers))

    def rounds(self, worker, batch, first_limit):
        """The answers of a worker: one that warms up, then one for each round, up to the first error."""
        request, answers = f"go {batch} {self.steps(batch)}", []
        while len(answers) <= ROUNDS and "error" not in (answers[-1] if answers else {}):
            answers.append(worker.ask(request, self.limit(ROUND_SECONDS if answers else first_limit)))
        return answers

    def speed(self, pair, answers):
        """The rates of the rounds after the first one."""
        first, *rounds = answers
        rates = [line["items"] / line["seconds"] for line in rounds]
        found = {
            "samples_per_second": statistics.median(rates),
            "slowest": min(rates),
            "fastest": max(rates),
            "peak_gb": rounds[-1]["peak_mb"] / 1e3,
            "first_seconds": first["seconds"],
        }
        if not self.args.tiny:
            found["flops"] = found["samples_per_second"] * flops(pair)
        if "enqueue_seconds" in first:
            found["enqueue_share"] = statistics.median(line["enqueue_seconds"] / line["seconds"] for line in rounds)
        return found

    def each_pair(self, who, measure):
        """Calls `measure(pair)`; a failure is a finding of that pair."""
        for pair in PAIRS:
            try:
                measure(pair)
            except Failure as problem:
                self.report.finding(f"{who} {pair}", str(problem))
            finally:
                self.close_all(but=self.compiling.values())

    def compiled_early(self):
        """Measures what was compiled beside the parts before, while nothing else runs."""
        for pair in PAIRS:
            worker = self.compiling.get(pair)
            if not worker:
                continue
            try:
                worker.answer(self.limit(START_SECONDS))  # It is ready.
                for _ in self.early:
                    worker.answer(self.limit(COMPILE_SECONDS))
            except Failure as problem:
                self.report.finding(f"compiled {pair}", str(problem))
                del self.compiling[pair]
                worker.close()

        def measure(pair):
            if worker := self.compiling.pop(pair, None):
                self.measure("compiled", pair, worker, self.early)

        self.each_pair("compiled", measure)

    def begin(self, who, pair, command, **flags):
        worker = self.start(Worker, f"{who} {pair}", command, **flags)
        worker.answer(self.limit(START_SECONDS))
        return worker

    def stop_compiling(self):
        """Ends what still compiles, if there was no time to wait for it: it would disturb times and hold memory."""
        for worker in self.compiling.values():
            worker.close()
        self.compiling = {}

    def products(self):
        """The rate of large matrix products: again, since PyTorch still compiled when the self-test measured it."""
        self.stop_compiling()
        command = [self.train, "selftest", "--device", self.args.device, "--json", "--only", "matrix products", *self.tiny()]
        for line in map(json.loads, self.output("products", command, 30, wanted=(0, 1))):
            if "flops" in line:
                self.report.add("selftest", **line)

    def ours(self):
        self.stop_compiling()
        batches = [*self.early, *self.late]
        self.each_pair("ours", lambda pair: self.measure("ours", pair, self.begin("ours", pair, self.bench(pair, batches[0])), batches))

    def peers(self, who):
        """Measures a peer at all batch sizes at which it has not been measured yet."""
        self.stop_compiling()
        known = {(line["who"], line["pair"], line["batch"]) for line in self.report.of("speed")}

        def measure(pair):
            batches = [batch for batch in (*self.early, *self.late) if (who, pair, batch) not in known]
            if batches:
                self.measure(who, pair, self.begin(who, pair, self.peer(pair, who, batches[0])), batches)

        self.each_pair(who, measure)

    def trace(self):
        """The times of single kernels and products within a step."""
        for pair, (batch, steps) in TRACED.items():
            worker = self.begin("trace", pair, self.bench(pair, batch, "--trace"))
            worker.ask(f"go {batch} 1", self.limit(ROUND_SECONDS))
            answer = worker.ask(f"go {batch} {steps}", self.limit(ROUND_SECONDS))
            worker.close()
            if "error" in answer:
                raise Failure(f"{pair}: {answer['error'][:1000]}")
            self.report.add("trace", pair=pair, batch=batch, steps=steps, seconds=answer["seconds"], rows=answer["trace"])

    def kernels(self):
        """Each kernel by itself, without our program: tests/gpu/kernels.py."""
        script = Path(__file__).with_name("kernels.py")
        seconds = self.limit(70)
        command = [self.python, script, "--seconds", int(seconds), "--out", self.out / "kernels.jsonl"]
        try:
            if self.no_torch:
                raise kernel_build.Problem(self.no_torch)
            kernel_build.compiler()  # It preprocesses the source, also for compiled kernels.
            try:
                kernel_build.find_nvcc()
            except kernel_build.Problem:
                if not self.args.cubin:
                    raise
                command += ["--cubin", self.args.cubin]
        except kernel_build.Problem as problem:
            self.report.skipped("kernels", str(problem))
            return
        try:
            self.output("kernels", command, seconds + 5, wanted=(0, 1))
        finally:
            path = self.out / "kernels.jsonl"
            for line in path.read_text().splitlines() if path.is_file() else []:
                try:
                    found = json.loads(line)
                except ValueError:
                    continue  # It was not written to its end.
                if found["kind"] == "finding":
                    self.report.finding("kernels", found["text"][:1500])
                elif found["kind"] in ("comparison", "end"):
                    self.report.add("kernels", what=found.pop("kind"), **without(found, "at"))

    def memory(self):
        """Peak memory and rate of audio-video steps of batch 4, by what is kept for the backward pass."""
        ways = {
            "all kept": "keep=all",
            "all but the feed-forward parts": "keep=selective",
            "inputs kept": "keep=inputs",
            "two at once": "keep=inputs micro-batch=2",
        }
        if not self.cuda:
            # The peak of a process only grows.
            ways = dict(reversed(ways.items()))
        worker = self.begin("memory", "audio-video", self.bench("audio-video", 4))
        for name, way in ways.items():
            request = f"go 4 {self.steps(4)} {way}"
            worker.ask(request, self.limit(ROUND_SECONDS))
            answer = worker.ask(request, self.limit(ROUND_SECONDS))
            if "error" in answer:
                self.report.finding(f"memory, {name}", answer["error"][:1000])
            else:
                rate = answer["items"] / answer["seconds"]
                self.report.add("memory", name=name, peak_gb=answer["peak_mb"] / 1e3, samples_per_second=rate)

    def profile(self):
        """NVIDIA's profiler on the launches of one step."""
        profiler = nvidia_tool("ncu")
        if not profiler:
            self.report.skipped("profile", "there is no ncu")
            return
        metrics = (
            "gpu__time_duration.sum,dram__throughput.avg.pct_of_peak_sustained_elapsed,sm__throughput.avg.pct_of_peak_sustained_elapsed,"
            "sm__warps_active.avg.pct_of_peak_sustained_active,launch__registers_per_thread"
        )
        # Behind the launches that make the model and those of the first step, a step and, in case it has more than forecast, an eighth.
        step = forecast(*PROFILED)
        launches = step["launches"] + step["products"]
        command = [profiler, "--clock-control", "none", "--csv", "--page", "raw", "--metrics", metrics]
        command += ["--launch-skip", 2 * launches, "--launch-count", launches + launches // 8]
        command += ["--log-file", self.out / "profile.csv", *self.bench(*PROFILED)]
        process = self.start(Worker, "profile", command)
        process.send("go\ngo\ngo\ngo")
        process.end_input()
        code, lines = process.end(self.limit(60))
        profile = self.out / "profile.csv"
        if code or not profile.is_file():
            said = " | ".join(line.strip() for line in lines[-5:])
            self.report.skipped("profile", f"ncu does not work here: exit code {code}{process.last_words()}; it printed: {said[-500:]}")
        else:
            # The lines of the launches begin with their number.
            launches = sum(line[1:2].isdigit() for line in profile.read_text(errors="replace").splitlines())
            self.report.add("profile", launches=launches, bytes=profile.stat().st_size)


    def cublaslt(self):
        """Whole steps against the CPU, and their rates, with products of cuBLASLt."""
        variables = {"U2A_PRODUCTS": "cublaslt"}
        command = [self.train, "selftest", "--device", self.args.device, "--json", "--only", " and ", *self.tiny()]
        try:
            for line in self.output("cublaslt selftest", command, 40, wanted=(0, EXIT_FINDINGS), variables=variables):
                if line.startswith("{") and not json.loads(line).get("ok", True):
                    self.report.finding("cublaslt selftest", line.strip())
        except (Failure, ValueError) as problem:
            self.report.finding("cublaslt selftest", str(problem))
        batches = [*self.early[-1:], *self.late[-1:]]

        def measure(pair):
            worker = self.begin("cublaslt", pair, self.bench(pair, batches[0]), variables=variables)
            self.measure("cublaslt", pair, worker, batches)

        self.each_pair("cublaslt", measure)


def nvidia_tool(name):
    """The path of a tool of the CUDA toolkit, or None."""
    places = ("/usr/local/cuda*/bin/", "/usr/local/cuda*/compute-sanitizer/", "/opt/nvidia/nsight-compute/*/")
    installed = [path for place in places for path in sorted(glob.glob(place + name))]
    return shutil.which(name) or next(iter(installed), None)


def is_out_of_memory(text):
    return any(sign in text.lower() for sign in ("out of memory", "out_of_memory", "outofmemory", "alloc_failed"))


def scalar(run, tag):
    """The last value of a tag in a run's TensorBoard file, or None."""
    data = b"".join(p.read_bytes() for p in sorted((run / "tensorboard").glob("*tfevents*")))
    at = data.rfind(tag.encode())
    if at < 0:
        return None
    # Field 2 of Summary.Value is the value, in four bytes.
    return struct.unpack("<f", data[at + len(tag) + 1 :][:4])[0]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="the folder of the results")
    parser.add_argument("--bundle", help="what `scripts/gpu-check --bundle` made [default: this folder, or target/gpu-check/bundle]")
    parser.add_argument("--train", help="the program, which may be packed by xz [default: the bundle's]")
    parser.add_argument("--revision", help="the commit from which the program was built, for the results [default: the bundle's]")
    parser.add_argument("--shards", help="a folder of shards, one folder per dataset [default: the bundle's]")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--tiny", action="store_true", help="small encoders")
    parser.add_argument("--minutes", type=float, default=8.0, help="the time that all of it may take")
    parser.add_argument("--patience", type=float, help=f"a factor on the limits of all waits [default: 1, on a CPU {CPU_PATIENCE}]")
    args = parser.parse_args()
    bundle = Path(args.bundle) if args.bundle else ROOT if (ROOT / "train.xz").is_file() else ROOT / "target" / "gpu-check" / "bundle"
    known = bundle / "revision.txt"
    if not args.revision:
        args.revision = known.read_text().strip() if known.is_file() and not args.train else "unknown"
    args.train = args.train or str(bundle / "train.xz")
    args.shards = args.shards or str(bundle / "shards")
    args.cubin = bundle / "kernels.cubin" if (bundle / "kernels.cubin").is_file() else None
    if not Path(args.train).is_file():
        parser.error(f"{args.train}: no such file; `scripts/gpu-check --bundle` makes it")
    return args


def program(path, scratch):
    """The program as a file that can be started."""
    if not path.endswith(".xz"):
        return Path(path).resolve()
    unpacked = scratch / "train"
    unpacked.write_bytes(lzma.decompress(Path(path).read_bytes()))
    unpacked.chmod(0o755)
    return unpacked


def main():
    args = arguments()
    # So that an end from outside closes the processes, too. They are in sessions of their own, which no terminal ends.
    for number in (signal.SIGTERM, signal.SIGHUP):
        # nohup has SIGHUP ignored.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    with tempfile.TemporaryDirectory() as folder:
        try:
            check = Check(args, program(args.train, Path(folder)), Path(folder))
        except BlockingIOError:
            sys.exit(f"error: {args.out}: another check is writing its results there; name another folder with --out")
        try:
            code = check.run()
        finally:
            check.close_all()
        print((check.out / "gpu-check.md").read_text(), end="")
    sys.stdout.flush()
    # Threads may still wait for the output of a process that was killed.
    os._exit(code)


if __name__ == "__main__":
    main()
