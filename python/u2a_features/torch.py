"""A :class:`Loader` as a data set of PyTorch.

>>> from torch.utils.data import DataLoader
>>> from u2a_features import Loader
>>> from u2a_features.torch import TorchBatches
>>> batches = DataLoader(TorchBatches(Loader("data/shards/ave")), batch_size=None)
"""

from typing import Any, Iterator

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from . import Loader

__all__ = ["TorchBatches", "tensors"]


def tensors(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch with tensors in place of its arrays, on the same memory."""
    return {
        key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for key, value in batch.items()
    }


class TorchBatches(IterableDataset):
    """Iterates over a loader's batches as tensors; for ``DataLoader(..., batch_size=None)``.

    The loader decodes in threads of its own (``Loader(threads=N)``), so the data loader takes no
    worker processes (``num_workers=0``). A worker gets a copy of the loader: it would repeat the
    same epoch, and several workers would each return all batches.
    """

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if get_worker_info() is not None:
            raise ValueError(
                "a worker process would repeat the same epoch; use num_workers=0: the loader decodes "
                "in threads of its own, Loader(threads=N)"
            )
        return map(tensors, self.loader)

    def __len__(self) -> int:
        return len(self.loader)

    def state_dict(self) -> dict[str, Any]:
        return self.loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loader.load_state_dict(state)
