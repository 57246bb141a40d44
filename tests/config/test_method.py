"""A method by name and written out: one objective, and what is refused, by the key's path."""

from typing import Any

import pytest
import torch
import yaml
from torch import nn

from builders import seeded
from lrat.config import build
from lrat.config.catalogue import METHODS
from lrat.config.method import MethodSettings, MethodValue, method_as_yaml
from lrat.config.settings import RunConfig, load_config, parse_assignments
from lrat.data import InMemory, image_data
from lrat.errors import ConfigurationError, LratError
from lrat.losses import cw, smoothed_cross_entropy
from lrat.methods import Simulated
from lrat.objectives import Reweighted
from lrat.threat import L2, Linf
from lrat.training import Optimisation, train
from lrat.weighting import MarginPower
from recipes import recipes
from trained import digits

OTHERS = {"steps": 3, "step_size": 0.05, "saa_steps": 4, "saa_targets": 2}
"""The section ``attack`` of a configuration."""


def config_of(method: Any, **settings: Any) -> RunConfig:
    return load_config({"method": method}, settings)


def written_out(name: str, **settings: Any) -> dict[str, Any]:
    """The value of the method ``name`` with these of its settings, under another name."""
    value = MethodSettings(name=name, **settings).value.model_dump(mode="json")
    return {**value, "name": "mine"}


@pytest.mark.parametrize("attack", [{}, OTHERS])
@pytest.mark.parametrize("name", METHODS)
def test_by_name_by_value_and_recipes_it_is_one_objective(
    name: str, attack: dict[str, Any]
) -> None:
    by_name = build.objective(config_of({"name": name}, attack=attack, threat="l2:0.5"))
    by_value = build.objective(config_of(written_out(name), attack=attack, threat="l2:0.5"))
    assert by_value == by_name
    assert repr(by_value) == repr(by_name)
    python = recipes(Simulated(threat=L2(epsilon=0.5), **attack)).get(name)
    assert python is None or repr(python) == repr(by_name)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_printed_is_read_as_the_method_of_that_name(name: str) -> None:
    printed = yaml.safe_load(method_as_yaml(name))
    assert load_config(printed) == config_of({"name": name})
    renamed = load_config(printed, {"method": {"name": "mine"}})
    assert isinstance(renamed.method, MethodValue)
    assert renamed.method.model_dump(mode="json") == written_out(name)
    assert load_config(yaml.safe_load(renamed.to_yaml())) == renamed


