import json

import pytest

from evaluation.parts import THREAT, Calls, batches_of, images_and_labels, linear
from lrat.evaluation import custom, evaluate_suite, wilson


@pytest.fixture(scope="module")
def result():
    images, labels = images_and_labels()
    weak = Calls(epsilon=THREAT.epsilon / 4)
    suite = custom(THREAT, {"weak": weak, "strong": Calls()}, name="pair")
    return evaluate_suite(linear(), batches_of(images, labels), suite, seed=5)


def test_accuracies_are_fractions_with_wilson_intervals_natural_first(result):
    assert list(result.accuracy) == ["natural", "weak", "strong"]
    for name, share in result.accuracy.items():
        robust = int((~result.outcomes.under(name).fooled).sum())
        assert share == wilson(robust, 40)
    values = [share.value for share in result.accuracy.values()]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[2]


def test_the_worst_case_needs_every_attack(result):
    fooled = [result.outcomes.under(name).fooled for name in result.names]
    assert result.worst_case == wilson(int((~(fooled[0] | fooled[1] | fooled[2])).sum()), 40)


def test_the_summary_is_plain_json(result):
    summary = json.loads(json.dumps(result.summary(), allow_nan=False))
    assert summary == result.summary()
    assert summary["images"] == 40
    strong = result.accuracy["strong"]
    assert summary["accuracy"]["strong"] == {
        "value": strong.value,
        "low": strong.low,
        "high": strong.high,
        "n": 40,
    }
    assert summary["worst_case"]["value"] == result.worst_case.value
    assert summary["passes"]["strong"]["forwards"] == result.passes["strong"].forwards
    assert summary["identity"]["threat"] == "Linf(epsilon=16/255)"


def test_the_table_is_aligned_and_shows_percent_and_intervals(result):
    header, rule, *rows, about = str(result).splitlines()
    assert len(header) == len(rule)
    assert all(len(row) == len(rule) for row in rows)
    assert [row.split("  ")[0].strip() for row in rows] == [
        "natural",
        "weak",
        "strong",
        "worst case",
    ]
    for row, share in zip(rows, [*result.accuracy.values(), result.worst_case], strict=True):
        assert f"{100 * share.value:.2f}" in row
        assert f"{100 * share.low:.2f} - {100 * share.high:.2f}" in row
    assert "n 40, seed 5, Linf(epsilon=16/255)" in about
