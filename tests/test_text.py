"""Text that others wrote is bounded and obeyed by no terminal."""

import pytest

from lrat.text import (
    cut,
    listed,
    number,
    percent,
    reason,
    short_p,
    shown,
    signed,
    to_markdown,
    visible,
    written_p,
)


class _Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("given", "printed"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("over\rwritten\x08", r"over\x0dwritten\x08"),
        ("\x9b2J", r"\x9b2J"),
        ("gnp.\u202eexe", r"gnp.\u202eexe"),
        ("läufe\t日本\n", "läufe\t日本\n"),
    ],
)
def test_control_characters_are_written_out_and_all_others_stay(given: str, printed: str) -> None:
    assert visible(given) == printed


@pytest.mark.parametrize(
    "value",
    ["x" * 10**6, [[0] * 1000] * 1000, 1 << 20_000, _Unprintable()],
    ids=["long", "large", "many digits", "without a text"],
)
def test_whatever_a_value_is_its_text_is_short(value: object) -> None:
    assert 1 < len(shown(value)) <= 100
    assert len(cut("x" * 1000)) == 100


def test_a_reason_is_one_line_and_never_empty() -> None:
    assert reason(ValueError()) == "ValueError"
    assert reason(ValueError("a\n  b\x1b")) == r"a b\x1b"
    assert reason(FileNotFoundError(2, "No such file", "x")) == "No such file"
    assert len(reason(ValueError("x" * 10**6))) <= 300


def test_shares_and_p_values_are_numbers_or_a_dash() -> None:
    assert (percent(0.5114), percent(0.0), percent(None)) == ("51.1 %", "0.0 %", "–")
    assert (written_p(0.04312), written_p(1e-5), written_p(None)) == ("0.0431", "<.0001", "–")


@pytest.mark.parametrize(
    ("p", "written"),
    [(0.031, ".031"), (0.00002, "< .0001"), (0.00042, ".0004"), (1.0, "1"), (None, "–")],
)
def test_p_values(p: float | None, written: str) -> None:
    assert short_p(p) == written


@pytest.mark.parametrize(
    ("value", "written"), [(0.083, "+8.3"), (-0.149, "−14.9"), (-0.0001, "0.0"), (None, "–")]
)
def test_points_have_a_sign(value: float | None, written: str) -> None:
    assert signed(value) == written


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (1437, "1,437"),
        (15.44, "15.4"),
        (0.0312, "0.0312"),
        (554.83, "554.8"),
        (-0.004, "−0.004"),
        (-0.0, "0"),
        (-1234.5, "−1,234"),
    ],
)
def test_numbers(value: float, written: str) -> None:
    assert number(value) == written


def test_many_names_are_shortened() -> None:
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(list("abcdefgh")) == "a, b, c, d and 4 more"


def test_markdown_aligns_and_escapes() -> None:
    assert to_markdown([["", "a|b"], ["x|y", "1"]]) == (
        "|  | a\\|b |\n| --- | ---: |\n| x\\|y | 1 |\n"
    )
