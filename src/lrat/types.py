"""Shape aliases and the values that cross layers.

Shapes: B batch, C channels, H and W pixels, K classes. With jaxtyping installed the aliases carry
shapes that the test suite checks at run time; without it they are plain tensors, so the core needs
torch and numpy alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    Images: TypeAlias = Tensor
    """Float [B C H W], pixels in [0, 1]."""
    Labels: TypeAlias = Tensor
    """Integer [B]: classes 0..K-1, or numbers of images."""
    Logits: TypeAlias = Tensor
    """Float [B K], before any softmax."""
    PerExample: TypeAlias = Tensor
    """Float [B]: a loss, weight or margin of each image."""
    Counts: TypeAlias = Tensor
    """Integer [B]: steps or passes of each image."""
    Scalar: TypeAlias = Tensor
    """Float without dimensions."""
else:
    try:
        from jaxtyping import Float, Int
    except ImportError:
        Images = Labels = Logits = PerExample = Counts = Scalar = Tensor
    else:
        Images = Float[Tensor, "batch channels height width"]
        Labels = Int[Tensor, "batch"]
        Logits = Float[Tensor, "batch classes"]
        PerExample = Float[Tensor, "batch"]
        Counts = Int[Tensor, "batch"]
        Scalar = Float[Tensor, ""]

Classifier: TypeAlias = nn.Module
"""Any module from images [B C H W] in [0, 1] to logits [B K]; normalisation is a layer of it."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Images with their labels and their stable numbers in the data set.

    ``images`` float32 [B C H W] in [0, 1]; ``labels`` int64 [B] in 0..K-1; ``index`` int64 [B], the
    number from which all noise of an image is derived.
    """

    images: Images
    labels: Labels
    index: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: Tensor | slice) -> "Batch":
        """These rows."""
        return Batch(images=self.images[rows], labels=self.labels[rows], index=self.index[rows])

    @staticmethod
    def concatenate(parts: Sequence["Batch"]) -> "Batch":
        """The rows of all parts, at least one, in order."""
        return Batch(
            images=torch.cat([part.images for part in parts]),
            labels=torch.cat([part.labels for part in parts]),
            index=torch.cat([part.index for part in parts]),
        )

    def to(self, device: torch.device | str) -> "Batch":
        return Batch(
            images=self.images.to(device),
            labels=self.labels.to(device),
            index=self.index.to(device),
        )


@runtime_checkable
class BatchSource(Protocol):
    """The batches of training: each ``iter()`` is the next epoch, or its rest after
    ``load_state_dict``."""

    @property
    def size(self) -> int | None:
        """Images per epoch; None for a stream."""
        ...

    def __iter__(self) -> Iterator[Batch]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
