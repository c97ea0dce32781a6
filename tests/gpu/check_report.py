"""The results of the GPU check: a line of JSON each, and the summary and the table that are made from them."""

import fcntl
import json
import sys
import time

PAIRS = ("audio-video", "image-text")
PEERS = ("eager", "compiled")
# The targets against the better of the peers: samples per second by batch size, and peak memory.
SPEED_TARGETS = {4: 1.0, 8: 1.0, 32: 1.2, 128: 1.2}
MEMORY_TARGET = 0.5
# The share of the measured bf16 peak at the largest batch.
PEAK_TARGET, PEAK_BATCH = 0.35, 128
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


class Report:
    """Appends results to results.jsonl, and makes gpu-check.json and gpu-check.md anew after each. Raises BlockingIOError if another
    check does so in the same folder."""

    def __init__(self, out, device, tiny):
        self.out, self.device, self.tiny = out, device, tiny
        self.begun = time.monotonic()
        self.lines = []
        out.mkdir(parents=True, exist_ok=True)
        self.file = (out / "results.jsonl").open("a")
        fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if self.file.tell():
            print(f"{out}: the results of an earlier check in it are replaced", file=sys.stderr)
            self.file.truncate(0)

    def add(self, kind, **found):
        line = {"kind": kind, "at": round(time.monotonic() - self.begun, 1), **found}
        self.lines.append(line)
        print(json.dumps(line), file=self.file, flush=True)
        print(brief(line), flush=True)
        summary = self.summary()
        write(self.out / "gpu-check.json", json.dumps(summary, indent=1) + "\n")
        write(self.out / "gpu-check.md", table(summary))

    def finding(self, part, text):
        self.add("finding", part=part, text=text)

    def skipped(self, part, text):
        self.add("skipped", part=part, text=text)

    def of(self, kind):
        return [line for line in self.lines if line["kind"] == kind]

    def summary(self):
        """Everything that was found, as one object."""
        speed = {}
        for line in self.of("speed"):
            of = speed.setdefault(line["pair"], {}).setdefault(str(line["batch"]), {})
            of[line["who"]] = without(line, "kind", "pair", "batch", "who")
        products = {line["precision"]: line["flops"] for line in self.of("selftest") if "flops" in line}
        found = {
            "device": self.device,
            "tiny": self.tiny,
            "machine": {line["name"]: without(line, "kind", "name") for line in self.of("machine")},
            "selftest": selftest(self.of("selftest")),
            "matmul_flops": products,
            "speed": speed,
            "kernels": [without(line, "kind") for line in self.of("kernels")],
            "trace": [without(line, "kind") for line in self.of("trace")],
            "runs": runs(self.of("run")),
            "memory": {line["name"]: without(line, "kind", "name") for line in self.of("memory")},
            "memcheck": {line["name"]: line["text"] for line in self.of("memcheck")},
            "profile": next((without(line, "kind") for line in self.of("profile")), None),
            "targets": [] if self.tiny else targets(speed, products.get("bf16")),
            "findings": [f"{line['part']}: {line['text']}" for line in self.of("finding")],
            "skipped": [f"{line['part']}: {line['text']}" for line in self.of("skipped")],
            "seconds": {line["name"]: line["seconds"] for line in self.of("part")},
        }
        return found


def write(path, text):
    """Replaces a file at once, so that it is never half written."""
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.replace(path)


def without(line, *keys):
    return {key: value for key, value in line.items() if key not in keys}


