"""Trains the same steps in PyTorch, from a run's initial checkpoint and on its shards, and compares the losses.

    python check_train.py RUN --initial CHECKPOINT --shards DIR --weights DIR --epochs N --batch-size N --lr X

RUN was made with `--no-shuffle --augment off --lora-dropout 0 --encoder-dropout off --modality-dropout off`, CHECKPOINT by
`--max-steps 0` with the same seed. Exit 0: each of the first `--steps` losses agrees within the relative `--tolerance`.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

import check_run
from check_run import DEFAULT_TEXT_LENGTH, KINDS, FOLDERS

import u2a  # tests/golden, which check_run put on the path


def rows_of(shards, split):
    import pyarrow.parquet as pq

    for file in sorted(shards.glob(f"{split}-*-of-*.parquet")):
        yield from pq.read_table(file).to_pylist()


def inputs_of(rows, model, weights, text_length, dtype):
    """The inputs of a batch by modality; samples that lack it have zeros, which are not used."""
    out = {}
    for m, encoder in zip(model.case.modalities, model.encoders):
        config, values = encoder.base.config, []
        for row in rows:
            if not row[f"has_{m}"]:
                values.append(None)
            elif m == "audio":
                values.append(check_run.mel(row["mel"], config.max_length))
            elif m == "video":
                pool = [f["bytes"] for f in row["frames"]]
                values.append(np.stack([check_run.pixels(pool[i], config.image_size) for i in check_run.test_frames(len(pool))]))
            elif m == "image":
                values.append(check_run.pixels(row["image"]["bytes"], config.image_size))
            else:
                values.append(check_run.tokens(row["text"], weights / FOLDERS["bert"], text_length))
        if m == "text":
            ids, lengths = zip(*[v or ([0] * text_length, 1) for v in values])
            out[m], out["text_lengths"] = torch.tensor(ids), torch.tensor(lengths)
            continue
        shape = next((v.shape for v in values if v is not None), None)
        if shape is not None:
            out[m] = torch.from_numpy(np.stack([np.zeros(shape, np.float32) if v is None else v for v in values])).to(dtype)
    return out


def initial(checkpoint, modalities):
    """(trainable tensors by name, rank, alpha) of a checkpoint folder."""
    from safetensors.torch import load_file

    values = load_file(checkpoint / "head.safetensors")
    for m in modalities:
        values |= {f"{m}/{k}": v for k, v in load_file(checkpoint / m / "adapter_model.safetensors").items()}
    config = json.loads((checkpoint / modalities[0] / "adapter_config.json").read_text())
    return values, config["r"], config["lora_alpha"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--initial", type=Path, required=True)
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--text-length", type=int, default=DEFAULT_TEXT_LENGTH)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()
    import pyarrow.parquet as pq

    files = sorted(args.shards.glob("train-*-of-*.parquet"))
    if not files:
        print(f"error: {args.shards}: no shards of split train", file=sys.stderr)
        return 2
    meta = pq.read_schema(files[0]).metadata
    modalities = tuple(meta[b"u2a.modalities"].decode().split(","))
    classes = json.loads(meta[b"u2a.classes"])
    multi_label = meta[b"u2a.multi_label"] == b"true"
    case = u2a.Case("run", tuple(KINDS[m] for m in modalities), modalities, len(classes), multi_label, args.lr, 0.0)
    values, rank, alpha = initial(args.initial, modalities)
    model = u2a.U2A(case, torch.float32, args.weights, rank, alpha).set(values)
    trainable = model.trainable()
    optimiser = u2a.adamw(trainable, args.lr)

    rows = list(rows_of(args.shards, "train"))
    per_epoch = -(-len(rows) // args.batch_size)
    total = args.epochs * per_epoch
    theirs = [json.loads(line) for line in (args.run / "metrics.jsonl").read_text().splitlines()]
    theirs = [line for line in theirs if "task_loss" in line][: args.steps]
    worst = 0.0
    for step, line in enumerate(theirs):
        at = step % per_epoch * args.batch_size
        batch = rows[at : at + args.batch_size]
        inputs = inputs_of(batch, model, args.weights, args.text_length, torch.float32)
        present = torch.tensor([[r[f"has_{m}"] for m in modalities] for r in batch])
        if multi_label:
            labels = torch.zeros(len(batch), len(classes))
            for i, r in enumerate(batch):
                labels[i, r["labels"]] = 1
        else:
            labels = torch.tensor([r["label"] for r in batch])
        rate = u2a.learning_rate(step, total, per_epoch, args.lr)
        for group in optimiser.param_groups:
            group["lr"] = rate
        _, task, align = model(inputs, torch.arange(len(batch)), present, labels)
        loss = task + u2a.ALIGN_WEIGHT * align
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        by = abs(line["loss"] - loss.item()) / abs(loss.item())
        worst = max(worst, by)
        if not by <= args.tolerance or abs(line["lr"] - rate) > 1e-9 * args.lr:
            print(f"FAIL step {step + 1}: loss {line['loss']} against {loss.item()}, rate {line['lr']} against {rate}")
            return 1
    print(f"{len(theirs)} steps, losses off by at most {worst:.1e}")
    return 0 if theirs else 1


if __name__ == "__main__":
    sys.exit(main())
