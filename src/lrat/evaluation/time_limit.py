"""Evaluations whose time may end before their images do."""

import time
from collections.abc import Callable, Iterable, Iterator

from lrat.errors import SettingError
from lrat.types import Batch

_FIRST = 32
_SHARE = 1 / 16


class OutOfTimeError(Exception):
    """The time that an evaluation may take is over."""


class NothingFinishedError(SettingError):
    """The time was over before the first images were done with every attack."""

    @classmethod
    def within(cls, seconds: float) -> "NothingFinishedError":
        return cls(
            f"no image was finished within {seconds:g} seconds: allow more, or fewer images at once"
        )


def growing(
    batches: Iterable[Batch], seconds: float, attacked: Callable[[], int]
) -> Iterator[Batch]:
    """The images of ``batches`` in order, in pieces that begin with 32 and grow up to a batch.

    What is not done at the end of a block is lost to the result, and the clock is read between
    chunks alone, so that a block should take a small share of the time: the pieces double while one
    takes less than a sixteenth of ``seconds``. ``attacked`` counts the images that took time
    because nothing was known of them; what is read back says nothing about the pace.
    """
    size = _FIRST
    for batch in batches:
        start = 0
        while start < len(batch):
            piece = _rows(batch, start, start + size)
            start += len(piece)
            began, before = time.monotonic(), attacked()
            yield piece
            took = time.monotonic() - began
            if attacked() > before and took < seconds * _SHARE:
                size *= 2


def _rows(batch: Batch, first: int, stop: int) -> Batch:
    return Batch(
        images=batch.images[first:stop],
        labels=batch.labels[first:stop],
        index=batch.index[first:stop],
    )
