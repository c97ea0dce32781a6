"""Times ours against the peers, in turns, and prints a table of ratios.

    python bench.py [NAME...] [--pairs 5] [--json FILE] [--cpu avx2|avx512]

Each row: the median of ours over the median of the fastest peer (items per second), with the smallest and the largest
ratio of a pair; and the ratio of peak memories. Ours and a peer work alternately, so a busy machine slows both.
`--cpu` hides wider vector instructions from ours and from the peers; docs/benchmarks.md says how, and what it cannot hide.
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
# Environment variables that hide what is wider: ours, PyTorch's own code, oneDNN, MKL, libjpeg-turbo, OpenBLAS. `peer_ingest.py`
# reads U2A_CPU for libav, which has no variable.
CPU = {
    "avx2": {
        "U2A_CPU": "avx2", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "JSIMD_FORCEAVX2": "1", "OPENBLAS_CORETYPE": "Haswell",
    },
    "avx512": {"U2A_CPU": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_FP16"},
}
# Where the target is another one than against the other peers.
TARGETS = {FLOOR: 1.0, KALDI: 2.0, "torch": 1.5}


def shards(kind, rows):
    """Where the shards of so many clips lie, or will."""
    return str(clips.KEPT / f"shards-{kind}-{rows}")


def peer(script, *arguments):
    return [sys.executable, str(HERE / script), *arguments]


def ours(bench, *arguments):
    """A bench target of the workspace."""
    return ("bench", bench, arguments)


def program(script, *arguments):
    """A script that runs a program of the workspace, whose path it gets first."""
    return ("bin", script, arguments)


def ingest(kind):
    """Against Python, and against the least that decoding all can cost."""
    peers = {
        "torchcodec, 2 processes": "torchcodec", "torchcodec and Pillow, 2 processes": "torchcodec444",
        "PyAV, 2 processes": "pyav", FLOOR: "floor",
    }
    return program("ours_ingest.py", kind), {title: peer("peer_ingest.py", how, kind) for title, how in peers.items()}


def stream():
    folder = shards("ave", 256)
    peers = {"Hugging Face datasets, 2 workers": "datasets", "pyarrow, 2 workers": "pyarrow"}
    return ours("stream", folder), {title: peer("peer_stream.py", how, folder) for title, how in peers.items()}


def growth(make, small, large):
    """Ours against ours with a tenth of the samples: the same pace in the same memory."""
    return make(large), {"a tenth of the samples": make(small)}


def step(pair, mode, precision="f32"):
    """A training step or an evaluation batch of full-size encoders, against the ways PyTorch has in that precision."""
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
    "stream": (*stream(), 4.0),
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
    """A process that works when told to, watched with all that it starts."""

    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"error: {' '.join(self.process.args)} ended; run it by hand to see why")
        return json.loads(line)

    def work(self):
        with Watch(self.process.pid) as watch:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
            told = self.read()
        return told | {"peak_mb": max(watch.peak, told["peak_mb"])}

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Watch(threading.Thread):
    """Looks now and then at the memory of a process and its descendants; what they share counts once."""

    EVERY = 0.1

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.peak, self.over = pid, 0.0, threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()

    def run(self):
        while True:
            self.peak = max(self.peak, sum(map(proportional, family(self.pid))))
            if self.over.wait(self.EVERY):
                return


def family(pid):
    """A process and its descendants."""
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def proportional(pid):
    """Resident memory of a process in MB, a page of n processes counting 1/n; 0 for one that is gone."""
    try:
        for line in open(f"/proc/{pid}/smaps_rollup"):
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    return 0.0


def command_of(ours):
    """Builds what is ours, and the shards it reads; the command to run it. A peer's command is one already."""
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
    return peer(name, build("build", "--release", "--bins", name="ingest"), *arguments)


def build(*arguments, name):
    """Builds with cargo; the path of what has that name."""
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
    """(rates of ours, rates of the peer, peaks) of alternating pairs; one pair of each beforehand warms up."""
    workers = [Worker(ours), Worker(other)]
    rates, peaks = ([], []), [0.0, 0.0]
    for i in range(pairs + 1):
        for w, worker in enumerate(workers):
            told = worker.work()
            if i > 0:
                rates[w].append(told["items"] / told["seconds"])
            peaks[w] = max(peaks[w], told["peak_mb"])
    for worker in workers:
        worker.close()
    return rates, peaks


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TASKS)}")
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
