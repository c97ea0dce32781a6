"""Recomputes a run's predictions with Hugging Face transformers and PEFT and compares.

    python check_run.py RUN --predictions FILE --shards DIR --weights DIR [--checkpoint best] [--missing MODALITY]

The columns has_MODALITY of the predictions are the modalities that the model used; with `--missing` they must lack that
modality wherever the sample has the other one.

`PeftModel.from_pretrained` loads the adapters on the base models of `--weights`; a warning about missing or unexpected adapter
keys is a failure. Rows come from the shards and are preprocessed here by Pillow and numpy. Exit 0: every prediction agrees;
1: one does not; 2: an input is missing.
"""

import argparse
import io
import json
import sys
import tomllib
import warnings
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "golden"))
from common import CLASSES, FOLDERS, Encoder  # noqa: E402

KINDS = {"audio": "ast", "video": "clip", "image": "clip", "text": "bert"}
PIXEL_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
PIXEL_STD = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)
MEL_MEAN, MEL_STD = -4.2677393, 4.5689974
FRAMES = 3
DEFAULT_TEXT_LENGTH = 40


def test_frames(n):
    """The centres of three equal segments of a pool of n frames."""
    return [int((i + 0.5) * n / FRAMES) for i in range(FRAMES)]


def pixels(encoded, size):
    """Shorter side to `size` by Pillow's bicubic (antialiased), centre crop, normalised: [3, size, size]."""
    from PIL import Image

    image = Image.open(io.BytesIO(encoded)).convert("RGB")
    w, h = image.size
    short = min(w, h)
    new = (size, int(size * h / w)) if w == short else (int(size * w / h), size)
    image = image.resize(new, Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    array = np.asarray(image.crop((left, top, left + size, top + size)), dtype=np.float32) / 255
    return ((array - PIXEL_MEAN) / PIXEL_STD).transpose(2, 0, 1)


def mel(frames, length):
    """Zero-padded or cut to `length`, THEN normalised: [length, 128]."""
    out = np.zeros((length, 128), dtype=np.float32)
    frames = np.array(frames, dtype=np.float32)[:length]
    out[: len(frames)] = frames
    return (out - np.float32(MEL_MEAN)) / np.float32(2 * MEL_STD)


def tokens(text, folder, length):
    """(ids padded with 0, number of real tokens)."""
    from tokenizers import BertWordPieceTokenizer

    tokenizer = BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=True)
    tokenizer.enable_truncation(length)
    ids = tokenizer.encode(text).ids
    return ids + [0] * (length - len(ids)), len(ids)


class Run:
    """One checkpoint on the base models, evaluated row by row."""

    def __init__(self, checkpoint, weights, modalities, text_length, post_norm):
        from peft import PeftModel
        from safetensors.torch import load_file

        self.modalities, self.weights, self.text_length = modalities, weights, text_length
        head = load_file(checkpoint / "head.safetensors")
        self.weight, self.bias = head["weight"], head["bias"]
        self.encoders, self.mask_tokens = [], []
        for m in modalities:
            kind = KINDS[m]
            base = CLASSES[kind].from_pretrained(weights / FOLDERS[kind]).eval()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                peft = PeftModel.from_pretrained(base, checkpoint / m).eval()
            adapter_warnings = [str(w.message) for w in caught if "adapter" in str(w.message).lower()]
            if adapter_warnings:
                raise SystemExit(f"error: {checkpoint / m}: PEFT warns: {adapter_warnings[0]}")
            touched = {n.split(".lora_")[0] for n, _ in peft.named_parameters() if ".lora_A" in n}
            layers = len({n.split(".layer")[1].split(".")[1] for n in touched})
            if len(touched) != 4 * layers:
                raise SystemExit(f"error: {checkpoint / m}: {len(touched)} adapted layers in {layers} blocks, expected 4 each")
            self.encoders.append(Encoder(kind, peft))
            self.encoders[-1].post_norm = post_norm
            self.mask_tokens.append(head[f"mask_token.{m}"].reshape(1, -1))

    @torch.no_grad()
    def tokens(self, index, row):
        """(CLS, MT) of one row's modality."""
        m, encoder = self.modalities[index], self.encoders[index]
        config, lengths = encoder.base.config, None
        if m == "audio":
            x = torch.from_numpy(mel(row["mel"], config.max_length))[None]
        elif m == "video":
            pool = [f["bytes"] for f in row["frames"]]
            x = torch.from_numpy(np.stack([pixels(pool[i], config.image_size) for i in test_frames(len(pool))]))
        elif m == "image":
            x = torch.from_numpy(pixels(row["image"]["bytes"], config.image_size))[None]
        else:
            ids, n = tokens(row["text"], self.weights / FOLDERS["bert"], self.text_length)
            x, lengths = torch.tensor([ids]), torch.tensor([n])
        states = encoder.states(x, lengths, self.mask_tokens[index])
        return states[:, 0].mean(0), states[:, -1].mean(0)

    def logits(self, row, have):
        out = [self.tokens(i, row) if have[i] else None for i in range(2)]
        first = out[0][0] if have[0] else out[1][1]
        second = out[1][0] if have[1] else out[0][1]
        return (self.weight @ (first + second) + self.bias).numpy()


