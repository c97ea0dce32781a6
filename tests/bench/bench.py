"""Times ours against the peers, in turns, and prints a table of ratios.

    python bench.py [NAME...] [--pairs 5] [--json FILE]

Each row: the median of ours over the median of the fastest peer (items per second), with the smallest and the largest
ratio of a pair; and the ratio of peak memories. Ours and a peer work alternately, so a busy machine slows both.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def peer(script, *arguments):
    return [sys.executable, str(HERE / script), *arguments]


def ours(bench, *arguments):
    return ("bench", bench, arguments)


def step(pair, mode, precision="f32"):
    peers = {f"PyTorch {a}, {precision}": peer("peer_step.py", pair, mode, a, precision) for a in ("sdpa", "eager")}
    return ours("step", pair, mode), peers


# name: (ours, {peer: command}, target)
TASKS = {
    "mel": (ours("mel"), {p: peer("peer_mel.py", p) for p in ("torchaudio", "torch", "numpy")}, 4.0),
    "step-audio-video": (*step("audio-video", "train"), 1.2),
    "step-image-text": (*step("image-text", "train"), 1.2),
    "eval-audio-video": (*step("audio-video", "eval"), 1.2),
    "eval-image-text": (*step("image-text", "eval"), 1.2),
}


class Worker:
    """A process that works when told to."""

    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"error: {' '.join(self.process.args)} ended; run it by hand to see why")
        return json.loads(line)

    def work(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.read()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def command_of(ours):
    """Builds a bench target; its path."""
    _, bench, arguments = ours
    build = ["cargo", "bench", "--quiet", "--workspace", "--bench", bench, "--no-run", "--message-format=json"]
    out = subprocess.run(build, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = [m for m in map(json.loads, out.splitlines()) if m.get("executable") and m["target"]["name"] == bench]
    return [found[-1]["executable"], *arguments]


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
    args = parser.parse_args()
    unknown = [n for n in args.names if n not in TASKS]
    if unknown:
        parser.error(f"no benchmark {unknown[0]}; there are {', '.join(TASKS)}")
    rows = []
    print("| what | peer | ours, items/s | peer's | ratio (smallest to largest) | target | memory, MB | ratio |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for name in args.names or TASKS:
        mine, peers, target = TASKS[name]
        mine = command_of(mine)
        for title, other in peers.items():
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
