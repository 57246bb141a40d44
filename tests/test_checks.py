"""What arguments must be: plain Python out, one line for anything else."""

import re
from enum import IntEnum
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from experiments.commands import python
from lrat.checks import ARGUMENTS, FLAG, MODULE, PATH, Rule
from lrat.errors import SettingError
from lrat.text import shown
from lrat.threat import BALL, L2, Linf, as_ball, parse

WHOLE, NUMBER = ARGUMENTS["epochs"], ARGUMENTS["lr"]


class Level(IntEnum):
    LOW = 3


@pytest.mark.parametrize(
    "value", [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3), Level.LOW], ids=repr
)
def test_whole_numbers_of_any_kind_become_plain_ones(value: Any) -> None:
    taken = WHOLE("epochs", value)
    assert type(taken) is int
    assert taken == 3


@pytest.mark.parametrize(
    "value", [0.5, np.float64(0.5), np.float32(0.5), torch.tensor(0.5), Fraction(1, 2)], ids=repr
)
def test_numbers_of_any_kind_become_plain_ones(value: Any) -> None:
    taken = NUMBER("lr", value)
    assert type(taken) is float
    assert taken == 0.5


def test_what_is_plain_prints_as_it_did() -> None:
    """Stored runs are known by these texts."""
    assert repr(Linf(epsilon=1)) == "Linf(epsilon=1, tolerance=1e-06)"
    assert repr(Linf(epsilon=np.float64(0.5))) == "Linf(epsilon=0.5, tolerance=1e-06)"


NO_NUMBERS = [True, np.bool_(True), torch.tensor(True), "3", b"3", None, [3], (3,), {}, object]
NO_NUMBERS += [3j, float("nan"), float("inf"), np.array([3, 4]), torch.ones(2), int, 10**400]


@pytest.mark.parametrize("value", NO_NUMBERS, ids=shown)
def test_what_is_no_number_is_refused_in_a_line(value: Any) -> None:
    rules = {"lr": NUMBER} if type(value) is int else {"lr": NUMBER, "epochs": WHOLE}
    for name, rule in rules.items():
        with pytest.raises(SettingError) as caught:
            rule(name, value)
        message = str(caught.value)
        assert re.match(
            rf"{name}=.*: must be a (whole|finite) number >=? [01], as {name}=", message
        )
        assert "\n" not in message
        assert len(message) < 250


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        (WHOLE, 1.5),
        (WHOLE, 2.0),
        (WHOLE, np.float32(2)),
        (WHOLE, 0),
        (WHOLE, torch.tensor(2.0)),
        (NUMBER, 0),
        (NUMBER, -1.0),
        (ARGUMENTS["validation"], 1),
        (ARGUMENTS["ema"], -0.1),
        (ARGUMENTS["drops"], [0.5]),
        (ARGUMENTS["drops"], {0.5: "0.1"}),
        (ARGUMENTS["drops"], {0: 0.1}),
        (ARGUMENTS["saa_keep"], {6: 1.5}),
        (FLAG, "no"),
        (FLAG, 2),
        (FLAG, None),
        (PATH, ""),
        (PATH, "  "),
        (PATH, b"runs"),
        (PATH, 3),
        (PATH, "a\0b"),
        (MODULE, nn.Linear),
        (MODULE, print),
        (MODULE, {"weight": torch.zeros(2, 2)}),
        (MODULE, nn.Linear(2, 2, device="meta")),
        (MODULE, nn.LazyLinear(2)),
        (BALL, 0.1),
        (BALL, "linf:x"),
        (BALL, Linf),
        (BALL, None),
    ],
)
def test_other_values_are_refused_in_a_line(rule: Rule, value: Any) -> None:
    with pytest.raises(SettingError, match=r"^[^\n]{5,400}$"):
        rule("name", value)


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**400, np.uint64(2**63)])
def test_a_whole_number_beyond_what_records_hold_is_refused(value: Any) -> None:
    for name in ("limit", "seed"):
        with pytest.raises(SettingError, match=rf"^{name}=\S+: must be below 2\^63"):
            ARGUMENTS[name](name, value)
    assert ARGUMENTS["seed"]("seed", 2**63 - 1) == 2**63 - 1


@pytest.mark.parametrize("text", ["linf:nan", "linf:inf", "l2:1e999", "l2:-nan", "linf:-inf"])
def test_a_threat_of_no_number_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match=r"^[^\n]+$"):
        parse(text)


@pytest.mark.parametrize("value", ["runs", Path("runs/a"), "läufe"])
def test_paths_come_back_as_they_are(value: Any) -> None:
    assert PATH("out", value) == value


def test_messages_show_values_in_a_line_without_the_contents_of_tensors() -> None:
    state = {"weight": torch.full((40, 40), 0.25), "bias": torch.full((40,), 0.25)}
    for value in (
        state,
        torch.full((50, 50), 0.25),
        "x" * 500,
        nn.Sequential(*[nn.ReLU()] * 90),
        [state],
    ):
        assert len(shown(value)) <= 100
        assert "\n" not in shown(value)
        assert "0." not in shown(value)


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError


def test_a_value_that_cannot_be_printed_is_named_by_its_class() -> None:
    assert "Unprintable" in shown(Unprintable())


@pytest.mark.parametrize(
    "ball", [Linf(epsilon=8 / 255), L2(epsilon=0.5), Linf(epsilon=0.123456789)]
)
def test_the_text_of_a_ball_is_that_ball(ball: Any) -> None:
    assert parse(ball.text) == as_ball(ball.text) == ball
    assert as_ball(ball) is ball


