"""Digests of code that comes from Python: what changes them, and what must not."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from torch import Tensor, nn

from lrat.attacks import PGD
from lrat.config.fingerprints import code_digest, own_functions
from lrat.evaluation import adaptive, custom, quick
from lrat.losses import cw
from lrat.threat import Linf

BALL = Linf(epsilon=0.1)


def defined(source: str, name: str = "mine") -> Callable[..., Any]:
    """What a user's notebook cell defines."""
    cell: dict[str, Any] = {"__name__": "__main__"}
    exec(source, cell)  # noqa: S102 - written in this file
    return cell[name]


PLAIN = "def mine(model, images, labels):\n    return images + 0.1\n"
HELPED = (
    "SCALE = 2\ndef helper(x):\n    return x * SCALE\ndef mine(a, b, c):\n    return helper(b)\n"
)
CLOSED = """
def make(by):
    def mine(a, b, c):
        return b + by
    return mine
mine = make(0.1)
"""
CLASS = "class mine:\n    by = 1\n    def __call__(self, a, b, c):\n        return b + self.by\n"


@pytest.mark.parametrize(
    ("source", "changes"),
    [
        (PLAIN, ("0.1", "0.2")),
        (PLAIN, ("images +", "images -")),
        (PLAIN, ("return images", "return labels")),
        (HELPED, ("x * SCALE", "x / SCALE")),
        (HELPED, ("SCALE = 2", "SCALE = 3")),
        (CLOSED, ("make(0.1)", "make(0.2)")),
        (CLASS, ("by = 1", "by = 2")),
        (CLASS, ("b +", "b -")),
        (PLAIN, ("labels):", "labels, more=1):")),
    ],
)
def test_other_code_has_another_digest(source: str, changes: tuple[str, str]) -> None:
    assert code_digest(defined(source)) == code_digest(defined(source))
    assert code_digest(defined(source)) != code_digest(defined(source.replace(*changes)))


def test_where_code_stands_does_not_matter() -> None:
    assert code_digest(defined(PLAIN)) == code_digest(defined(f"# a comment\n\n{PLAIN}"))


def test_functions_that_name_each_other_end() -> None:
    source = "def mine(n):\n    return other(n)\ndef other(n):\n    return mine(n - 1)\n"
    assert len(code_digest(defined(source))) == 12


@dataclass(frozen=True)
class Stepping:
    """An attack of a user's, with a function inside."""

    inner: Callable[..., Any]

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return self.inner(model, images, labels)


def test_our_own_attacks_and_losses_are_not_told() -> None:
    assert own_functions(quick(BALL)) == ""
    assert own_functions(quick(BALL).with_members(*adaptive(BALL, cw))) == ""


@pytest.mark.parametrize(
    "wrap",
    [
        lambda mine: mine,
        partial,
        Stepping,
        lambda mine: PGD(threat=BALL, steps=1, step_size=0.1, loss=mine),
    ],
)
def test_a_function_is_found_wherever_it_is(wrap: Callable[[Any], Any]) -> None:
    mine = defined(PLAIN)
    told = own_functions(custom(BALL, {"attack": wrap(mine)}))
    assert f"mine {code_digest(mine)}" in told
