"""Reads a published folder as its users do: by datasets, mlcroissant, polars, DuckDB and pandas.

    python check_published.py DIR [--everything]

`load_dataset(DIR)` has to give the splits of manifest.json, with their counts, pictures and class names, without being told
which files they are in. `mlcroissant validate` has to find nothing, not even a warning where the terms of the data are known, and
its records have to be the rows. The code blocks of the card run as they stand. With `--everything` (a folder that
`ingest publish --out` made) `DIR/**/*.parquet` is the dataset; without, the patterns that the card names are. Exit 1: a check failed.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

failures = []


def check(what, ok, seen=""):
    print(f"{'ok  ' if ok else 'FAIL'} {what}{f': {seen}' if seen != '' and not ok else ''}")
    if not ok:
        failures.append(what)


def with_datasets(folder, manifest):
    import datasets
    from PIL import Image

    datasets.disable_progress_bars()
    loaded = datasets.load_dataset(str(folder))
    counts = {split: len(rows) for split, rows in loaded.items()}
    check("datasets: splits and counts", counts == {s: t["rows"] for s, t in manifest["totals"].items()}, counts)
    ids = set()
    for split, rows in loaded.items():
        features = rows.features
        pictures = names = True
        for row in rows:
            ids.add(row["id"])
            for picture in (row.get("frames") or []) + [row[k] for k in ("image",) if row.get(k) is not None]:
                pictures &= isinstance(picture, Image.Image)
            if "label" in row:
                names &= features["label"].int2str(row["label"]) == row["label_name"]
            else:
                names &= [features["labels"].feature.int2str(i) for i in row["labels"]] == row["label_names"]
            names &= row["split"] == split
        check(f"datasets {split}: pictures", pictures)
        check(f"datasets {split}: class names", names)
    stored = datasets.load_dataset(
        "parquet", data_files={s: f"{folder}/{s}-*-of-*.parquet" for s in loaded}, split=next(iter(loaded))
    ).features
    given = next(iter(loaded.values())).features
    same = {k for k in stored if stored[k] == given[k]}
    check("datasets: the card's features are those of the shards, but for class labels", set(stored) - same <= {"label", "labels"}, same)
    # `streaming` reads the card alone for features and splits.
    streamed = datasets.load_dataset(str(folder), streaming=True)
    check("datasets: streaming", {s: d.features for s, d in streamed.items()} == {s: d.features for s, d in loaded.items()})
    info = datasets.load_dataset_builder(str(folder)).info
    sizes = {s: i.num_examples for s, i in info.splits.items()}
    check("datasets: the card's counts", sizes == counts and info.download_size == sum(s["bytes"] for s in manifest["shards"]), sizes)
    return ids


def with_the_hub(folder):
    """The hub's own reader of cards."""
    from huggingface_hub import DatasetCard

    data = DatasetCard.load(folder / "README.md", ignore_metadata_errors=False).data
    check("huggingface_hub reads the card", bool(data.license and data.pretty_name and data.task_categories and data.size_categories))


def with_mlcroissant(folder, ids):
    try:
        import mlcroissant
    except ModuleNotFoundError:
        print("skipped mlcroissant: it is not installed")
        return
    path = folder / "croissant.json"
    # The program reports warnings only in what it logs.
    program = Path(sys.executable).with_name("mlcroissant")
    ran = subprocess.run([program, "validate", "--jsonld", path], capture_output=True, text=True)
    log = ran.stdout + ran.stderr
    check("mlcroissant validate", ran.returncode == 0 and "Done." in log, log)
    known = "datePublished" in json.loads(path.read_text())
    check("mlcroissant validate: no warning", not known or not re.search("warn|recommended", log, re.I), log)
    dataset = mlcroissant.Dataset(path)
    check("mlcroissant: version 1.1", dataset.metadata.ctx.is_v1_1())
    seen, rows = set(), None
    for row in dataset.records("samples"):
        rows = rows or row
        label = row.get("samples/label_name", row.get("samples/label_names"))
        if row["samples/split"].decode() in ("train", "val", "test") and label is not None:
            seen.add(row["samples/id"].decode())
        for picture in row.get("samples/frames") or []:
            picture.load()
    check("mlcroissant: records", seen == ids, len(seen))
    splits = [r["splits/name"] for r in dataset.records("splits")]
    check("mlcroissant: splits", bool(splits) and set(map(str, splits)) <= {"train", "val", "test"}, splits)
    if rows.get("samples/mel"):
        check("mlcroissant: mel has 128 bins", len(rows["samples/mel"][0]) == 128)


def with_patterns(folder, manifest, everything):
    import duckdb
    import polars as pl

    total = sum(t["rows"] for t in manifest["totals"].values())
    columns = pl.scan_parquet(folder / manifest["shards"][0]["file"]).collect_schema()
    label = "label_name" if "label_name" in columns else "label_names"
    patterns = ["*-of-*.parquet", "**/*-of-*.parquet"] + (["*.parquet", "**/*.parquet"] if everything else [])
    for pattern in patterns:
        whole = f"{folder}/{pattern}"
        check(f"polars: {pattern}", pl.scan_parquet(whole).collect().height == total)
        found = duckdb.sql(f"SELECT count({label}), count(DISTINCT id) FROM read_parquet('{whole}')").fetchall()
        check(f"duckdb: {pattern}", found == [(total, total)], found)


def with_the_card(folder):
    """Runs the code blocks of the card with the folder in place of DIR."""
    import duckdb

    text = (folder / "README.md").read_text()
    blocks = re.findall(r"```(python|sql)\n(.*?)```", text, re.S)
    names = {}
    for kind, block in blocks:
        block = block.replace("DIR", str(folder))
        if kind == "sql":
            check("the card's SQL", len(duckdb.sql(block).fetchall()) > 0)
        else:
            exec(block, names)
    check("the card's Python", len(blocks) >= 4 and len(names["ids"]) > 0 and names["samples"].collect().height > 0)
    if "Array2D" in names:
        split = next(iter(names["dataset"]))
        mel = next(row["mel"] for row in names["dataset"][split] if row["mel"] is not None)
        check("the card's Python: spectrograms are arrays", mel.ndim == 2 and mel.shape[1] == 128, getattr(mel, "shape", type(mel)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--everything", action="store_true")
    args = parser.parse_args()
    manifest = json.loads((args.folder / "manifest.json").read_text())
    with tempfile.TemporaryDirectory() as cache:
        os.environ["HF_DATASETS_CACHE"] = cache
        ids = with_datasets(args.folder, manifest)
        with_the_card(args.folder)
    with_the_hub(args.folder)
    with_mlcroissant(args.folder, ids)
    with_patterns(args.folder, manifest, args.everything)
    print(f"{len(failures)} failed" if failures else "all readers agree")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
