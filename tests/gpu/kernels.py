"""Checks and times every kernel of the GPU engine, with nothing but nvcc and PyTorch: no Rust, no candle, no CuPy.

    python kernels.py [--seconds 60] [--out FILE] [--only NAME]... [--cubin FILE | --keep FILE] [--variant FILE.cu] [--defines A=1,B=2]
    python kernels.py --host       on this machine's processor, by the emulator of platform.h: small shapes, no times
    python kernels.py --registers [--arch 90]    only compiles, and prints registers and spills

It builds train/engine/cuda/kernels.cu, compares each kernel with formulas in double precision, first at small shapes, then at those of a
training step, and times it there, beside PyTorch's attention, linear layers and layer norm. Every result is a line of JSON in --out the
moment it is known. An error is a finding: the next case runs, in a new process if the GPU's context is lost. The exit code is 1 if
there is a finding. After --seconds it ends, whatever is running.

--variant builds a second source, or with --defines the same source with these macros, runs both and says which is faster. --keep
stores the compiled kernels, --cubin uses them instead of nvcc.
"""

import argparse
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import kernel_build as build

# A case that says nothing for so long is ended. The first one waits for PyTorch and the GPU.
CASE_SECONDS, FIRST_SECONDS = 15, 60
HOST_CASE_SECONDS = 120
# The time that `--registers` takes at most.
COMPILE_SECONDS = 600
# Kept back at the end for the summary.
RESERVE_SECONDS = 1.0
# The exit code of a worker whose GPU no longer answers.
LOST_CONTEXT = 3


class Report:
    """Prints results and appends them to a file, and keeps them for the comparisons at the end."""

    def __init__(self, path):
        self.begun = time.monotonic()
        self.file = None
        if path:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self.file = open(path, "w")
        self.lines = []

    def add(self, kind, **found):
        line = {"kind": kind, "at": round(time.monotonic() - self.begun, 2), **found}
        self.lines.append(line)
        if self.file:
            print(json.dumps(line), file=self.file, flush=True)
        text = {"case": case_text, "peer": case_text, "finding": finding_text, "comparison": comparison_text}.get(kind)
        print(text(line) if text else f"{kind}: {', '.join(f'{k} {v}' for k, v in found.items())}", flush=True)

    def of(self, kind):
        return [line for line in self.lines if line["kind"] == kind]

    def finding(self, text):
        self.add("finding", text=text)

    def result(self, line):
        """Adds a line of the worker, with shares of what the machine can do."""
        best = {p["key"]: p for p in self.of("peer") if p["key"] in ("copy", "product")}
        if "copy" in best and "gb_per_s" in line:
            line["of_copy"] = round(line["gb_per_s"] / best["copy"]["gb_per_s"], 3)
        if "product" in best and "tflop_per_s" in line:
            line["of_product"] = round(line["tflop_per_s"] / best["product"]["tflop_per_s"], 3)
        self.add(line.pop("kind"), **line)


def case_text(line):
    words = [f"{line['kernel']:32} {line['shape']}:"]
    if line.get("build", "kernels") != "kernels":
        words.insert(0, f"[{line['build']}]")
    if "error" in line:
        words.append(f"error {line['error']:.1e} of {line['limit']:.1e}")
    if "microseconds" in line:
        words.append(f"{line['microseconds']:.1f} us")
    for key, unit in {"gb_per_s": "GB/s", "tflop_per_s": "TFLOP/s", "registers": "registers", "spill_bytes": "bytes spilled"}.items():
        if line.get(key):
            words.append(f"{line[key]:.0f} {unit}")
    for key, name in {"of_copy": "the copy's", "of_product": "the product's"}.items():
        if key in line and line["kind"] == "case":
            words.append(f"({100 * line[key]:.0f} % of {name})")
    return "  ".join(words)


def finding_text(line):
    return f"FINDING: {line['text']}"


def comparison_text(line):
    ours = f"{line['key']}: {line['build']} {line['microseconds']:.1f} us"
    return f"{ours} = {line['ratio']:.2f} x that of {line['peer']}, {line['peer_microseconds']:.1f} us"