def brief(line):
    """A line for whoever watches."""
    words = []
    for key, value in without(line, "kind", "at", "losses", "rows", "blocks").items():
        words.append(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"[:240])
    return f"{line['at']:6.1f} s  {line['kind']}: {', '.join(words)}"


def selftest(lines):
    """How many comparisons there were in each precision, and which of them came nearest to their limits."""
    found = {"wrong": sum(not line["ok"] for line in lines), "precisions": {}}
    for precision in sorted({line["precision"] for line in lines if "limit" in line}):
        of = [line for line in lines if line["precision"] == precision and "limit" in line]
        share = {i: line["error"] / line["limit"] if "error" in line else float("inf") for i, line in enumerate(of)}
        worst = of[max(share, key=share.get)]
        found["precisions"][precision] = {"comparisons": len(of), "worst": without(worst, "kind", "at")}
    return found


def runs(lines):
    """The trainings by dataset and precision, and how far the losses of bf16 are from those of f32."""
    found = {}
    for line in lines:
        found.setdefault(line["dataset"], {})[line["precision"]] = without(line, "kind", "dataset", "precision")
    for curves in found.values():
        if {"bf16", "f32"} <= curves.keys():
            pairs = zip(curves["bf16"]["losses"], curves["f32"]["losses"])
            curves["largest_difference"] = max((abs(a - b) / abs(b) for a, b in pairs), default=None)
    return found


def measured(of, key):
    return of.get(key, {}).get("samples_per_second")


def best_peer(of):
    """The faster peer of a step, or None if none was measured."""
    rated = [peer for peer in PEERS if measured(of, peer)]
    return max(rated, key=lambda peer: measured(of, peer), default=None)


def targets(speed, peak):
    """Every target with what was measured: `met`, `missed` or `not measured`."""
    found = []

    def add(name, value, target, met):
        verdict = "not measured" if value is None else "met" if met(value) else "missed"
        found.append({"name": name, "value": value, "target": target, "verdict": verdict})

    for pair in PAIRS:
        for batch, target in SPEED_TARGETS.items():
            of = speed.get(pair, {}).get(str(batch), {})
            ours, peer = of.get("ours", {}), of.get(best_peer(of), {})
            has = "samples_per_second" in ours and bool(peer)
            ratio = ours["samples_per_second"] / peer["samples_per_second"] if has else None
            add(f"{pair} {batch}: samples/s of the better peer's", ratio, target, lambda v, t=target: v >= t)
            memory = ours["peak_gb"] / peer["peak_gb"] if has else None
            add(f"{pair} {batch}: peak memory of the better peer's", memory, MEMORY_TARGET, lambda v: v <= MEMORY_TARGET)
        rate = measured(speed.get(pair, {}).get(str(PEAK_BATCH), {}), "ours")
        share = rate * flops(pair) / peak if rate and peak else None
        add(f"{pair} {PEAK_BATCH}: share of the bf16 peak", share, PEAK_TARGET, lambda v: v >= PEAK_TARGET)
    return found


def table(s):
    """The summary for a reader, in Markdown."""
    gpus = s["machine"].get("doctor", {}).get("found", {}).get("gpu", {}).get("gpus", [])
    name = ", ".join(f"{g['name']}, driver {g['driver']}" for g in gpus) or "no GPU"
    revision = s["machine"].get("program", {}).get("revision", "unknown")
    lines = ["# GPU check", "", f"{name}; device {s['device']}{', small encoders' if s['tiny'] else ''}. Program of commit: {revision}.", ""]
    for precision, of in s["selftest"]["precisions"].items():
        worst = of["worst"]
        part = f", {worst['part']}" if "part" in worst else ""
        error = f"{worst['error']:.1e}" if "error" in worst else "not finite"
        lines.append(
            f"- {of['comparisons']} comparisons in {precision}; nearest to its limit: {worst['case']}{part}, "
            f"{error} of {worst['limit']:.0e}"
        )
    if s["selftest"]["wrong"]:
        lines.append(f"- **{s['selftest']['wrong']} results of the self-test are wrong**")
    lines += [f"- matrix products in {precision}: {value / 1e12:.3g} TFLOP/s" for precision, value in s["matmul_flops"].items()]
    lines += [line for dataset, curves in s["runs"].items() for line in run_lines(dataset, curves)]
    for way, of in s["memory"].items():
        verdict = "fits" if of["peak_gb"] < CARD_GB else "does not fit"
        lines.append(
            f"- audio-video, batch 4, {way}: peak {of['peak_gb']:.2f} GB, {verdict} the paper's {CARD_GB:.0f} GB card; "
            f"{of['samples_per_second']:.1f} samples/s"
        )
    lines += [f"- {name}: {text}" for name, text in s["memcheck"].items()]
    if s["profile"]:
        lines.append(f"- profile.csv: {s['profile']['launches']} launches")
    if s["speed"]:
        lines += ["", *speed_table(s)]
    if choice := [*cublaslt_lines(s["speed"])]:
        lines += ["", *choice]
    for trace in s["trace"]:
        # The CPU launches no kernels.
        lines += ["", *trace_table(trace)] if trace["rows"] else []
    if comparisons := [line for line in s["kernels"] if line["what"] == "comparison"]:
        lines += ["", "| kernels.py | us | beside | us | ratio |", "|---|---|---|---|---|"]
        for c in comparisons:
            times = f"{c['microseconds']:.1f} | {c['peer']} | {c['peer_microseconds']:.1f}"
            lines.append(f"| {c['key']}, {c['build']} | {times} | {c['ratio']:.2f} |")
    if s["targets"]:
        lines += ["", "| target | measured | wanted | |", "|---|---|---|---|"]
        for t in s["targets"]:
            value = "" if t["value"] is None else f"{t['value']:.2f}"
            lines.append(f"| {t['name']} | {value} | {t['target']} | {t['verdict']} |")
    notes = [f"- Finding: {text}" for text in s["findings"]] + [f"- Skipped: {text}" for text in s["skipped"]]
    lines += ["", *notes] if notes else []
    return "\n".join(lines).rstrip() + "\n"


def run_lines(dataset, curves):
    for precision in ("bf16", "f32"):
        if c := curves.get(precision):
            rate, wait = c["samples_per_second"], c["data_wait_share"]
            pace = f", {rate:.0f} samples/s" if rate is not None else ""
            pace += f", {100 * wait:.0f} % of the time without data" if wait is not None else ""
            yield f"- {dataset}, {c['steps']} steps in {precision}: loss {c['first']:.3f} to {c['last']:.3f}{pace}"
    if curves.get("largest_difference") is not None:
        yield f"- {dataset}: bf16 within {100 * curves['largest_difference']:.1f} % of f32's loss at every step"


def speed_table(s):
    peak = None if s["tiny"] else s["matmul_flops"].get("bf16")
    yield "Samples per second; ratios of ours to each peer. `of peak` is the share of the measured bf16 peak, `queued` the share of a"
    yield "step's time after which the host had nothing left to do, memory is the peak in GB with ours in relation to the better peer."
    yield ""
    columns = ["step", "ours", "PyTorch eager", "PyTorch compiled", "ours / eager", "ours / compiled", "of peak"]
    columns += ["queued: ours, eager, compiled", "GB: ours, eager, compiled", "GB: ours / better peer"]
    yield "| " + " | ".join(columns) + " |"
    yield "|" + len(columns) * "---|"
    for pair, batches in s["speed"].items():
        for batch, of in sorted(batches.items(), key=lambda item: int(item[0])):
            ours = measured(of, "ours")
            whos = ("ours", *PEERS)
            ratios = [f"{ours / measured(of, peer):.2f}" if ours and measured(of, peer) else "" for peer in PEERS]
            share = f"{100 * ours * flops(pair) / peak:.0f} %" if ours and peak else ""
            queued = ", ".join(f"{100 * of[w]['enqueue_share']:.0f} %" if "enqueue_share" in of.get(w, {}) else "-" for w in whos)
            memory = ", ".join(f"{of[w]['peak_gb']:.2f}" if "peak_gb" in of.get(w, {}) else "-" for w in whos)
            better = best_peer(of)
            ratio = f"{of['ours']['peak_gb'] / of[better]['peak_gb']:.2f}" if ours and better else ""
            cells = [f"{pair}, batch {batch}", *(rate_cell(of.get(w)) for w in whos), *ratios, share, queued, memory, ratio]
            yield "| " + " | ".join(cells) + " |"


def cublaslt_lines(speed):
    """How fast our steps are with products of cuBLASLt, beside those of cuBLAS."""
    for pair, batches in speed.items():
        for batch, of in sorted(batches.items(), key=lambda item: int(item[0])):
            if "cublaslt" in of:
                ours, other = measured(of, "ours"), measured(of, "cublaslt")
                ratio = f", {other / ours:.2f} times the rate with cuBLAS" if ours and other else ""
                yield f"- {pair}, batch {batch}, U2A_PRODUCTS=cublaslt: {rate_cell(of['cublaslt'])} samples/s{ratio}"


def rate_cell(found):
    if not found:
        return ""
    if "error" in found:
        return found["error_kind"]
    return f"{found['samples_per_second']:.1f} ({found['slowest']:.1f} to {found['fastest']:.1f})"


def trace_table(trace):
    rows = trace["rows"]
    total = sum(row["microseconds"] for row in rows)
    yield f"{trace['pair']}, batch {trace['batch']}: {total / 1e3 / trace['steps']:.2f} ms a step in kernels and products, by time:"
    yield ""
    yield "| kernel | a step | us each | share |"
    yield "|---|---|---|---|"
    for row in rows[:30]:
        each, count = row["microseconds"] / row["count"], row["count"] / trace["steps"]
        yield f"| {row['name']} | {count:.0f} | {each:.1f} | {100 * row['microseconds'] / total:.1f} % |"