@pytest.mark.parametrize("name", METHODS)
def test_by_value_it_trains_the_same_bits(name: str) -> None:
    images, labels = (part[:24] for part in digits())

    def weights(method: dict[str, Any]) -> list[torch.Tensor]:
        config = config_of(method, attack=OTHERS, threat="linf:0.2")
        model = seeded(0, lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
        source = InMemory(image_data(images, labels), batch_size=12, seed=0)
        train(model, source, build.objective(config), Optimisation(epochs=2, seed=0))
        return list(model.parameters())

    both = zip(weights({"name": name}), weights(written_out(name)), strict=True)
    assert all(torch.equal(*pair) for pair in both)


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_that_a_method_uses_is_in_its_value(name: str) -> None:
    other = {
        **{"alpha": 1.5, "beta": 0.7, "min_weight": 0.3, "normalization": "none"},
        **{"anchor": "clean", "gairat_lambda": 0.5, "gairat_begin": 0.6, "trades_beta": 2.0},
    }
    for setting in MethodSettings(name=name).takes:
        changed = MethodSettings(name=name, **{setting: other[setting]})
        assert changed.value != MethodSettings(name=name).value
        by_name = build.objective(config_of(changed.model_dump()))
        assert build.objective(config_of(written_out(name, **{setting: other[setting]}))) == by_name


def test_a_bootstrap_of_no_length_is_left_out() -> None:
    value = MethodSettings(name="gairat", gairat_begin=0).value
    assert [phase.begin for phase in value.phases or ()] == [0]


def test_parts_with_settings_of_their_own() -> None:
    method = {
        "terms": [
            {"attack": {"name": "saa", "steps": 5}, "weighting": {"name": "margin", "beta": 2}},
            {"attack": {"name": "pgd", "step_size": "2/255", "loss": "cw"}, "name": "far"},
            {
                "attack": "cw",
                "loss": {"name": "smoothed_cross_entropy", "smoothing": 0.1},
            },
        ],
        "min_weight": 0.2,
        "normalization": "instance",
        "anchor": {"name": "fgsm"},
        "loss": "cw",
    }
    ball = Linf(epsilon=0.1)
    found = build.objective(config_of(method, attack=OTHERS, threat="linf:0.1"))
    assert isinstance(found, Reweighted)
    simulated = Simulated(threat=ball, **OTHERS)
    saa, far, third = found.terms
    assert (saa.attack.steps, saa.attack.targets) == (5, 2)
    assert saa.weighting == MarginPower(alpha=2, beta=2)
    assert (far.name, far.attack.step_size, far.attack.loss) == ("far", 2 / 255, cw)
    assert far.attack.steps == 3
    assert third.attack == simulated.make("cw")
    assert third.criterion == smoothed_cross_entropy(0.1)
    assert found.anchor == simulated.make("fgsm")
    assert (found.criterion, found.min_weight, found.normalization) == (cw, 0.2, "instance")


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ({"terms": [{"attack": "pgd"}]}, "custom-pgd"),
        (
            {"terms": [{"attack": "saa", "weighting": "margin"}, {"attack": "cw", "name": "b"}]},
            "custom-saa-margin+b",
        ),
        ({"terms": [], "anchor": "clean", "min_weight": 1}, "custom-clean"),
        (
            {
                "phases": [
                    {"begin": 0, "terms": [{"attack": "pgd"}]},
                    {"begin": 0.5, "terms": [{"attack": "pgd", "weighting": "geometry"}]},
                ]
            },
            "custom-pgd-pgd-geometry",
        ),
        ({"name": "mine", "terms": [{"attack": "pgd"}]}, "mine"),
        ("sat", "sat"),
    ],
)
def test_names(method: Any, name: str) -> None:
    config = config_of(method)
    assert config.method.name == name
    again = load_config(yaml.safe_load(config.to_yaml()))
    assert (again, again.digest()) == (config, config.digest())


def test_a_name_of_another_method_is_refused_and_the_same_one_is_that_method() -> None:
    assert config_of({"name": "lsat-pgd", "terms": [{"attack": "pgd"}]}) == config_of("sat")
    with pytest.raises(ConfigurationError, match=r"^method\.name='sat': the method of this name"):
        config_of({"name": "sat", "terms": [{"attack": "cw"}]})


def test_one_method_has_one_spelling() -> None:
    def value(alpha: Any, weighting: Any) -> dict[str, Any]:
        margin = {"name": "margin", "alpha": alpha}
        terms = [{"attack": "pgd", "weighting": margin}, {"attack": "cw", "weighting": weighting}]
        return {"terms": terms}

    one, other = config_of(value(2, "uniform")), config_of(value(2.0, {"name": "uniform"}))
    assert one.to_yaml() == other.to_yaml()
    assert one.digest() == other.digest() != config_of(value(3, "uniform")).digest()


def test_layers_change_a_value_and_a_name_alike() -> None:
    value = {"method": {"terms": [{"attack": "pgd"}], "min_weight": 0.1}}
    changed = load_config(value, parse_assignments(["method.min_weight=0.4", "method.name=mine"]))
    assert isinstance(changed.method, MethodValue)
    assert (changed.method.name, changed.method.min_weight) == ("mine", 0.4)
    named = load_config({"method": "gairat"}, {"method": {"gairat_begin": 0.5}})
    assert named == config_of({"name": "gairat", "gairat_begin": 0.5})