class Builds:
    """The kernels, and the variant if there is one: compiled in the background."""

    def __init__(self, args, report, folder):
        self.args, self.report, self.folder = args, report, folder
        self.ready, self.running = [], []
        sources = [("kernels", args.source or build.SOURCE, "")]
        if args.variant or args.defines:
            sources.append(("variant", args.variant or args.source or build.SOURCE, args.defines))
        for name, source, defines in sources:
            try:
                self.start(name, str(source), defines)
            except build.Problem as problem:
                report.finding(f"build of {name}: {problem}")

    def start(self, name, source, defines):
        known = {"name": name, "source": source, "defines": defines, "host": self.args.host}
        build.Source(source, defines)
        if name == "kernels" and self.args.cubin:
            self.ready.append(known | {"binary": self.args.cubin, "resources": {}})
            return
        arch = None if self.args.host else self.args.arch or build.compute_capability()
        binary = self.args.keep if name == "kernels" and self.args.keep else str(self.folder / name)
        self.running.append((known | {"binary": binary}, build.start_build(source, defines, binary, arch)))

    def wait(self, deadline):
        for known, process in self.running:
            try:
                said, _ = process.communicate(timeout=max(deadline - time.monotonic(), 1))
            except subprocess.TimeoutExpired:
                process.kill()
                self.report.finding(f"build of {known['name']}: no end within the time limit")
                continue
            if process.returncode:
                self.report.finding(f"build of {known['name']}: {said.strip()[-2000:]}")
                continue
            self.ready.append(known | {"resources": build.resources(said)})
        self.running = []
        for known in self.ready:
            self.compare_names(known)
            for kernel, used in known["resources"].items():
                if used["spill_bytes"]:
                    self.report.add("note", build=known["name"], kernel=kernel, **used)
        return self.ready

    def compare_names(self, known):
        """The compiled kernels are those that the emulator knows."""
        if known["host"]:
            return
        compiled, exported = build.names_in_cubin(known["binary"]), set(build.Source(known["source"], known["defines"]).kernels)
        for kernel in sorted(compiled ^ exported):
            where = "has no EXPORT, so the emulator cannot run it" if kernel in compiled else "is not among the compiled kernels"
            self.report.finding(f"{known['name']}: {kernel} {where}")


