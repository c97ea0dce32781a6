"""Checks and times this project on a GPU; the machine needs no Rust, libav or network.

    python gpu_check.py --train PATH --shards DIR [--device cuda:0] [--tiny] [--minutes 9] [--out DIR]

It runs these parts as long as time is left: the report of `train doctor`; every layer and whole training steps against the CPU;
50 training steps of each kind of dataset, in bf16 and in f32; peak memory against the 11 GB of the paper's GPU; steps of batch 4, 8,
32, 128 against PyTorch (SDPA, bf16, with and without torch.compile) in alternation. It writes gpu-check.json and gpu-check.md to
--out. `--device cpu --tiny` runs all of it without a GPU.
"""

import argparse
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
STEPS = 50
BATCHES = (4, 8, 32, 128)
# The number of alternations, and of steps in each; the GPU is synchronised once a round.
ROUNDS, STEPS_PER_ROUND = 3, 6
# The memory of the paper's GPU.
CARD_GB = 11.0
# For the operations of one sample's training step without gradients of frozen weights: the tokens of each encoder, and
# 12 blocks of 7.08 M weights.
WIDTH, BLOCKS, BLOCK_WEIGHTS = 768, 12, 12 * 768 * 768
TOKENS = {"audio-video": [1215] + 3 * [198], "image-text": [198, 41]}


def flops(pair):
    """The multiplications and additions of one sample's training step."""
    total = 0.0
    for tokens in TOKENS[pair]:
        products = 2 * 2 * BLOCK_WEIGHTS * tokens  # forward, and backward to the input
        attention = (2 + 5) * 2 * tokens * tokens * WIDTH  # two products forward, five backward
        total += BLOCKS * (products + attention)
    return total


