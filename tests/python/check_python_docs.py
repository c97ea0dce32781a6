"""Runs every script of docs/python.md as it stands and compares what comes out.

    python check_python_docs.py PAGE --shards DIR --run RUN --weights DIR

Each `##` section is one script. It runs in an empty folder in which `data/shards/crema-d`, `runs/first` and `weights` are those
of the arguments, and afterwards its variables are looked at: batches against the rows of the shards, logits against the
predictions of the run, logged metrics against metrics.jsonl. A line `skipped ...` names a package that is not installed.
Exit 1: a script failed, or a number is another one.
"""

import argparse
import json
import os
import re
import struct
import sys
import tempfile
import traceback
from pathlib import Path

import numpy as np

TOLERANCE = 1e-4
SHARDS, RUN = Path("data/shards/crema-d"), Path("runs/first")
failures = []


def check(what, ok, seen=""):
    print(f"{'ok  ' if ok else 'FAIL'} {what}{f': {seen}' if seen != '' and not ok else ''}")
    if not ok:
        failures.append(what)


def rows_of(split):
    import pyarrow.parquet as pq

    return {row["id"]: row for file in sorted(SHARDS.glob(f"{split}-*.parquet")) for row in pq.read_table(file).to_pylist()}


def metrics():
    return [json.loads(line) for line in (RUN / "metrics.jsonl").read_text().splitlines()]


def loader(names):
    import pyarrow.parquet as pq

    rows, masks = rows_of("train"), {r["id"]: r for r in pq.read_table(next(SHARDS.glob("masks/missing-both-0.7-seed0.parquet"))).to_pylist()}
    lacking = 0
    # Another epoch, whose `present` no mask narrows.
    for ids, mel, video, present, labels in names["loader"]:
        for i, id in enumerate(ids):
            row = rows.pop(id)
            check(f"loader: {id}", labels[i] == row["label"] and present[i].tolist() == [row["has_audio"], row["has_video"]])
            stored = np.zeros((0, 128), np.float32) if row["mel"] is None else np.array(row["mel"], np.float32)
            same = np.array_equal(mel[i, : len(stored)], stored) and not mel[i, len(stored) :].any()
            same &= bool(video[i].any()) == row["has_video"] and 0 <= video[i].min() and video[i].max() <= 1
            check(f"loader: inputs of {id}", bool(same))
            lacking += not all(present[i])
    check("loader: every row once, and some lack a modality", not rows and lacking > 0, (len(rows), lacking))
    rows = rows_of("train")
    both = [[rows[i]["has_audio"] and masks[i]["has_audio"], rows[i]["has_video"] and masks[i]["has_video"]] for i in names["ids"]]
    check("loader: mask", names["present"].tolist() == both, names["present"])


def batches(names):
    losses, loader = names["losses"], names["loader"]
    check("batches: five epochs", len(losses) == 5 * len(loader) and loader.epoch == 5, len(losses))
    epochs = np.array(losses).reshape(5, -1).mean(1)
    check("batches: the model learns", epochs[-1] < epochs[0], epochs.tolist())


def model(names):
    import pyarrow.parquet as pq

    rows = rows_of("test")
    for name in ["predictions-test", "predictions-test-no-audio"]:
        worst, kinds = 0.0, set()
        predictions = pq.read_table(RUN / f"{name}.parquet").to_pylist()
        for p in predictions:
            ours = names["logits"](rows[p["id"]], p["has_audio"], p["has_video"]).numpy()
            worst = max(worst, float(np.abs(ours - np.array(p["logits"], np.float32)).max()))
            kinds.add((p["has_audio"], p["has_video"]))
        print(f"     {name}: {len(predictions)} predictions of {sorted(kinds)}, off by at most {worst:.1e}")
        check(f"model: {name}", predictions and worst <= TOLERANCE, worst)
        check(f"model: {name}: availability", ((True, True) in kinds) == (name == "predictions-test"), kinds)


