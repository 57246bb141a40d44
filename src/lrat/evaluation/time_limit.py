"""Evaluations with a time limit."""

import time
from collections.abc import Callable, Iterable, Iterator

from lrat.errors import SettingError
from lrat.types import Batch

_FIRST = 32
_SHARE = 1 / 16


class OutOfTimeError(Exception):
    """The time limit of an evaluation has passed."""


class NothingFinishedError(SettingError):
    """The time limit passed before the first images were done with every attack."""

    @classmethod
    def within(cls, seconds: float) -> "NothingFinishedError":
        return cls(
            f"no image was finished within {seconds:g} seconds: allow more, or fewer images at once"
        )


def growing(
    batches: Iterable[Batch], seconds: float, attacked: Callable[[], int]
) -> Iterator[Batch]:
    """The images of ``batches`` in order, in pieces that begin with 32 and grow up to a batch.

    A block that is not done in time is missing in the result, and the time is checked between
    chunks alone, so a block should take a small share of the time: the size of pieces doubles while
    one takes less than a sixteenth of ``seconds``. ``attacked`` counts the images without stored
    outcomes; pieces of stored ones do not show the speed.
    """
    size = _FIRST
    for batch in batches:
        first = 0
        while first < len(batch):
            piece = batch.select(slice(first, first + size))
            first += len(piece)
            start, before = time.monotonic(), attacked()
            yield piece
            if attacked() > before and time.monotonic() - start < seconds * _SHARE:
                size *= 2
