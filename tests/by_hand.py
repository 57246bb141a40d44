"""Eq. 7 to 15 for linear models in plain Python arithmetic: what the package must reproduce.

Nothing here uses torch or the package. A model is its weight matrix [K][D] (no bias), an image a
list of D numbers, and the gradient of the cross-entropy is (p - onehot) x.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Vector = Sequence[float]
Matrix = Sequence[Vector]
Weigh = Callable[[Vector, int], float]


def logits_of(weight: Matrix, image: Vector) -> list[float]:
    return [sum(w * x for w, x in zip(row, image, strict=True)) for row in weight]


def softmax(logits: Vector) -> list[float]:
    powers = [math.exp(logit) for logit in logits]
    return [power / sum(powers) for power in powers]


def probability_margin(logits: Vector, label: int) -> float:
    """Eq. 11."""
    p = softmax(logits)
    return p[label] - max(value for k, value in enumerate(p) if k != label)


def margin_power(alpha: float, beta: float) -> Weigh:
    """Eq. 12."""
    return lambda logits, label: alpha * (1 - probability_margin(logits, label)) ** beta


def cross_entropy_gradient(weight: Matrix, image: Vector, label: int) -> list[list[float]]:
    p = softmax(logits_of(weight, image))
    return [[(p[k] - (k == label)) * x for x in image] for k in range(len(weight))]


@dataclass(frozen=True)
class Expected:
    """Sums over the batch; ``gradient`` [K][D] belongs to ``total``."""

    total: float
    normalizer: float
    gradient: list[list[float]]
    coefficients: dict[str, list[float]]


def eq7(
    weight: Matrix,
    labels: Sequence[int],
    variants: Mapping[str, Matrix],
    clean: Matrix,
    weigh: Weigh,
    *,
    min_weight: float = 0.0,
    normalization: str = "batch",
    anchor: str,
) -> Expected:
    """Eq. 7 with Eq. 15, row by row. ``anchor``: a term's name or ``"clean"``."""
    images = {**variants, "clean": clean}
    coefficients: dict[str, list[float]] = {name: [] for name in images}
    normalizer = total = 0.0
    gradient = [[0.0] * len(weight[0]) for _ in weight]
    for i, label in enumerate(labels):
        row = {name: weigh(logits_of(weight, variants[name][i]), label) for name in variants}
        row["clean"] = 0.0
        row[anchor] += max(min_weight - sum(row.values()), 0.0)
        if normalization == "instance":
            row = {name: value / sum(row.values()) for name, value in row.items()}
        normalizer += sum(row.values()) if normalization == "batch" else 1.0
        for name, value in row.items():
            coefficients[name].append(value)
            image = images[name][i]
            total += value * -math.log(softmax(logits_of(weight, image))[label])
            for k, part in enumerate(cross_entropy_gradient(weight, image, label)):
                gradient[k] = [a + value * b for a, b in zip(gradient[k], part, strict=True)]
    return Expected(total, normalizer, gradient, coefficients)
