"""Times this project against its peers in alternation, and prints a table of ratios.

    python bench.py [NAME...] [--pairs 5] [--json FILE] [--cpu avx2|avx512]

Each row has our median rate over that of a peer (items per second), with the smallest and the largest ratio of a
pair, and the ratio of peak memories. Both work alternately, so that a busy machine slows both.
`--cpu` hides wider vector instructions from both; docs/benchmarks.md says how, and what it cannot hide.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
from pathlib import Path

import clips

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FLOOR = "ffmpeg, decoding alone"
KALDI = "kaldi-native-fbank, 80 bins"
# Environment variables that hide wider vector instructions from this project, PyTorch, oneDNN, MKL,
# libjpeg-turbo and OpenBLAS. libav has none: `peer_ingest.py` reads U2A_CPU for it.
CPU = {
    "avx2": {
        "U2A_CPU": "avx2", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "JSIMD_FORCEAVX2": "1", "OPENBLAS_CORETYPE": "Haswell",
    },
    "avx512": {"U2A_CPU": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_FP16"},
}
# Peers with another target than the others of a benchmark.
TARGETS = {FLOOR: 1.0, KALDI: 2.0, "torch": 1.5}


def shards(kind, rows):
    """The folder for the shards of `rows` clips."""
    return str(clips.CACHE / f"shards-{kind}-{rows}")


def peer(script, *arguments):
    return [sys.executable, str(HERE / script), *arguments]


def ours(bench, *arguments):
    """A bench target of this workspace."""
    return ("bench", bench, arguments)


def program(script, *arguments):
    """A script that runs a program of this workspace; the path of the program is its first argument."""
    return ("bin", script, arguments)


def ingest(kind):
    """Ingest against Python pipelines, and against decoding alone."""
    peers = {
        "torchcodec, 2 processes": "torchcodec", "torchcodec and Pillow, 2 processes": "torchcodec444",
        "PyAV, 2 processes": "pyav", FLOOR: "floor",
    }
    return program("ours_ingest.py", kind), {title: peer("peer_ingest.py", how, kind) for title, how in peers.items()}


def stream():
    folder = shards("ave", 256)
    peers = {"Hugging Face datasets, 2 workers": "datasets", "pyarrow, 2 workers": "pyarrow"}
    return ours("stream", folder), {title: peer("peer_stream.py", how, folder) for title, how in peers.items()}


def stream_python():
    folder = shards("ave", 256)
    peers = {"Hugging Face datasets, 2 workers": peer("peer_stream.py", "datasets", folder)}
    return ("module", "ours_stream.py", (folder,)), peers


def growth(make, small, large):
    """A run against one with a tenth of the samples, which should have the same rate and memory."""
    return make(large), {"a tenth of the samples": make(small)}


def step(pair, mode, precision="f32"):
    """A training step or an evaluation batch of full-size encoders, against PyTorch in that precision."""
    ways = (("sdpa", "f32"), ("eager", "f32")) if precision == "f32" else (("sdpa", "bf16"), ("sdpa", "autocast"))
    peers = {f"PyTorch {a}, {p}": peer("peer_step.py", pair, mode, a, p) for a, p in ways}
    batch = "4" if pair == "audio-video" else "8"
    return ("train", "train", ("bench", pair, mode, "--batch", batch, "--precision", precision, "--threads", "2", "--device", "cpu")), peers


MEL = {"torchaudio": "torchaudio", "torch": "torch", "numpy": "numpy", KALDI: "kaldi"}

# name: (ours, {peer: command}, target)
TASKS = {
    "mel": (ours("mel"), {t: peer("peer_mel.py", p) for t, p in MEL.items()}, 4.0),
    "ingest-ave": (*ingest("ave"), 1.5),
    "ingest-kinetics": (*ingest("kinetics"), 1.5),
    "ingest-crema-d": (*ingest("crema-d"), 1.3),
    # Where the publisher's own clips are.
    **({"ingest-crema-d-real": (*ingest("crema-d-real"), 1.3)} if clips.CREMA_D.is_dir() else {}),
    "stream": (*stream(), 4.0),
    "stream-python": (*stream_python(), 3.0),
    "growth-ingest": (*growth(lambda rows: program("ours_ingest.py", "crema-d", str(rows)), 96, 960), 1.0),
    "growth-stream": (*growth(lambda rows: ours("stream", shards("crema-d", rows)), 96, 960), 1.0),
    "growth-mask": (*growth(lambda count: ours("mask", str(count)), 10_000, 100_000), 1.0),
    "step-audio-video": (*step("audio-video", "train"), 1.2),
    "step-image-text": (*step("image-text", "train"), 1.2),
    "eval-audio-video": (*step("audio-video", "eval"), 1.2),
    "eval-image-text": (*step("image-text", "eval"), 1.2),
    "step-audio-video-bf16": (*step("audio-video", "train", "bf16"), 1.0),
    "step-image-text-bf16": (*step("image-text", "train", "bf16"), 1.0),
}


class Worker:
    """A process that does one unit of work per line of input; its memory and that of its descendants is sampled."""

    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"error: {' '.join(self.process.args)} ended; run it by hand to see the reason")
        return json.loads(line)

    def work(self):
        with MemoryWatch(self.process.pid) as watch:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
            report = self.read()
        return report | {"peak_mb": max(watch.peak, report["peak_mb"])}

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class MemoryWatch(threading.Thread):
    """Samples the memory of a process and its descendants; shared pages count once."""

    INTERVAL = 0.1

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.peak, self.stopped = pid, 0.0, threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.join()

    def run(self):
        while True:
            self.peak = max(self.peak, sum(map(proportional_mb, with_descendants(self.pid))))
            if self.stopped.wait(self.INTERVAL):
                return


def with_descendants(pid):
    """The ids of a process and its descendants."""
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found


def proportional_mb(pid):
    """Resident memory of a process in MB, where a page of n processes counts 1/n; 0 if the process has ended."""
    try:
        for line in open(f"/proc/{pid}/smaps_rollup"):
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    return 0.0


def command_of(ours):
    """Builds one of our programs, and the shards that it reads; returns its command. A peer's is a command already."""
    if isinstance(ours, list):
        return ours
    kind, name, arguments = ours
    for folder in arguments:
        if Path(folder).name.startswith("shards-") and not Path(folder, "manifest.json").exists():
            make_shards(Path(folder))
    if kind == "bench":
        return [build("bench", "--bench", name, "--no-run", name=name), *arguments]
    if kind == "train":
        return [build("build", "--release", "--bins", name=name), *arguments]
    if kind == "module":
        return peer(name, build_module(), *arguments)
    return peer(name, build("build", "--release", "--bins", name="ingest"), *arguments)


