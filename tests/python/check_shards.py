"""Opens a shard folder with polars, pyarrow, DuckDB, pandas and Hugging Face datasets and compares what they read.

    python check_shards.py DIR

Every reader must find the same rows, labels and mel values; frames and images must decode. It prints one line per check
and exits 1 if any failed, 2 if DIR has no shards.
"""

import argparse
import hashlib
import io
import json
import sys
import tempfile
import traceback
from pathlib import Path

import numpy as np

MEDIA = {"audio": "mel", "video": "frames", "image": "image", "text": "text"}
MEL_BINS = 128
MAX_MEL_FRAMES = 1024
SHORTER_SIDE = 256
failures = []


def check(what, ok, seen=""):
    print(f"{'ok  ' if ok else 'FAIL'} {what}{f': {seen}' if seen != '' and not ok else ''}")
    if not ok:
        failures.append(what)


def attempt(reader):
    """Turns an exception of a reader into a failed check, so that the other readers run."""

    def run(*args):
        try:
            return reader(*args)
        except Exception as error:
            traceback.print_exc()
            check(f"{reader.__name__} opens the shards", False, error)

    return run


def is_stored_jpeg(value):
    """Whether bytes are a JPEG file that decodes and is no larger than ingest stores it."""
    from PIL import Image

    image = Image.open(io.BytesIO(value))
    image.load()
    return image.format == "JPEG" and image.mode == "RGB" and min(image.size) <= SHORTER_SIDE


@attempt
def with_pyarrow(files, schema):
    import pyarrow.parquet as pq

    rows = []
    for file in files:
        table = pq.read_table(file)
        check(f"{file.name}: one schema in all shards", table.schema.equals(schema))
        rows += table.to_pylist()
    return rows


@attempt
def with_polars(files, rows):
    import polars as pl

    frame = pl.scan_parquet([str(f) for f in files]).collect()
    check("polars: rows", frame.height == len(rows), frame.height)
    check("polars: ids in order", frame["id"].to_list() == [r["id"] for r in rows])
    if "mel" in frame.columns:
        kind = frame.schema["mel"]
        check("polars: mel is a list of 128-wide arrays", isinstance(kind, pl.List) and kind.inner.shape == (MEL_BINS,), kind)
        for row, mel in zip(rows, frame["mel"]):
            if row["mel"] is not None and not np.array_equal(np.array(mel.to_list()), np.array(row["mel"])):
                check(f"polars: mel of {row['id']}", False)
        check("polars: mel lengths by query", frame["mel"].list.len().to_list() == [r["mel"] and len(r["mel"]) for r in rows])
    if "frames" in frame.columns:
        sizes = [None if f is None else [len(p["bytes"]) for p in f] for f in frame["frames"].to_list()]
        check("polars: frames", sizes == [r["frames"] and [len(p["bytes"]) for p in r["frames"]] for r in rows])


@attempt
def with_duckdb(files, rows):
    import duckdb

    db = duckdb.connect()
    names = [str(f) for f in files]
    count = db.execute("select count(*) from read_parquet($1)", [names]).fetchone()[0]
    check("duckdb: rows", count == len(rows), count)
    ids = [r[0] for r in db.execute("select id from read_parquet($1) order by id", [names]).fetchall()]
    check("duckdb: ids", ids == sorted(r["id"] for r in rows))
    name = "label_name" if "label_name" in rows[0] else "unnest(label_names)"
    found = dict(
        db.execute(f"select n, count(*) from (select {name} n from read_parquet($1)) group by n", [names]).fetchall()
    )
    wanted = {}
    for row in rows:
        for n in [row["label_name"]] if "label_name" in row else row["label_names"]:
            wanted[n] = wanted.get(n, 0) + 1
    check("duckdb: rows by label name", found == wanted, found)
    if "mel" in rows[0]:
        query = "select id, len(mel), len(mel[1]), mel[1][1], mel[-1][128] from read_parquet($1) where has_audio"
        found = {r[0]: r[1:] for r in db.execute(query, [names]).fetchall()}
        wanted = {
            r["id"]: (len(r["mel"]), MEL_BINS, r["mel"][0][0], r["mel"][-1][-1]) for r in rows if r["mel"] is not None
        }
        check("duckdb: mel", found == wanted)
    if "frames" in rows[0]:
        query = "select id, octet_length(frames[1].bytes) from read_parquet($1) where has_video"
        found = dict(db.execute(query, [names]).fetchall())
        check("duckdb: frames", found == {r["id"]: len(r["frames"][0]["bytes"]) for r in rows if r["frames"]})


@attempt
def with_pandas(files, rows):
    import pandas as pd

    frame = pd.concat([pd.read_parquet(f) for f in files], ignore_index=True)
    check("pandas: rows", len(frame) == len(rows), len(frame))
    check("pandas: ids in order", frame["id"].tolist() == [r["id"] for r in rows])
    if "mel" in frame.columns:
        same = True
        for row, mel in zip(rows, frame["mel"]):
            if row["mel"] is None:
                same &= mel is None
            else:
                same &= np.array_equal(np.stack(mel), np.array(row["mel"], dtype=np.stack(mel).dtype))
        check("pandas: mel stacks to (frames, 128)", bool(same))


