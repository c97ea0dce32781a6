"""An epoch of audio-video batches from our shards, shuffled and augmented: `peer_stream.py datasets|pyarrow SHARDS`.

A torch DataLoader with 2 persistent workers and batches of 16. `datasets`: Hugging Face datasets with memory-mapped Arrow files,
single rows in random order. `pyarrow`: row groups in random order, with rows shuffled inside each. Three random frames are decoded
by torchvision, cropped and resized (bicubic, antialiased) in uint8 with one crop and flip per clip, and normalised; the spectrogram
is padded to 1024 frames and normalised. Items: samples.
"""

import random
import sys
import tempfile
from pathlib import Path

from peer import serve

import numpy as np
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional

BATCH, WORKERS, SIZE, MEL_FRAMES = 16, 2, 224, 1024
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
BICUBIC = functional.InterpolationMode.BICUBIC


def pixels(jpegs):
    frames = torch.stack([decode_jpeg(torch.frombuffer(bytearray(j), dtype=torch.uint8), ImageReadMode.RGB) for j in jpegs])
    top, left, height, width = RandomResizedCrop.get_params(frames, (0.5, 1.0), (3 / 4, 4 / 3))
    frames = functional.resized_crop(frames, top, left, height, width, [SIZE, SIZE], BICUBIC, antialias=True)
    if random.random() < 0.5:
        frames = frames.flip(-1)
    return (frames.float().div_(255) - MEAN) / STD


def spectrogram(values):
    mel = torch.zeros(MEL_FRAMES, 128)
    mel[: len(values)] = torch.from_numpy(values)[:MEL_FRAMES]
    return (mel + 4.2677393) / (2 * 4.5689974)


def sample(values, jpegs, label):
    return spectrogram(values), pixels([jpegs[i] for i in sorted(random.sample(range(len(jpegs)), 3))]), label


class Rows(Dataset):
    """The rows of Hugging Face datasets."""

    def __init__(self, files, cache):
        from datasets import Image, List, load_dataset

        rows = load_dataset("parquet", data_files=files, split="train", cache_dir=cache)
        rows = rows.select_columns(["mel", "frames", "label"]).cast_column("frames", List(Image(decode=False)))
        self.rows = rows.with_format("arrow")

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return from_table(self.rows[i], 0)


class Groups(IterableDataset):
    """The rows of row groups that pyarrow reads."""

    def __init__(self, files):
        self.groups = [(f, g) for f in files for g in range(pq.ParquetFile(f).num_row_groups)]

    def __iter__(self):
        info = get_worker_info()
        order = random.Random(info.seed - info.id).sample(self.groups, len(self.groups))
        for file, group in order[info.id :: info.num_workers]:
            table = pq.ParquetFile(file).read_row_group(group, ["mel", "frames", "label"], use_threads=False).combine_chunks()
            for i in random.sample(range(len(table)), len(table)):
                yield from_table(table, i)


def from_table(table, i):
    mel, frames = table["mel"][i].values, table["frames"][i].values
    values = mel.flatten().to_numpy(zero_copy_only=False).reshape(-1, 128)
    return sample(values.astype(np.float32, copy=False), frames.field("bytes").to_pylist(), table["label"][i].as_py())


def main():
    how, folder = sys.argv[1:3]
    files = sorted(map(str, Path(folder).glob("train-*.parquet")))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as cache:
        data, shuffle = (Rows(files, cache), True) if how == "datasets" else (Groups(files), None)
        loader = DataLoader(data, BATCH, shuffle=shuffle, num_workers=WORKERS, persistent_workers=True)
        count = sum(pq.ParquetFile(f).metadata.num_rows for f in files)

        def unit():
            seen = 0
            for mel, frames, _ in loader:
                assert frames.shape[1:] == (3, 3, SIZE, SIZE) and mel.shape[1:] == (MEL_FRAMES, 128)
                seen += len(mel)
            assert seen == count

        serve(unit, count)


if __name__ == "__main__":
    main()