def build_module():
    """Builds the Python package's compiled module; returns its path."""
    command = ["cargo", "build", "--release", "--package", "u2a_features", "--quiet"]
    subprocess.run(command, cwd=ROOT, check=True)
    return str(Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"), "release/libu2a_features.so"))


def build(*arguments, name):
    """Builds with cargo; returns the path of the program or bench target `name`."""
    command = ["cargo", *arguments, "--quiet", "--message-format=json"]
    out = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = [m for m in map(json.loads, out.splitlines()) if m.get("executable") and m["target"]["name"] == name]
    return found[-1]["executable"]


def make_shards(folder):
    kind, rows = folder.name.removeprefix("shards-").rsplit("-", 1)
    program = build("build", "--release", "--bins", name="ingest")
    table = clips.make(kind, int(rows)) / "clips.toml"
    subprocess.run([program, "run", str(table), "--out", str(folder), "--overwrite"], check=True, stdout=subprocess.DEVNULL)


def compare(ours, other, pairs):
    """(our rates, the peer's rates, both peaks) of alternating pairs of runs, after one pair that warms up."""
    workers = [Worker(ours), Worker(other)]
    rates, peaks = ([], []), [0.0, 0.0]
    for i in range(pairs + 1):
        for w, worker in enumerate(workers):
            report = worker.work()
            if i > 0:
                rates[w].append(report["items"] / report["seconds"])
            peaks[w] = max(peaks[w], report["peak_mb"])
    for worker in workers:
        worker.close()
    return rates, peaks


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(TASKS)}")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cpu", choices=CPU)
    args = parser.parse_args()
    os.environ.update(CPU.get(args.cpu, {}))
    unknown = [n for n in args.names if n not in TASKS]
    if unknown:
        parser.error(f"no benchmark {unknown[0]}; there are {', '.join(TASKS)}")
    rows = []
    print("| what | peer | ours, items/s | peer's | ratio (smallest to largest) | target | memory, MB | ratio |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for name in args.names or TASKS:
        mine, peers, usual = TASKS[name]
        mine = command_of(mine)
        for title, other in peers.items():
            target = TARGETS.get(title, usual)
            other = command_of(other)
            (a, b), (mem_a, mem_b) = compare(mine, other, args.pairs)
            ratios = sorted(x / y for x, y in zip(a, b))
            row = {
                "name": name, "peer": title, "ours": statistics.median(a), "theirs": statistics.median(b),
                "ratio": statistics.median(a) / statistics.median(b), "least": ratios[0], "most": ratios[-1],
                "target": target, "memory": mem_a, "memory_theirs": mem_b,
            }
            rows.append(row)
            print(
                f"| {name} | {title} | {row['ours']:.3g} | {row['theirs']:.3g} | {row['ratio']:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
                f" | {target} | {mem_a:.0f} / {mem_b:.0f} | {mem_a / mem_b:.2f} |",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
