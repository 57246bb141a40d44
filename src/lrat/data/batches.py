"""Batches from memory: shuffled and resumable for training, in order for evaluation."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrat.checks import FLAG, FUNCTION, checked, instance, optional
from lrat.data.arrays import ImageData
from lrat.data.augment import Augmentation
from lrat.errors import CheckpointError, LratError, SettingError
from lrat.outputs import is_memory_error
from lrat.randomness import Keyed, keys
from lrat.text import in_one_line, shown
from lrat.types import Batch


class InMemory:
    """A ``BatchSource`` over ``data``, which stays on ``device`` as uint8 until a batch needs it.

    Each ``iter()`` is an epoch, whose last batch may be short. The order follows from (seed, epoch)
    and each image's index, the augmentation from (seed, epoch, index): another source with the same
    arguments gives the same batches. ``state_dict`` counts the latest batch as done; an ``iter()``
    continues at the state, so after an interruption or a restored state in the middle of an epoch
    it yields the remaining batches, once. There can be one iteration at a time. Raises SettingError
    for a batch size below 1, CheckpointError for a state that does not fit.
    """

    @checked(
        data=instance(ImageData, need="an ImageData", example="image_data(images, labels)"),
        augmentation=optional(FUNCTION),
        shuffle=FLAG,
    )
    def __init__(
        self,
        data: ImageData,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        augmentation: Augmentation | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self._data = data.to(device)
        self._batch_size = batch_size
        self._shuffle = shuffle
        self._augmentation = augmentation
        self._noise = Keyed(keys(seed, self._data.index)).child("data")
        self._epoch = 0
        self._position = 0

    @property
    def size(self) -> int:
        """Images per epoch."""
        return len(self._data)

    def __iter__(self) -> Iterator[Batch]:
        noise = self._noise.child(self._epoch)
        order = self._order(noise)
        while self._position < self.size:
            rows = order[self._position : self._position + self._batch_size]
            self._position += len(rows)
            yield self._batch(rows, noise)
        self._epoch += 1
        self._position = 0

    def state_dict(self) -> dict[str, Any]:
        """``epoch`` from 0 and ``position``: the number of its images in the batches so far."""
        return {"epoch": self._epoch, "position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        epoch, position = state.get("epoch"), state.get("position")
        if not isinstance(epoch, int) or not isinstance(position, int):
            raise CheckpointError(f"state {state} of a batch source must hold epoch and position")
        if epoch < 0 or not 0 <= position <= self.size:
            raise CheckpointError(
                f"state {state} does not fit {self._data.name} with {self.size} images: "
                "it was saved with other data"
            )
        self._epoch, self._position = epoch, position

    def _order(self, noise: Keyed) -> Tensor:
        if not self._shuffle:
            return torch.arange(self.size, device=self._data.labels.device)
        return noise.uniform((self.size,), "order").argsort(stable=True)

    def _batch(self, rows: Tensor, noise: Keyed) -> Batch:
        batch = self._data.batch(rows, self._data.images.device)
        if self._augmentation is None:
            return batch
        kind = f"augmentation={shown(self._augmentation)}"
        called = "it is called with (images, noise) and must return images"
        try:
            images = self._augmentation(batch.images, noise.select(rows).child("augmentation"))
        except Exception as error:
            if isinstance(error, LratError) or is_memory_error(error):
                raise
            raise SettingError(f"{kind} fails: {in_one_line(error)}; {called}") from error
        if (
            not isinstance(images, Tensor)
            or images.shape[:2] != batch.images.shape[:2]
            or not images.is_floating_point()
        ):
            raise SettingError(
                f"{kind} returned {shown(images)} for {shown(batch.images)}; {called}"
            )
        return Batch(images=images.detach().float(), labels=batch.labels, index=batch.index)


@dataclass(frozen=True, kw_only=True)
class InOrder:
    """Every image once, in order; each ``iter()`` starts again. See ``in_order``."""

    data: ImageData
    batch_size: int
    device: torch.device | str

    @property
    def size(self) -> int:
        """The number of images."""
        return len(self.data)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, self.size, self.batch_size):
            yield self.data.batch(slice(start, start + self.batch_size), self.device)


@checked()
def in_order(data: ImageData, *, batch_size: int, device: torch.device | str = "cpu") -> InOrder:
    """Every image once, in order, as float32 batches on ``device``; the last may be short."""
    return InOrder(data=data, batch_size=batch_size, device=device)
