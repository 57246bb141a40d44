"""An accuracy over several training seeds, with an interval that knows of seeds and of images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lrat.config.catalogue import FOLD_OVERLAP
from lrat.evaluation import mean_interval, wilson

Basis = Literal["images", "seeds", "seeds and images"]


@dataclass(frozen=True, kw_only=True)
class SeededShare:
    """The share of all images tested with all seeds, a fraction, with a 95 % interval.

    ``n``: images of one seed, or of all seeds together where each tests others; ``values``: the
    share of each seed; ``deviation``: their standard deviation, None for one seed. ``basis`` of the
    interval:

    * ``images``: Wilson's, for the one model that was measured;
    * ``seeds``: Student's t over seeds that test different images, whose values differ by both,
      corrected for the training images that folds share (Nadeau & Bengio 2003);
    * ``seeds and images``: Student's t over seeds that test the same images, joined with Wilson's
      over these (see ``lrat.evaluation.comparison.seeds``).
    """

    value: float
    low: float
    high: float
    n: int
    values: tuple[float, ...]
    deviation: float | None
    basis: Basis


def over_seeds(counts: Sequence[tuple[int, int]], *, same_images: bool) -> SeededShare:
    """From (right, tested) of each seed; ``same_images``: whether all seeds test the same, and are
    no folds."""
    right, tested = sum(count for count, _ in counts), sum(n for _, n in counts)
    values = tuple(count / n for count, n in counts)
    value = right / tested
    n = counts[0][1] if same_images else tested
    images = wilson(round(value * n), n)
    if same_images:
        mean = mean_interval(values, images=images)
    else:
        mean = mean_interval(values, overlap=FOLD_OVERLAP)
    low, high = images.low, images.high
    basis: Basis = "images"
    # Of one seed, or of seeds without any spread, what remains is the images'.
    if mean.deviation and mean.low is not None and mean.high is not None:
        basis = "seeds and images" if same_images else "seeds"
        low = max(0.0, value - (mean.value - mean.low))
        high = min(1.0, value + (mean.high - mean.value))
    return SeededShare(
        value=value, low=low, high=high, n=n, values=values, deviation=mean.deviation, basis=basis
    )
