"""Text that others wrote is bounded and obeyed by no terminal."""

import pytest

from lrat.text import cut, percent, reason, shown, visible, written_p


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