CONSTRUCTORS = """
import torch
from lrat.attacks import *
from lrat.attacks.cascade import Restarts
from lrat.attacks.wrappers import LogitScaled, Transfer
from lrat.data import CropAndFlip
from lrat.errors import LratError
from lrat.evaluation import Member, Suite, custom, quick, tier
from lrat.losses import cross_entropy
from lrat.methods import Simulated, sat
from lrat.objectives import *
from lrat.text import shown
from lrat.threat import L2, Linf
from lrat.training import Optimisation, Watch
from lrat.training.schedules import Cosine, OneCycle, Piecewise, WarmUp
from lrat.weighting import GeometryTanh, MarginPower

T = "linf:8/255"
ball = Linf(epsilon=8 / 255)
assert PGD(threat=T, steps=2, step_size=0.1) == PGD(threat=ball, steps=2, step_size=0.1)
for make in (SAA, APGD, FAB, Square, FGSM, AutoAttack, quick, Simulated):
    assert repr(make(threat=T)) == repr(make(threat=ball)), make
assert Suite(name="a", threat=T, members=quick(T).members).threat == ball
p = PGD(threat=T, steps=2, step_size=0.1)
wrong = {wrong}
for line in wrong:
    try:
        eval(line)
    except LratError as error:
        assert len(str(error).splitlines()) == 1 and len(str(error)) < 400, line
    except Exception as error:
        print(line, repr(error))
    else:
        print(line, "is accepted")
"""
WRONG = [
    *(f"{kind}(epsilon={value})" for kind in ("Linf", "L2") for value in ("'1'", "True", "None")),
    "Linf(epsilon=torch.rand(3))",
    "Linf(epsilon='8/255')",
    *(f"PGD(threat=T, steps={value}, step_size=0.1)" for value in ("'5'", "1.0", "True", "None")),
    "PGD(threat=.1, steps=1, step_size=0.1)",
    "PGD(threat='8/255', steps=1, step_size=0.1)",
    "PGD(threat=Linf, steps=1, step_size=0.1)",
    "PGD(threat=T, steps=1, step_size='0.1')",
    "PGD(threat=T, steps=1, step_size=0.1, start='normal')",
    "PGD(threat=T, steps=1, step_size=0.1, start=3)",
    "PGD(threat=T, steps=1, step_size=0.1, loss=3)",
    "CW(threat=3, steps=1, step_size=0.1)",
    "FGSM(threat=None)",
    "SAA(threat=T, targets='3')",
    "SAA(threat=T, keep=[6])",
    "SAA(threat=T, keep={6: '1'})",
    "AutoAttack(threat=T, retire='no')",
    "APGD(threat=T, restarts=1.0)",
    "APGD(threat=T, choice='best')",
    "APGD(threat=T, stacked='yes')",
    "FAB(threat=T, targets='9')",
    "FAB(threat=T, targets=None)",
    "FAB(threat=T, alpha_max='a')",
    "Square(threat=T, queries=1.0)",
    "Square(threat=T, p_init=None)",
    "Cascade(members=[p])",
    "Cascade(members={'a': 3})",
    "Restarts(attack=p, count='2')",
    "Restarts(attack=PGD, count=2)",
    "LogitScaled(attack=p, scale=True)",
    "Transfer(attack=p, source=3, name='a')",
    "Simulated(threat=T, steps='10')",
    "Term(name=3, attack=p)",
    "Term(name='a', attack=p, weighting=2.0)",
    "Term(name='a', attack=p, weighting=MarginPower)",
    "Reweighted(terms=p)",
    "Reweighted(terms=[p])",
    "Reweighted(terms=[Term(name='a', attack=p)], min_weight='0.1')",
    "Reweighted(terms=[Term(name='a', attack=p)], normalization='all')",
    "Trades(attack_with=p, beta='6')",
    "Trades(attack_with=p, beta=True)",
    "phases([0.0, 0.3])",
    "phases({'0': sat(Simulated(threat=T))})",
    "phases({0.0: p})",
    "MarginPower(alpha='2')",
    "MarginPower(beta=None)",
    "GeometryTanh(lambda_='-1')",
    "CropAndFlip(padding=1.5)",
    "CropAndFlip(flip='left')",
    "Optimisation(epochs='3')",
    "Optimisation(epochs=1.5)",
    "Optimisation(epochs=1, lr=None)",
    "Optimisation(epochs=1, drops=[.5])",
    "Optimisation(epochs=1, schedule='cosine')",
    "Optimisation(epochs=1, seed='0')",
    "Piecewise([0.5])",
    "Cosine(final='0')",
    "OneCycle(peak='0.3')",
    "WarmUp(schedule='cosine', epochs=1)",
    "WarmUp(schedule=Cosine(), epochs='1')",
    "Watch(monitor_every=0.5)",
    "Member(name=3, attack=p)",
    "Member(name='a', attack=3)",
    "Suite(name='a', threat=T, members=())",
    "Suite(name='a', threat=T, members=(p,))",
    "Suite(name='a', threat=3, members=quick(T).members)",
    "custom(T, {3: p})",
    "custom(T, {})",
    "custom(T, [p])",
    "tier(T, 'ten')",
]


def test_constructors_take_texts_of_threats_and_refuse_other_types_in_a_line() -> None:
    """In a process without the tests' type checker, which refuses them too."""
    assert python(CONSTRUCTORS.replace("{wrong}", repr(WRONG))) == ""