def find(table, name):
    """A setting of config.toml in any of its tables."""
    if name in table:
        return table[name]
    for value in table.values():
        if isinstance(value, dict) and (found := find(value, name)) is not None:
            return found
    return None


def predictions_of(path):
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    if not {"id", "logits"} <= set(table.column_names):
        raise SystemExit(f"error: {path}: no columns id and logits among {table.column_names}")
    return {r["id"]: r for r in table.to_pylist()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--predictions", type=Path, required=True)
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--checkpoint", default="best")
    parser.add_argument("--split", default="test")
    parser.add_argument("--missing")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()
    import pyarrow.parquet as pq

    config = tomllib.loads((args.run / "config.toml").read_text())
    files = sorted(args.shards.glob(f"{args.split}-*-of-*.parquet"))
    if not files:
        print(f"error: {args.shards}: no shards of split {args.split}", file=sys.stderr)
        return 2
    schema = pq.read_schema(files[0])
    modalities = schema.metadata[b"u2a.modalities"].decode().split(",")
    post_norm = find(config, "clip_features") in (None, "post_norm")
    text_length = find(config, "text_length") or DEFAULT_TEXT_LENGTH
    run = Run(args.run / args.checkpoint, args.weights, modalities, text_length, post_norm)
    if len(json.loads(schema.metadata[b"u2a.classes"])) != len(run.bias):
        print("error: the head has another number of classes than the shards", file=sys.stderr)
        return 2

    theirs = predictions_of(args.predictions)
    worst = 0.0
    wrong, compared = [], 0
    for file in files:
        for row in pq.read_table(file).to_pylist():
            prediction = theirs.pop(row["id"], None)
            if prediction is None:
                wrong.append(f"{row['id']}: no prediction")
                continue
            present = [row[f"has_{m}"] for m in modalities]
            used = [prediction[f"has_{m}"] for m in modalities]
            expected = [p and m != args.missing for p, m in zip(present, modalities)]
            if used != (expected if any(expected) else present) and (args.missing or any(u > p for u, p in zip(used, present))):
                wrong.append(f"{row['id']}: has {present}, the model used {used}")
                continue
            compared += 1
            ours, logits = run.logits(row, used), np.array(prediction["logits"], dtype=np.float32)
            by = float(np.abs(ours - logits).max() / max(1.0, np.abs(ours).max()))
            worst = max(worst, by)
            if not by <= args.tolerance:
                wrong.append(f"{row['id']}: off by {by:.1e}, allowed {args.tolerance:.0e}")
    print(f"{compared} predictions; off by at most {worst:.1e}")
    wrong += [f"{i}: predicted, but in no shard" for i in theirs]
    if not compared:
        wrong.append("nothing to compare")
    for line in wrong[:10]:
        print(f"FAIL {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
