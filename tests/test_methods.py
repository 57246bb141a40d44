"""Every method's recipe: its terms, the paper's settings of its attacks, and how it prints."""

import dataclasses
from typing import Any

import pytest

import lrat.attacks
import lrat.losses
import lrat.objectives
import lrat.threat
import lrat.weighting
from lrat.attacks import APGD, FGSM, PGD
from lrat.errors import SettingError, UnknownNameError
from lrat.methods import LocalSettings, Simulated, gairat, gd, lsat, natural, sat
from lrat.methods import lrat as lrat_method
from lrat.objectives import Phases, Reweighted, Term, Trades
from lrat.threat import L2, Linf
from lrat.weighting import GeometryTanh, MarginPower, Uniform
from recipes import NAMES, recipes

THREAT = Linf(epsilon=8 / 255)
SIMULATED = Simulated(threat=THREAT)
METHODS = recipes(SIMULATED)
MARGIN = MarginPower(alpha=2.0, beta=0.5)
STEPS = GeometryTanh(lambda_=-1.0)

TERMS: dict[str, list[tuple[str, Any]]] = {
    "sat": [("pgd", Uniform())],
    "lsat-cw": [("cw", Uniform())],
    "lsat-saa": [("saa", Uniform())],
    "lsat-saa+cw": [("saa", Uniform()), ("cw", Uniform())],
    "lrat-pgd": [("pgd", MARGIN)],
    "lrat-cw": [("cw", MARGIN)],
    "lrat-saa": [("saa", MARGIN)],
    "lrat-saa+cw": [("saa", MARGIN), ("cw", MARGIN)],
    "pgd+fgsm": [("pgd", Uniform()), ("fgsm", Uniform())],
}
PHASED: dict[str, list[tuple[str, Any]]] = {
    "gairat": [("pgd", STEPS)],
    "gairat-cw": [("cw", STEPS)],
    "gd+cw": [("cw", MARGIN), ("pgd", STEPS)],
    "gd+saa": [("saa", MARGIN), ("pgd", STEPS)],
    "saa+cw+gd": [("saa", MARGIN), ("cw", MARGIN), ("pgd", STEPS)],
}


def described(objective: Reweighted) -> list[tuple[str, Any]]:
    return [(term.name, term.weighting) for term in objective.terms]


def objectives_of(method: Any) -> list[Reweighted]:
    if isinstance(method, Phases):
        return [part for _, part in method.starts if isinstance(part, Reweighted)]
    return [method] if isinstance(method, Reweighted) else []


def every_term() -> list[tuple[str, Term]]:
    return [
        (name, term)
        for name, method in METHODS.items()
        for objective in objectives_of(method)
        for term in objective.terms
    ]


def test_all_names_have_a_recipe() -> None:
    assert list(METHODS) == NAMES
    assert {*TERMS, *PHASED, "natural", "trades"} == set(NAMES)


@pytest.mark.parametrize("name", TERMS)
def test_terms(name: str) -> None:
    assert described(METHODS[name]) == TERMS[name]


@pytest.mark.parametrize("name", PHASED)
def test_phases_weigh_by_steps_after_thirty_percent(name: str) -> None:
    method = METHODS[name]
    assert [start for start, _ in method.starts] == [0.0, 0.3]
    early, late = objectives_of(method)
    assert described(late) == PHASED[name]
    *others, (counted, _) = PHASED[name]
    assert described(early) == [*others, (counted, Uniform())]


@pytest.mark.parametrize("name", [*TERMS, *PHASED])
def test_floor_and_normalization(name: str) -> None:
    """The paper's C = 0.1 wherever margins weigh; Eq. 15 everywhere."""
    for objective in objectives_of(METHODS[name]):
        assert objective.min_weight == (0.1 if name.startswith(("lrat", "gd+", "saa+")) else 0.0)
        assert objective.normalization == "batch"
        assert objective.anchor is None


def test_natural_is_the_floor_alone() -> None:
    assert natural() == Reweighted(terms=[], min_weight=1.0, anchor="clean")
    assert METHODS["natural"] == natural()


