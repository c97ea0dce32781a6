"""Streams shards from an S3 server on loopback and from the disk in alternation, and counts what is requested.

    python tests/bench/stream_s3.py BENCH SHARDS [PAIRS]

BENCH is the program of features/benches/stream.rs (`cargo bench -p features --bench stream --no-run` prints its path), SHARDS a
folder of shards. Needs `moto[server]`. A link between the program and the server counts bytes and requests.
"""

import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import urllib.request

AUTHORIZATION = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=none"


class Server:
    """moto's S3 server, and a link to it."""

    def __init__(self):
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        for line in self.process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
                break
        threading.Thread(target=lambda: [None for _ in self.process.stderr], daemon=True).start()
        self.received = self.requests = 0
        self.link = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self.accept, daemon=True).start()
        self.put("")

    def put(self, key, body=b""):
        headers = {"Authorization": AUTHORIZATION, "Content-Type": "application/octet-stream"}
        url = f"http://127.0.0.1:{self.port}/bucket/{key}".rstrip("/")
        urllib.request.urlopen(urllib.request.Request(url, data=body, method="PUT", headers=headers)).read()

    def accept(self):
        while True:
            client, _ = self.link.accept()
            server = socket.create_connection(("127.0.0.1", self.port))
            threading.Thread(target=self.copy, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self.copy, args=(server, client, True), daemon=True).start()

    def copy(self, source, target, from_server):
        try:
            while data := source.recv(1 << 16):
                if from_server:
                    self.received += len(data)
                else:
                    self.requests += data.count(b"GET /")
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def environment(self):
        return {
            "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.link.getsockname()[1]}",
        }


class Bench:
    """The program, which streams an epoch for each line of its input."""

    def __init__(self, program, shards, **environment):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([program, shards], env=os.environ | environment, **pipes)
        self.process.stdout.readline()

    def epoch(self):
        """Streams an epoch, and returns its samples and its rate."""
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        report = json.loads(self.process.stdout.readline())
        return report["items"], report["items"] / report["seconds"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def main():
    program, folder = sys.argv[1:3]
    pairs = int(sys.argv[3]) if len(sys.argv) > 3 else 9
    server = Server()
    size = 0
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            body = open(path, "rb").read()
            size += len(body) if "-of-" in name else 0
            server.put(f"shards/{name}", body)
    print(f"the shards have {size} bytes")
    with tempfile.TemporaryDirectory() as cache:
        settings = server.environment() | {"U2A_CACHE": cache}
        for limit in ("10GB", "0"):
            server.received = server.requests = 0
            bench = Bench(program, "s3://bucket/shards", **settings, U2A_CACHE_SIZE=limit)
            opened = server.received, server.requests
            samples, _ = bench.epoch()
            cold = server.received - opened[0], server.requests - opened[1]
            bench.epoch()
            print(
                f"cache of {limit}: opening {opened[0]} bytes in {opened[1]} requests; first epoch of {samples} samples {cold[0]} bytes "
                f"in {cold[1]} requests; second epoch {server.received - opened[0] - cold[0]} bytes"
            )
            bench.close()
        local, warm = Bench(program, folder), Bench(program, "s3://bucket/shards", **settings, U2A_CACHE_SIZE="10GB")
        local.epoch(), warm.epoch()
        rates = [(local.epoch()[1], warm.epoch()[1]) for _ in range(pairs)]
        ratios = [b / a for a, b in rates]
        print(
            f"local {statistics.median(a for a, _ in rates):.1f} samples/s, warm cache {statistics.median(b for _, b in rates):.1f}, "
            f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    server.process.kill()


main()