def predictions(names):
    of = {json.loads(p.read_text())["missing"]: json.loads(p.read_text()) for p in RUN.glob("eval-test*.json")}
    frame = names["predictions"]
    for missing, name in [(None, "predictions-test.parquet"), ("audio", "predictions-test-no-audio.parquet")]:
        mine = frame.filter(frame["file"].str.ends_with(name))
        check(f"predictions: accuracy of {name}", abs(mine["right"].mean() - of[missing]["metrics"]["accuracy"]) < 1e-9, mine["right"].mean())
    check("predictions: tables", names["accuracy"]["len"].sum() == frame.height and names["classes"].height > 1)


def wandb_records(path):
    """The records of an offline run: protocol buffers in the log format of LevelDB, behind a header of 7 bytes."""
    data, at, record = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # No record begins in the last bytes of a block.
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        record = (b"" if kind in (1, 2) else record) + data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield record


def wandb(names):
    from wandb.proto.wandb_internal_pb2 import Record

    wanted, found = {}, {}
    for line in metrics():
        for name, value in line.get("metrics", line).items():
            if name not in ("step", "epoch", "split"):
                wanted[line["step"], f"{line.get('split', 'train')}/{name}"] = value
    (path,) = Path("runs/wandb").glob("offline-run-*/*.wandb")
    for bytes in wandb_records(path):
        record = Record.FromString(bytes)
        items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        found |= {(items["_step"], name): value for name, value in items.items() if "/" in name}
    wrong = [key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key)]
    check("wandb: every metric of every step", len(wanted) > 5 and not wrong, wrong[:5])


def mlflow(names):
    client = names["mlflow"].MlflowClient()
    history = client.get_metric_history(names["run"].info.run_id, "train/loss")
    wanted = [(line["step"], line["loss"]) for line in metrics() if "loss" in line]
    check("mlflow: every loss", [(m.step, m.value) for m in history] == wanted, len(history))
    values = client.get_run(names["run"].info.run_id).data
    check("mlflow: scores and settings", "test/accuracy" in values.metrics and "lr" in values.params, values.params)


SECTIONS = {
    "A torch DataLoader": loader,
    "The batches of our trainer": batches,
    "A run's model in transformers and PEFT": model,
    "Predictions in polars": predictions,
    "Metrics in Weights & Biases": wandb,
    "Metrics in MLflow": mlflow,
}
OPTIONAL = {"wandb", "mlflow", "sqlalchemy", "alembic"}


def run(title, section, look):
    names = {}
    try:
        for block in re.findall(r"```python\n(.*?)```", section, re.S):
            exec(compile(block, f"docs/python.md: {title}", "exec"), names)
    except ModuleNotFoundError as error:
        if error.name not in OPTIONAL:
            raise
        print(f"skipped {title}: {error.name} is not installed")
        return
    look(names)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    for name in ["shards", "run", "weights"]:
        parser.add_argument(f"--{name}", type=lambda path: Path(path).resolve(), required=True)
    args = parser.parse_args()
    sections = dict(part.split("\n", 1) for part in re.split(r"^## ", args.page.read_text(), flags=re.M)[1:])
    scripts = {title for title, text in sections.items() if "```python" in text}
    check("every script of the page is known here", scripts == set(SECTIONS), scripts ^ set(SECTIONS))
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"HF_DATASETS_CACHE": f"{folder}/cache", "WANDB_SILENT": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
        os.chdir(folder)
        for link, target in [(SHARDS, args.shards), (RUN, args.run), (Path("weights"), args.weights)]:
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target)
        for title in [t for t in SECTIONS if t in scripts]:
            try:
                run(title, sections[title], SECTIONS[title])
            except Exception as error:
                traceback.print_exc()
                check(f"{title}: runs", False, error)
        os.chdir("/")
    print(f"{len(failures)} failed" if failures else "the page is right")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
