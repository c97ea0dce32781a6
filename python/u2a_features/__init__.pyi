import os
from typing import Any, Iterator, Optional, Union

Batch = dict[str, Any]
"""A batch. Inputs are there for the samples that have them: row ``i`` of ``audio`` belongs to sample
``audio_rows[i]`` of the batch. An input that no sample of the batch has is no key. INPUT stands for
a name of ``Shards.modalities``: ``audio``, ``video``, ``image`` or ``text``, or two of one kind such
as ``image_a`` and ``image_b``.

``id``: list of str, the samples.
``label``: int64 [samples], the class. Of single-label data.
``labels``: float32 [samples, classes], 1 for each label. Of multi-label data.
``has_INPUT``: bool [samples], whether the sample has it, and the mask shows it.
``INPUT_rows``: int64 [n], ascending.
``audio``: float32 [n, mel_frames, 128], log-mel, padded and normalized as AST does it.
``video``: float32 [n, frames, 3, image_size, image_size], normalized as CLIP does it.
``image``: float32 [n, 1, 3, image_size, image_size].
``text``: int64 [n, text_length], ids of word pieces, padded with 0.
``text_lengths``: int64 [n], the word pieces of each text, [CLS] and [SEP] included.
"""

class Shards:
    """A folder of shards: a path, or ``s3://``, ``gs://``, ``az://`` or ``http(s)://``.

    Raises OSError if it cannot be read, and ValueError if it holds no complete shards.
    """

    def __init__(self, folder: Union[str, os.PathLike[str]]) -> None: ...
    @property
    def folder(self) -> str: ...
    @property
    def modalities(self) -> list[str]:
        """The names of the inputs, such as ``["audio", "video"]`` or ``["image_a", "image_b"]``."""
    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of the labels."""
    @property
    def multi_label(self) -> bool:
        """Whether a sample has any number of labels."""
    @property
    def fingerprint(self) -> str:
        """A hash of the content, which a loader's state has in it."""
    def ids(self, split: str) -> list[str]:
        """The ids of a split's samples, in the order of the files."""

class Batches(Iterator[Batch]):
    """An iterator over the batches of one epoch. Its threads end with it."""

    def __iter__(self) -> "Batches": ...
    def __next__(self) -> Batch: ...
    def close(self) -> None:
        """Ends the iteration and its threads now."""

class Loader:
    """Batches of a split, epoch after epoch: each iteration that runs to its end is one epoch.

    The order and the augmentation are a function of (seed, epoch, ids), and the batches are those
    of the Rust trainer, bit for bit.

    shards: a folder or :class:`Shards`.
    split: ``train``, ``val`` or ``test``.
    batch_size: the samples of a batch.
    seed, epoch: of order and augmentation; ``epoch`` is that of the first iteration.
    train: random order, crops, flips and frames; by default for the split ``train`` only.
    frames: the frames of a video.
    mask: a missing-modality mask: a file, or the name of one in the shards' folder ``masks``.
    threads: the threads that decode.
    rank, world_size: this process decodes the part ``rank`` of ``world_size`` of each batch. Ids,
        labels and availability are those of the whole batch.
    vocab: the path of BERT's ``vocab.txt``, for data with text.
    text_length: the word pieces of a text, beyond which it is cut.
    image_size: the pixels of a side of images and frames.
    mel_frames: the length to which spectrograms are cut or padded.

    A copy that is pickled has the arguments and goes on at the state.
    """

    def __init__(
        self,
        shards: Union[Shards, str, os.PathLike[str]],
        split: str = "train",
        batch_size: int = 16,
        seed: int = 0,
        epoch: int = 0,
        *,
        train: Optional[bool] = None,
        frames: int = 3,
        mask: Optional[Union[str, os.PathLike[str]]] = None,
        threads: int = 2,
        rank: int = 0,
        world_size: int = 1,
        vocab: Optional[Union[str, os.PathLike[str]]] = None,
        text_length: int = 128,
        image_size: int = 224,
        mel_frames: int = 1024,
    ) -> None: ...
    def __iter__(self) -> Batches:
        """Begins the epoch, or goes on where a loaded state was."""
    def __len__(self) -> int:
        """The number of batches of a whole epoch."""
    @property
    def epoch(self) -> int:
        """The epoch that the next iteration goes through, or that the present one is in."""
    @property
    def shards(self) -> Shards: ...
    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next iteration."""
    def state_dict(self) -> dict[str, Any]:
        """The position behind the last batch that was returned, in the middle of an epoch too."""
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Makes the next iteration begin where :meth:`state_dict` was called.

        Raises ValueError if the state is of other shards, or of a loader with another split, seed,
        ``train`` or ``batch_size``.
        """