@pytest.mark.parametrize(("name", "term"), every_term(), ids=lambda part: str(part)[:20])
def test_attacks_follow_the_papers_protocol(name: str, term: Term) -> None:
    attack = term.attack
    if term.name == "saa":
        assert isinstance(attack, APGD)
        assert (attack.steps, attack.targets, attack.restarts) == (20, 3, 1)
        assert attack.loss is lrat.losses.targeted_dlr
        assert attack.choice == "best-loss"
    elif term.name == "fgsm":
        assert attack == FGSM(threat=THREAT, start="uniform")
        return
    else:
        assert isinstance(attack, PGD)
        assert attack.steps == 10
        assert attack.step_size == pytest.approx(0.8 / 255)
        assert attack.loss is {"pgd": lrat.losses.cross_entropy, "cw": lrat.losses.cw}[term.name]
    assert attack.threat == THREAT
    assert attack.start == "uniform"


def test_trades_settings() -> None:
    method = METHODS["trades"]
    assert isinstance(method, Trades)
    assert method.beta == 6.0
    assert method.divergence is lrat.losses.kl
    attack = method.attack_with
    assert isinstance(attack, PGD)
    assert (attack.steps, attack.start, attack.threat) == (10, "gaussian", THREAT)
    assert attack.step_size == pytest.approx(0.8 / 255)
    assert attack.loss is lrat.losses.kl


def test_simulated_attacks_can_be_changed_for_all_methods_at_once() -> None:
    other = Simulated(threat=L2(epsilon=0.5), steps=7, step_size=0.1, saa_steps=9, saa_targets=2)
    saa, cw = (term.attack for term in lrat_method(other).terms)
    assert (saa.steps, saa.targets, saa.threat) == (9, 2, L2(epsilon=0.5))
    assert (cw.steps, cw.step_size, cw.threat) == (7, 0.1, L2(epsilon=0.5))


def test_settings_of_lrat_reach_the_objective() -> None:
    objective = lrat_method(
        SIMULATED,
        ["cw", "pgd"],
        settings=LocalSettings(
            alpha=1.0, beta=3.0, min_weight=0.4, normalization="instance", anchor="clean"
        ),
    )
    assert described(objective) == [(n, MarginPower(alpha=1.0, beta=3.0)) for n in ("cw", "pgd")]
    assert (objective.min_weight, objective.normalization) == (0.4, "instance")
    assert objective.anchor == "clean"


def test_settings_of_gairat_reach_the_objective() -> None:
    method = gairat(SIMULATED, lambda_=0.0, begin=0.6)
    assert [start for start, _ in method.starts] == [0.0, 0.6]
    assert described(objectives_of(method)[1]) == [("pgd", GeometryTanh(lambda_=0.0))]


def test_gairat_without_a_bootstrap_weighs_from_the_start() -> None:
    (only,) = objectives_of(gairat(SIMULATED, begin=0.0))
    assert described(only) == [("pgd", STEPS)]


def test_sat_is_lsat_with_pgd() -> None:
    assert sat(SIMULATED) == lsat(SIMULATED, "pgd")


@pytest.mark.parametrize("name", NAMES)
def test_printed_as_its_own_configuration(name: str) -> None:
    names: dict[str, Any] = {}
    for module in (
        lrat.attacks, lrat.losses, lrat.objectives, lrat.threat, lrat.weighting
    ):  # fmt: skip
        names |= {each: getattr(module, each) for each in dir(module)}
    assert eval(repr(METHODS[name]), names) == METHODS[name]  # noqa: S307


@pytest.mark.parametrize("name", NAMES)
def test_frozen(name: str) -> None:
    method: Any = METHODS[name]
    for part in (method, *(term for each in objectives_of(method) for term in each.terms)):
        field = dataclasses.fields(part)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, field, None)


def test_two_recipes_are_equal_values() -> None:
    assert recipes(SIMULATED) == recipes(Simulated(threat=Linf(epsilon=8 / 255)))


def test_refuses_unknown_attacks() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'saa'"):
        lsat(SIMULATED, "sa")


def test_refuses_an_attack_counted_twice() -> None:
    with pytest.raises(SettingError, match="names must differ"):
        gd(SIMULATED, ["pgd"])


def test_refuses_steps_survived_of_saa() -> None:
    with pytest.raises(SettingError, match="needs steps_survived"):
        gairat(SIMULATED, "saa")