class Worker:
    """A process that runs cases from a given one on and prints a line of JSON for each."""

    def __init__(self, spec):
        command = [sys.executable, str(Path(__file__).resolve()), "--worker", json.dumps(spec)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.lines = queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def next(self, seconds):
        """The next line; None at the end of the process. Raises `queue.Empty` after so many seconds."""
        line = self.lines.get(timeout=max(seconds, 0.01))
        if line is None:
            return None
        try:
            return json.loads(line)
        except ValueError:
            return {"kind": "note", "text": line.strip()}

    def kill(self):
        """Ends the process, if it has not ended. Returns its exit code, or None if the driver does not let it go."""
        self.process.kill()
        try:
            return self.process.wait(5)
        except subprocess.TimeoutExpired:
            return None


class Run:
    """All cases, in as many processes as it takes."""

    def __init__(self, args, report, builds, deadline):
        self.args, self.report, self.builds, self.deadline = args, report, builds, deadline
        self.plan, self.at, self.started = None, -1, False

    def run(self):
        """Runs all cases. Returns those that were not begun."""
        while self.plan is None or self.at + 1 < len(self.plan):
            before = self.at
            if not self.run_process() or self.at == before:
                break
        return [] if self.plan is None else [id for id, *_ in self.plan[self.at + 1 :]]

    def run_process(self):
        """Runs cases until the process ends. Returns whether another one can go on."""
        first = self.at + 1
        worker = Worker({"builds": self.builds, "host": self.args.host, "only": self.args.only, "first": first})
        silent = FIRST_SECONDS
        while True:
            left = self.deadline - time.monotonic()
            try:
                line = worker.next(min(silent, left))
            except queue.Empty:
                worker.kill()
                if left <= silent:
                    if self.plan is None:
                        self.report.finding("no case began within the time limit")
                    return False
                self.report.finding(f"{self.current()}: no result after {silent} s")
                return self.plan is not None
            if line is None:
                code = worker.process.wait()
                if code not in (0, LOST_CONTEXT):
                    self.report.finding(f"{self.current()}: ended the process with code {code}")
                return self.plan is not None and code != 0
            silent = HOST_CASE_SECONDS if self.args.host else CASE_SECONDS
            if line["kind"] == "plan":
                if self.plan is None:
                    self.plan = line["entries"]
                    for text in line["findings"]:
                        self.report.finding(text)
            elif line["kind"] == "begin":
                self.at = line["index"]
            elif line["kind"] == "finding":
                self.report.finding(line["text"])
            else:
                self.report.result(line)

    def current(self):
        return self.plan[self.at][0] if self.plan and self.at >= 0 else "before the first case"


def compare(report, plan):
    """Adds the comparisons of kernels with PyTorch, with their alternatives, and of the two builds."""
    steps = {}
    for id, key, step in plan or []:
        if key and not id.startswith("torch "):
            steps.setdefault(key, {}).setdefault(step, []).append(id)
    times = {(c["build"], c["id"]): c["microseconds"] for c in report.of("case") if "microseconds" in c}

    def add(key, name, us, peer, peer_us, **more):
        report.add("comparison", key=key, build=name, microseconds=us, peer=peer, peer_microseconds=peer_us, ratio=us / peer_us, **more)

    for key, alternatives in steps.items():
        peers = {p["microseconds"]: p["kernel"] for p in report.of("peer") if p["key"] == key and "microseconds" in p}
        for name in ("kernels", "variant"):
            timed = [sorted((times[name, id], id) for id in ids if (name, id) in times) for ids in alternatives.values()]
            for first, *others in filter(None, timed):
                for us, id in others:
                    add(id, name, us, first[1], first[0])
            if peers and all(timed):
                fastest = [of[0] for of in timed]
                kernels = [id.split()[0] for _, id in fastest]
                add(key, name, sum(us for us, _ in fastest), peers[min(peers)], min(peers), kernels=kernels)
    for name, id in list(times):
        if name == "variant" and ("kernels", id) in times:
            add(id, name, times[name, id], "kernels", times["kernels", id])


def print_registers(builds, report):
    for known in builds:
        print(f"| {known['name']} | registers | bytes spilled |\n|---|---|---|")
        for kernel, used in sorted(known["resources"].items()):
            print(f"| {kernel} | {used['registers']} | {used['spill_bytes']} |")
    return 1 if report.of("finding") else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", action="store_true", help="run small shapes by the emulator, without a GPU")
    parser.add_argument("--registers", action="store_true", help="only compile; print registers and spills")
    parser.add_argument("--arch", type=int, help="the compute capability to compile for; by default the GPU's")
    parser.add_argument("--seconds", type=float, default=60.0, help="the time after which it ends")
    parser.add_argument("--out", help="the file of results, a line of JSON each")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="run only cases that have this in their name")
    parser.add_argument("--source", help="the kernels' source, instead of train/engine/cuda/kernels.cu")
    parser.add_argument("--cubin", help="kernels compiled before, by --keep")
    parser.add_argument("--keep", metavar="FILE", help="keep the compiled kernels in this file")
    parser.add_argument("--variant", metavar="FILE.cu", help="a second source to compare with")
    parser.add_argument("--defines", default="", metavar="A=1,B=2", help="macros of the second build")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        import kernel_worker

        sys.exit(kernel_worker.Worker(json.loads(args.worker)).run())
    report = Report(args.out)
    deadline = report.begun + (COMPILE_SECONDS if args.registers else args.seconds) - RESERVE_SECONDS
    with tempfile.TemporaryDirectory() as folder:
        builds = Builds(args, report, Path(folder)).wait(deadline)
        if args.registers:
            sys.exit(print_registers(builds, report))
        run = Run(args, report, builds, deadline)
        skipped = run.run()
    compare(report, run.plan)
    findings = len(report.of("finding"))
    report.add("end", findings=findings, cases=len(report.of("case")), not_run=skipped)
    sys.stdout.flush()
    os._exit(1 if findings else 0)


if __name__ == "__main__":
    main()