class Worker:
    """A process that does one unit of work per line of input."""

    def __init__(self, command, environment):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise RuntimeError(self.process.stderr.read().strip()[-600:] or "ended without a message")
        return json.loads(line)

    def work(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.read()

    def close(self):
        self.process.kill()
        self.process.wait()


class Check:
    def __init__(self, args):
        self.args = args
        self.end = time.monotonic() + 60 * args.minutes
        self.device = args.device
        self.cuda = args.device.startswith("cuda")
        self.result = {"device": args.device, "tiny": args.tiny, "failed": [], "skipped": []}
        self.environment = dict(os.environ)
        if self.cuda:
            folders = [str(p) for p in library_folders()]
            known = self.environment.get("LD_LIBRARY_PATH", "")
            self.environment["LD_LIBRARY_PATH"] = ":".join(folders + ([known] if known else []))

    def left(self):
        return self.end - time.monotonic()

    def train(self, *arguments, wanted=(0,), lines_wanted=False):
        command = [str(self.args.train), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment, timeout=max(self.left(), 5))
        if done.returncode not in wanted:
            raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()[-600:]}")
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        return lines if lines_wanted else lines[-1]

    def part(self, name, need, body):
        """Runs a part, unless it needs more time than is left. A failure does not stop the other parts."""
        if self.left() < need:
            self.result["skipped"].append(f"{name}: {self.left():.0f} s left, {need} s needed")
            return None
        start = time.monotonic()
        try:
            found = body()
        except (RuntimeError, subprocess.TimeoutExpired, OSError, ValueError) as problem:
            self.result["failed"].append(f"{name}: {problem}")
            print(f"{name}: FAILED: {problem}", file=sys.stderr)
            return None
        print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr)
        self.result[name] = found
        self.write()
        return found

    def selftest(self):
        flags = ["--tiny"] if self.args.tiny else []
        lines = self.train("selftest", "--device", self.device, "--json", *flags, wanted=(0, 1), lines_wanted=True)
        wrong = [line for line in lines if line.get("ok") is False]
        if wrong:
            self.result["failed"].append(f"selftest: {len(wrong)} wrong: {wrong}")
        return {
            "findings": [{**line, "name": line["case"]} for line in lines if "error" in line],
            "wrong": len(wrong),
            "matmul_flops": {line["precision"]: line["flops"] for line in lines if "flops" in line},
        }

    def runs(self):
        """Trains 50 steps on each dataset of the shards folder, in bf16 and f32; returns losses, rates and data waits."""
        found = {}
        for shards in sorted(p for p in Path(self.args.shards).iterdir() if (p / "manifest.json").is_file()):
            curves = {}
            for precision in ("bf16", "f32") if self.cuda else ("f32",):
                with tempfile.TemporaryDirectory() as folder:
                    out = Path(folder) / "run"
                    size = "tiny" if self.args.tiny else "base"
                    done = self.train(
                        "run", shards.name, "--shards", shards, "--out", out, "--random-weights", 0, "--encoders", size,
                        "--max-steps", STEPS, "--epochs", 100, "--lr", 1e-3, "--set", "warmup_epochs=0", "--device", self.device,
                        "--precision", precision, "--json",
                    )  # fmt: skip
                    lines = [json.loads(line) for line in (out / "metrics.jsonl").open()]
                    losses = [line["loss"] for line in lines if "task_loss" in line]
                    curves[precision] = {
                        "steps": done["step"],
                        "first": statistics.mean(losses[:10]),
                        "last": statistics.mean(losses[-10:]),
                        "losses": losses,
                        "samples_per_second": scalar(out, "pace/samples_per_second"),
                        "data_wait_share": scalar(out, "pace/data_wait_share"),
                    }
            if len(curves) == 2:
                pairs = zip(curves["bf16"]["losses"], curves["f32"]["losses"])
                curves["largest_difference"] = max(abs(a - b) / abs(b) for a, b in pairs)
            found[shards.name] = curves
        return found

    def memory(self):
        """Peak memory of audio-video steps of batch 4: as they are, with activation checkpointing, and in micro-batches."""
        found = {}
        for name, flags in {
            "all kept": [],
            "inputs kept": ["--keep", "inputs"],
            "two at once": ["--keep", "inputs", "--micro-batch", "2"],
        }.items():
            worker = Worker(self.bench("audio-video", 4, 1) + flags, self.environment)
            worker.read()
            worker.work()
            found[name] = worker.work()["peak_mb"] / 1e3
            worker.close()
        return found

    def bench(self, pair, batch, steps, mode="train"):
        tiny = ["--tiny"] if self.args.tiny else []
        command = [self.args.train, "bench", pair, mode, "--batch", batch, "--steps", steps, "--device", self.device, *tiny]
        return [str(word) for word in command]

    def peers(self, pair, batch, steps):
        if self.args.tiny:
            return {}
        script = HERE.parent / "bench" / "peer_step.py"
        common = [sys.executable, str(script), pair, "train", "sdpa", "bf16", "--device", self.device, "--batch", str(batch)]
        common += ["--steps", str(steps)]
        return {"PyTorch": common, "PyTorch compiled": common + ["--compile"]}

    def steps(self, pair, batch):
        """Samples per second of this project and of the peers, in alternation."""
        steps = 1 if self.args.tiny else STEPS_PER_ROUND
        workers = {}
        lines = {}
        commands = {"ours": self.bench(pair, batch, steps), **self.peers(pair, batch, steps)}
        for name, command in commands.items():
            worker = Worker(command, self.environment)
            try:
                worker.read()
                worker.work()  # Warms up; compiles.
                workers[name], lines[name] = worker, []
            except RuntimeError as problem:
                worker.close()
                self.result["failed"].append(f"steps {pair} {batch}, {name}: {problem}")
        for _ in range(ROUNDS):
            for name, worker in workers.items():
                lines[name].append(worker.work())
        for worker in workers.values():
            worker.close()
        found = {}
        for name, of in lines.items():
            rates = [line["items"] / line["seconds"] for line in of]
            found[name] = {
                "samples_per_second": statistics.median(rates),
                "slowest": min(rates),
                "fastest": max(rates),
                "peak_gb": max(line["peak_mb"] for line in of) / 1e3,
            }
            found[name]["flops"] = found[name]["samples_per_second"] * flops(pair)
        return found

    def run(self):
        self.part("doctor", 1, lambda: self.train("doctor", "--json"))
        self.part("selftest", 5, self.selftest)
        self.part("runs", 20, self.runs)
        self.part("memory", 10, self.memory)
        for batch in BATCHES[:1] if self.args.tiny else BATCHES:
            for pair in TOKENS:
                self.part(f"steps {pair} {batch}", 25, lambda: self.steps(pair, batch))
        self.write()
        for line in self.result["failed"]:
            print(f"failed: {line}", file=sys.stderr)
        return 1 if self.result["failed"] else 0

    def write(self):
        out = Path(self.args.out)
        out.mkdir(parents=True, exist_ok=True)
        (out / "gpu-check.json").write_text(json.dumps(self.result, indent=1) + "\n")
        (out / "gpu-check.md").write_text(self.table())

    def table(self):
        r = self.result
        lines = ["# GPU check", ""]
        gpus = r.get("doctor", {}).get("gpu", {}).get("gpus", [])
        name = ", ".join(g["name"] for g in gpus) or "no GPU"
        lines += [f"{name}; device {r['device']}{', small encoders' if r['tiny'] else ''}.", ""]
        selftest = r.get("selftest")
        peak = None
        if selftest:
            for precision in sorted({f["precision"] for f in selftest["findings"]}):
                of = [f for f in selftest["findings"] if f["precision"] == precision]
                worst = max(of, key=lambda f: f["error"] / f["limit"])
                lines.append(
                    f"- {len(of)} comparisons with the CPU in {precision}; nearest to its limit: {worst['name']}, "
                    f"{worst['error']:.1e} of {worst['limit']:.0e}"
                )
            for precision, value in selftest["matmul_flops"].items():
                lines.append(f"- matrix products in {precision}: {value / 1e12:.1f} TFLOP/s")
                peak = value
        for dataset, curves in r.get("runs", {}).items():
            for precision in ("bf16", "f32"):
                if precision in curves:
                    c = curves[precision]
                    lines.append(
                        f"- {dataset}, {c['steps']} steps in {precision}: loss {c['first']:.3f} to {c['last']:.3f}, "
                        f"{c['samples_per_second']:.0f} samples/s, {100 * c['data_wait_share']:.0f} % of the time without data"
                    )
            if "largest_difference" in curves:
                lines.append(f"- {dataset}: bf16 within {100 * curves['largest_difference']:.1f} % of f32's loss at every step")
        for name, gb in r.get("memory", {}).items():
            verdict = "fits" if gb < CARD_GB else "does not fit"
            lines.append(f"- audio-video, batch 4, {name}: peak {gb:.1f} GB, {verdict} the paper's {CARD_GB:.0f} GB card")
        rows = [(key.split()[1:], value) for key, value in r.items() if key.startswith("steps ")]
        if rows:
            lines += ["", "| step | who | samples/s (min to max) | peak GB | of the bf16 peak | ours / this |", "|---|---|---|---|---|---|"]
        for (pair, batch), found in rows:
            ours = found.get("ours", {}).get("samples_per_second")
            for name, f in found.items():
                share = f"{100 * f['flops'] / peak:.0f} %" if peak and not r["tiny"] else ""
                ratio = f"{ours / f['samples_per_second']:.2f}" if ours and name != "ours" else ""
                lines.append(
                    f"| {pair}, batch {batch} | {name} | {f['samples_per_second']:.1f} ({f['slowest']:.1f} to {f['fastest']:.1f}) "
                    f"| {f['peak_gb']:.2f} | {share} | {ratio} |"
                )
        lines += [""] + [f"Failed: {line}" for line in r["failed"]] + [f"Skipped: {line}" for line in r["skipped"]]
        return "\n".join(lines).rstrip() + "\n"


