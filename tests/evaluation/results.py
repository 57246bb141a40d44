"""Evaluations with chosen verdicts."""

import numpy as np

from lrat.evaluation import EvaluationResult, Outcomes


def result(
    robust, *, labels=None, first=0, seed=0, threat="Linf(epsilon=8/255)", attacks=None, **identity
):
    """A result whose images are robust where ``robust`` is true, per attack."""
    count = len(next(iter(robust.values())))
    labels = np.zeros(count) if labels is None else labels
    parts = []
    for name, right in {"natural": np.ones(count, dtype=bool), **robust}.items():
        columns = dict.fromkeys(
            ("margin_clean", "margin", "step", "source", "forwards", "backwards", "distance"),
            np.zeros(count),
        )
        parts.append(
            Outcomes.from_columns(
                columns
                | {
                    "index": np.arange(first, first + count),
                    "label": labels,
                    "attack": np.full(count, name),
                    "fooled": ~right,
                    "prediction": np.where(right, labels, labels + 1),
                }
            )
        )
    settings = {"suite": "s", "threat": threat, "tolerance": 1e-6, "seed": seed}
    attacks = attacks or dict.fromkeys(robust, "settings")
    return EvaluationResult(
        outcomes=Outcomes.concatenate(parts), identity={**settings, "attacks": attacks, **identity}
    )


def assert_equal_outcomes(one, other):
    """Both results say the same of every image, up to rounding where they store numbers."""
    for name, column in one.outcomes.columns().items():
        compared = other.outcomes.columns()[name]
        if column.dtype.kind == "f":
            np.testing.assert_allclose(compared, column, atol=1e-5)
        else:
            np.testing.assert_array_equal(compared, column)
