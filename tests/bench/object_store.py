"""Shards in an object store against shards in a folder; prints the tables of docs/benchmarks.md.

    python object_store.py [stream] [ingest] [requests] [--pairs 5]

The store is a server on loopback, so it shows what our programs cost and what they request, not how fast a network is. It needs
moto, which `scripts/test-s3` installs.
"""

import argparse
import os
import resource
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import bench
import clips

SHARDS = "ave", 256
# A small split: without a cache there are many requests, and for each the server copies the whole object.
COUNTED = "ave", 64
INGESTED = "crema-d"
PARTS = ("stream", "ingest", "requests")


class Store(bench.Worker):
    """The S3 server, to which programs that are started from now on connect."""

    def __init__(self, *folders):
        python = subprocess.run([bench.ROOT / "scripts/test-s3", "--python"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        self.process = subprocess.Popen(
            [python, str(bench.HERE / "s3_server.py"), *folders], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=bench.ROOT
        )
        port = self.read()["port"]
        os.environ.update({
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        })
        os.environ.pop("AWS_SESSION_TOKEN", None)

    def counted(self):
        """The requests and the bytes sent since the last call."""
        self.process.stdin.write("counted\n")
        self.process.stdin.flush()
        return self.read()


def print_ratios(title, ours, theirs, unit):
    """A row: the medians of the store and of the folder, and the ratio of the store to the folder."""
    ratios = sorted(a / b for a, b in zip(ours, theirs))
    a, b = statistics.median(ours), statistics.median(theirs)
    print(f"| {title} | {a:.3g} | {b:.3g} {unit} | {a / b:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |", flush=True)


def cold(store, program, url, size):
    """What is requested with an empty cache of `size`: on opening, and in each of two shuffled epochs; and the samples of an epoch."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ.update({"U2A_CACHE": cache, "U2A_CACHE_SIZE": size})
        store.counted()
        worker = bench.Worker([program, url])
        opened = store.counted()
        epochs = []
        for _ in range(2):
            samples = worker.work()["items"]
            epochs.append(store.counted())
        worker.close()
    return opened, epochs, samples


def print_requests(store, program, folder, url):
    split = sum(file.stat().st_size for file in Path(folder).glob("train-*.parquet"))
    print(f"The split has {split / 1e6:.1f} MB.\n")
    print("| cache | opening: requests, MB | first epoch: requests, MB, MB a sample, share of the split | second epoch: requests, MB |")
    print("|---|---|---|---|")
    for title, size in (("holds the split", "20GB"), ("none", "0")):
        opened, (first, second), samples = cold(store, program, url, size)
        print(
            f"| {title} | {opened['requests']}, {opened['bytes'] / 1e6:.2f} | {first['requests']}, {first['bytes'] / 1e6:.1f}, "
            f"{first['bytes'] / samples / 1e6:.3f}, {first['bytes'] / split:.2f} | {second['requests']}, {second['bytes'] / 1e6:.1f} |",
            flush=True,
        )


def warm(program, folder, url, pairs):
    with tempfile.TemporaryDirectory() as cache:
        os.environ.update({"U2A_CACHE": cache, "U2A_CACHE_SIZE": "20GB"})
        (ours, theirs), _ = bench.compare([program, url], [program, folder], pairs)
    print_ratios("stream, warm cache", ours, theirs, "samples/s")


def ingest(program, pairs):
    """Ingest with two workers; the CPU time of the server does not count."""
    table = clips.make(INGESTED) / "clips.toml"
    count = len(list(clips.rows_of(table.parent)))
    walls, cpus = ([], []), ([], [])
    with tempfile.TemporaryDirectory() as out:
        for i in range(pairs + 1):
            for w, where in enumerate(("s3://bucket/ingested", out)):
                before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
                subprocess.run([program, "run", str(table), "--out", where, "--overwrite", "--workers", "2"], check=True, capture_output=True)
                seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
                if i > 0:
                    walls[w].append(count / seconds)
                    cpus[w].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    print_ratios(f"ingest of {count} clips", *walls, "clips/s")
    print_ratios("its CPU time", *cpus, "s")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of {', '.join(PARTS)}; default all")
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()
    parts = args.parts or PARTS
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        parser.error(f"no part {unknown[0]}; there are {', '.join(PARTS)}")
    folder, counted = bench.shards(*SHARDS), bench.shards(*COUNTED)
    program = [bench.command_of(bench.ours("stream", f))[0] for f in (folder, counted)][0]
    url = lambda folder: f"s3://bucket/{Path(folder).name}"
    store = Store(folder, counted)
    if "requests" in parts:
        print_requests(store, program, counted, url(counted))
    if set(parts) - {"requests"}:
        print("\n| what | store | folder | ratio (smallest to largest) |")
        print("|---|---|---|---|", flush=True)
    if "stream" in parts:
        warm(program, folder, url(folder), args.pairs)
    if "ingest" in parts:
        ingest(bench.build("build", "--release", "--bins", name="ingest"), args.pairs)
    store.close()


if __name__ == "__main__":
    main()