def library_folders():
    """The folders in which PyTorch's packages have the CUDA runtime."""
    for folder in map(Path, sys.path):
        for found in sorted(folder.glob("nvidia/*/lib")):
            yield found


def scalar(run, tag):
    """The last value of a tag in a run's TensorBoard file."""
    data = b"".join(p.read_bytes() for p in sorted((run / "tensorboard").glob("*tfevents*")))
    at = data.rfind(tag.encode())
    if at < 0:
        return float("nan")
    # Field 2 of Summary.Value is the value, in four bytes.
    return struct.unpack("<f", data[at + len(tag) + 1 :][:4])[0]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--train", required=True, help="the program, built by `just build-cuda`; may be packed by xz")
    parser.add_argument("--shards", required=True, help="a folder of shards, one folder per dataset")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--tiny", action="store_true", help="small encoders, without PyTorch")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--out", default=".")
    args = parser.parse_args()
    unpacked = None
    if args.train.endswith(".xz"):
        import lzma

        unpacked = Path(tempfile.mkdtemp()) / "train"
        unpacked.write_bytes(lzma.decompress(Path(args.train).read_bytes()))
        unpacked.chmod(0o755)
        args.train = str(unpacked)
    try:
        code = Check(args).run()
    finally:
        if unpacked:
            shutil.rmtree(unpacked.parent)
    print((Path(args.out) / "gpu-check.md").read_text(), end="")
    sys.exit(code)


if __name__ == "__main__":
    main()
