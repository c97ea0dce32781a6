"""Batches of multimodal Parquet shards, as `train` sees them, as NumPy arrays.

>>> from u2a_features import Loader
>>> loader = Loader("data/shards/ave", split="train", batch_size=16, seed=0)
>>> for batch in loader:                     # epoch 0; the next loop is epoch 1
...     batch["audio"], batch["audio_rows"]  # float32 [n, 1024, 128], and whose they are

Threads in Rust decode ahead, without Python's global lock. The classes are described at
:class:`Shards` and :class:`Loader`.
"""

import numpy  # noqa: F401  without it the compiled part would fail in its first batch

from ._native import Batches, Loader, Shards

__all__ = ["Batches", "Loader", "Shards"]