@attempt
def with_huggingface(splits, rows, classes, multi_label):
    import datasets
    from PIL import Image

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:
        loaded = datasets.load_dataset(
            "parquet", data_files={s: [str(f) for f in files] for s, files in splits.items()}, cache_dir=cache
        )
        check("datasets: splits", set(loaded) == set(splits), list(loaded))
        by_id = {r["id"]: r for r in rows}
        total = 0
        for split, data in loaded.items():
            total += len(data)
            features = data.features
            if "frames" in features:
                inner = getattr(features["frames"], "feature", None)
                check(f"datasets {split}: frames are images", isinstance(inner, datasets.Image), features["frames"])
            if "image" in features:
                check(f"datasets {split}: image is an image", isinstance(features["image"], datasets.Image), features["image"])
            decoded = True
            for item in data:
                row = by_id[item["id"]]
                images = (item.get("frames") or []) + ([item["image"]] if item.get("image") is not None else [])
                wanted = (row.get("frames") or []) + ([row["image"]] if row.get("image") else [])
                decoded &= len(images) == len(wanted) and all(isinstance(p, Image.Image) for p in images)
                decoded &= item["split"] == split
            check(f"datasets {split}: every image decodes", decoded)
            label = datasets.ClassLabel(names=classes)
            if multi_label:
                named = data.cast_column("labels", datasets.List(label)) if len(data) else data
                same = all([label.int2str(i) for i in r["labels"]] == r["label_names"] for r in _plain(named))
            else:
                named = data.cast_column("label", label)
                same = all(label.int2str(r["label"]) == r["label_name"] for r in _plain(named))
            check(f"datasets {split}: labels by name", same)
        check("datasets: rows", total == len(rows), total)
        del loaded


def _plain(data):
    """Rows without the media."""
    return data.select_columns([c for c in data.column_names if c.startswith("label")])


def check_rows(rows, modalities, classes, multi_label):
    """Checks the documented properties of each row."""
    check("ids are unique", len({r["id"] for r in rows}) == len(rows))
    wrong = []
    for r in rows:
        have = {m: r[f"has_{m}"] for m in modalities}
        ok = any(have.values())
        for m in modalities:
            ok &= have[m] == (r[MEDIA[m]] is not None)
        if multi_label:
            ok &= [classes[i] for i in r["labels"]] == r["label_names"]
        else:
            ok &= classes[r["label"]] == r["label_name"]
        if r.get("mel") is not None:
            mel = np.array(r["mel"], dtype=np.float32)
            ok &= mel.ndim == 2 and mel.shape[1] == MEL_BINS and 1 <= len(mel) <= MAX_MEL_FRAMES
            # The natural logarithm of a power with a floor of 1.19e-7; normalised values would not pass.
            ok &= bool(np.isfinite(mel).all()) and float(mel.min()) > -16.0
            ok &= r["audio_seconds"] > 0
        if r.get("frames") is not None:
            ok &= len(r["frames"]) == len(r["frame_times"]) > 0 and r["frame_times"] == sorted(r["frame_times"])
            ok &= all(is_stored_jpeg(f["bytes"]) for f in r["frames"])
        if r.get("image") is not None:
            ok &= is_stored_jpeg(r["image"]["bytes"])
        ok &= all(have.values()) or r["error"] is None or isinstance(r["error"], str)
        if not ok:
            wrong.append(r["id"])
    check("every row has the documented properties", not wrong, wrong[:5])


def check_manifest(folder, files, rows, failed):
    path = folder / "manifest.json"
    if not path.exists():
        check("manifest.json exists", False)
        return
    manifest = json.loads(path.read_text())
    shards = {s.get("file", s.get("name", s.get("path"))): s for s in manifest["shards"]}
    check("manifest names every shard", set(shards) == {f.name for f in files}, sorted(shards))
    import pyarrow.parquet as pq

    for f in files:
        entry, data = shards.get(f.name), f.read_bytes()
        if entry:
            ok = entry["rows"] == pq.read_metadata(f).num_rows and entry["bytes"] == len(data)
            check(f"manifest: {f.name}", ok and entry["sha256"] == hashlib.sha256(data).hexdigest(), entry)
    check("manifest: rows add up", sum(s["rows"] for s in manifest["shards"]) == len(rows))
    if failed is not None:
        print(f"     {len(rows)} rows, {failed} in failures.parquet")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    splits = {}
    for file in sorted(folder.glob("*-of-*.parquet")):
        splits.setdefault(file.name.split("-")[0], []).append(file)
    if not splits:
        print(f"error: {folder}: it has no SPLIT-00000-of-00000.parquet", file=sys.stderr)
        return 2
    import pyarrow.parquet as pq

    files = [f for s in splits for f in splits[s]]
    schema = pq.read_schema(files[0])
    meta = {k.decode(): v.decode() for k, v in (schema.metadata or {}).items()}
    check("schema metadata: u2a.* and huggingface", "u2a.schema_version" in meta and "huggingface" in meta, sorted(meta))
    names = json.loads(meta["u2a.classes"])
    modalities = meta["u2a.modalities"].split(",")
    multi_label = meta["u2a.multi_label"] == "true"

    rows = with_pyarrow(files, schema)
    if rows is None:
        return 1
    check("rows in the shards of their split", all(r["split"] in splits for r in rows))
    check_rows(rows, modalities, names, multi_label)
    failed = None
    if (folder / "failures.parquet").exists():
        failed = pq.read_table(folder / "failures.parquet").num_rows
    check_manifest(folder, files, rows, failed)
    with_polars(files, rows)
    with_duckdb(files, rows)
    with_pandas(files, rows)
    with_huggingface(splits, rows, names, multi_label)
    for mask in sorted(folder.glob("masks/*.parquet")):
        table = pq.read_table(mask)
        columns = set(table.column_names)
        empty = [r for r in table.to_pylist() if not any(v for v in r.values() if isinstance(v, bool))]
        check(f"masks/{mask.name}: id, split and a bool per modality, never both missing", {"id", "split"} <= columns and not empty)
    print(f"{len(failures)} failed" if failures else "all readers agree")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
