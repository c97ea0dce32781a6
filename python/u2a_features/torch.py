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

    The loader has threads of its own, so that the data loader needs no worker processes. It takes
    one: several would each return all batches.
    """

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        if worker is not None and worker.num_workers > 1:
            raise ValueError(
                "each worker would return all batches; use num_workers=0 or 1, and Loader(threads=N)"
            )
        return map(tensors, self.loader)

    def __len__(self) -> int:
        return len(self.loader)

    def state_dict(self) -> dict[str, Any]:
        return self.loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loader.load_state_dict(state)