PGD = {"attack": "pgd"}
REFUSED: dict[str, tuple[Any, str]] = {
    "no term": ({"terms": []}, "method.terms: a term is missing, as [{attack: pgd}]"),
    "terms that are no list": ({"terms": PGD}, "method.terms={'attack': 'pgd'}: must be a list"),
    "a term that is none": ({"terms": [3]}, "method.terms[0]=3: must be a section of settings"),
    "no attack": ({"terms": [{"weighting": "margin"}]}, "method.terms[0].attack is missing"),
    "unknown attack": (
        {"terms": [PGD, {"attack": "sa"}]},
        "method.terms[1].attack: unknown attack 'sa': did you mean 'saa'",
    ),
    "unknown weighting": (
        {"terms": [PGD, {"attack": "cw", "weighting": {"name": "margn"}}]},
        "method.terms[1].weighting.name: unknown weighting 'margn': did you mean 'margin'",
    ),
    "unknown loss": ({"terms": [{**PGD, "loss": "ce"}]}, "method.terms[0].loss: unknown loss 'ce'"),
    "unknown loss of an attack": (
        {"terms": [{"attack": {"name": "pgd", "loss": {"name": "kll"}}}]},
        "method.terms[0].attack.loss.name: unknown loss 'kll': did you mean 'kl'",
    ),
    "unknown objective": ({"objective": "trade"}, "method.objective: unknown objective 'trade'"),
    "a part that is none": (
        {"terms": [{**PGD, "weighting": 3}]},
        "method.terms[0].weighting=3: write a name, or {name: uniform}",
    ),
    "a part without a name": (
        {"terms": [{**PGD, "weighting": {"alpha": 2}}]},
        "method.terms[0].weighting={'alpha': 2}: write a name, or {name: uniform}",
    ),
    "unknown setting of a part": (
        {"terms": [{"attack": {"name": "saa", "step": 3}}]},
        "unknown setting 'method.terms[0].attack.step': did you mean 'method.terms[0].attack.steps",
    ),
    "unknown setting of a term": (
        {"terms": [{**PGD, "wieght": "margin"}]},
        "unknown setting 'method.terms[0].wieght': did you mean 'method.terms[0].weighting'",
    ),
    "unknown setting": (
        {"terms": [PGD], "min_wieght": 1},
        "unknown setting 'method.min_wieght': did you mean 'method.min_weight'",
    ),
    "a setting of named methods": ({"terms": [PGD], "alpha": 1}, "unknown setting 'method.alpha'"),
    "unknown setting of a phase": (
        {"phases": [{"begin": 0, "terms": [PGD], "ends": 1}]},
        "unknown setting 'method.phases[0].ends'",
    ),
    "a setting of another type": (
        {"terms": [{"attack": {"name": "pgd", "steps": "ten"}}]},
        "method.terms[0].attack: PGD(steps='ten'): must be a whole number >= 1",
    ),
    "a setting out of range": (
        {"terms": [{**PGD, "weighting": {"name": "margin", "alpha": -1}}]},
        "method.terms[0].weighting: MarginPower(alpha=-1.0): must be a finite number > 0",
    ),
    "a number that is text": (
        {"terms": [PGD], "min_weight": "high"},
        "method.min_weight='high': input should be a valid number",
    ),
    "an infinite floor": ({"terms": [PGD], "min_weight": float("inf")}, "method: Reweighted(min_w"),
    "steps of an attack without any": (
        {"terms": [PGD, {"attack": "saa", "weighting": "geometry"}]},
        "method.terms[1].weighting.name: Term 'saa': GeometryTanh(lambda_=-1.0) needs steps_surviv",
    ),
    "the same in a phase": (
        {
            "phases": [
                {"begin": 0, "terms": [PGD]},
                {"begin": 0.5, "terms": [{"attack": "fab", "weighting": "geometry"}]},
            ]
        },
        "method.phases[1].terms[0].weighting.name: Term 'fab'",
    ),
    "a loss between images": (
        {"terms": [{**PGD, "loss": "kl"}]},
        "method.terms[0].loss: criterion=kl: training descends a loss of logits and labels alone",
    ),
    "a loss without its setting": (
        {"terms": [PGD], "loss": "smoothed_cross_entropy"},
        "method.loss: smoothed_cross_entropy() missing 1 required positional argument: 'smoothing'",
    ),
    "an anchor that is not there": (
        {"terms": [PGD], "min_weight": 0.1, "anchor": "cw"},
        "method.anchor='cw': choose one of pgd, clean, or write an attack",
    ),
    "an anchor that is unknown": (
        {"terms": [PGD], "min_weight": 0.1, "anchor": {"name": "cww"}},
        "method.anchor.name: unknown attack 'cww': did you mean 'cw'",
    ),
    "an anchor without a floor": (
        {"terms": [PGD], "anchor": {"name": "cw"}},
        "method.anchor: does nothing without a floor: set min_weight above 0",
    ),
    "two terms of one name": (
        {"terms": [PGD, PGD]},
        "method.terms[1].name: another term is called 'pgd' too: give this one a name",
    ),
    "a name that is taken": (
        {"terms": [{**PGD, "name": "clean"}]},
        "method.terms[0].name='clean': the objective calls other images so",
    ),
    "a name that is no file's": (
        {"terms": [PGD], "name": "../mine"},
        "method.name='../mine': write up to 80 letters, digits and .+=-_",
    ),
    "an anchor that a named method has not": (
        {"name": "saa+cw+gd", "anchor": "fgsm"},
        "method.anchor='fgsm': choose one of saa, cw, pgd, clean, or write an attack",
    ),
    "phases out of order": (
        {"phases": [{"begin": each, "terms": [PGD]} for each in (0, 0.5, 0.4)]},
        "method.phases[2].begin=0.4: the phase before it begins at 0.5: write phases in the order",
    ),
    "two phases at once": (
        {"phases": [{"begin": 0, "terms": [PGD]}] * 2},
        "method.phases[1].begin=0.0: the phase before it begins at 0.0",
    ),
    "no first phase": (
        {"phases": [{"begin": 0.2, "terms": [PGD]}]},
        "method.phases: the first phase must begin at 0",
    ),
    "no phase": ({"phases": []}, "method.phases: the first phase must begin at 0"),
    "a phase that never begins": (
        {"phases": [{"begin": 0, "terms": [PGD]}, {"terms": [PGD]}]},
        "method.phases[1].begin is missing: set it",
    ),
    "a phase after training": (
        {"phases": [{"begin": 0, "terms": [PGD]}, {"begin": 30, "terms": [PGD]}]},
        "method.phases[1].begin=30: input should be less than 1",
    ),
    "an empty phase": ({"phases": [{"begin": 0}]}, "method.phases[0]: write one of terms, objecti"),
    "two forms": (
        {"terms": [PGD], "objective": "trades"},
        "method: write one of terms, phases, objective; this has terms and objective",
    ),
    "a floor beside phases": (
        {"phases": [{"begin": 0, "terms": [PGD]}], "min_weight": 0.2},
        "method.min_weight: does nothing beside phases: leave it out",
    ),
    "an objective that lacks its attack": (
        {"objective": "trades"},
        "method.objective: Trades.__init__() missing 1 required keyword-only argument: 'attack_w",
    ),
    "no section": (3, "method=3: must be a section of settings, as method.name"),
}


@pytest.mark.parametrize(("method", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses_in_one_line_by_the_keys_path(method: Any, said: str) -> None:
    with pytest.raises(LratError) as caught:
        build.objective(config_of(method))
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_smoothed_labels_beside_a_loss_of_its_own_are_refused() -> None:
    method = {"terms": [{**PGD, "loss": "cw"}]}
    with pytest.raises(LratError, match="has the criterion cw already"):
        build.objective(config_of(method, training={"label_smoothing": 0.1}))


def test_the_floor_of_each_epoch() -> None:
    phases = [{"begin": 0, "terms": [PGD]}, {"begin": 0.5, "terms": [PGD], "min_weight": 0.3}]
    config = config_of({"phases": phases}, training={"epochs": 5, "schedule_epochs": 6})
    assert [config.floor_in(epoch) for epoch in (1, 3, 4, 5)] == [0, 0, 0.3, 0.3]
    assert config_of("lrat-cw").floor_in(1) == 0.1
    assert config_of("trades").floor_in(1) == config_of("gairat").floor_in(30) == 0
