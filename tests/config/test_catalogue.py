"""Every name of the catalogue maps to an object, and every object has a name."""

import pytest
import torch

from builders import seeded
from lrat.attacks import Attack
from lrat.config import build, catalogue
from lrat.config.settings import DataSettings, load_config
from lrat.errors import DataError, SettingError, UnknownNameError
from lrat.models import ResNet18, SmallCNN
from lrat.objectives import Objective
from lrat.reproduce.paper import TABLE_1, TABLE_2
from lrat.runs import suites
from lrat.threat import L2, Linf, as_ball

BALL = Linf(epsilon=0.1)


def test_aliases_are_other_names_of_methods() -> None:
    assert set(catalogue.ALIASES.values()) <= set(catalogue.METHODS)
    assert not set(catalogue.ALIASES) & set(catalogue.METHODS)


@pytest.mark.parametrize("name", [*catalogue.METHODS, *catalogue.ALIASES])
def test_every_method_and_alias_is_an_objective(name: str) -> None:
    config = load_config({"method": {"name": name}})
    assert isinstance(build.objective(config), Objective)
    assert config.method.name == catalogue.ALIASES.get(name, name)


def test_the_papers_rows_are_methods() -> None:
    assert {*TABLE_1, *TABLE_2} <= set(catalogue.METHODS)


@pytest.mark.parametrize("name", sorted(catalogue.SUITES.keys() - {"FILE.yaml"}))
def test_every_suite_is_built_under_its_name(name: str) -> None:
    suite = suites.suite(name, BALL, classes=10)
    assert suite.name == name
    assert suite.names[0] == "natural"
    assert len(suite.names) > 1


@pytest.mark.parametrize("name", catalogue.CATALOGUES["attacks"])
def test_every_attack_is_built(name: str) -> None:
    built = suites.attack(name.replace("-N", "-7"), BALL)
    assert isinstance(built, Attack)
    if name.endswith("-N"):
        assert built.steps == 7
        assert built.step_size == BALL.epsilon / 4


@pytest.mark.parametrize("name", ["pgd", "pgd-0", "pgd--1", "pgd-N", "PGD-20", "apgd"])
def test_other_attacks_are_refused(name: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown attack"):
        suites.attack(name, BALL)


def test_attacks_of_a_monitor_are_those_of_the_suites() -> None:
    for member in suites.suite("paper", BALL, classes=10).members:
        assert suites.attack(member.name, BALL) == member.attack


@pytest.mark.parametrize("name", catalogue.DATA)
def test_every_data_set_is_read_or_says_what_it_lacks(name: str) -> None:
    if not catalogue.DATA[name].takes:
        assert len(build.data(DataSettings(name=name), seed=0).test)
        return
    name = name.replace("PATH", "nowhere.npz")
    with pytest.raises(DataError, match=r"data\.root|does not exist|is no folder"):
        build.data(DataSettings(name=name), seed=0)


def test_models_are_built_from_the_seed_and_leave_the_random_state() -> None:
    def build_small(seed: int) -> SmallCNN:
        config = load_config({"model": {"name": "small-cnn", "width": 4}, "seed": seed})
        return build.model(config, (1, 8, 8), 10)

    first, again, other = (build_small(seed).head.weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    resnet = load_config({"model": {"name": "resnet-18", "width": 2}})
    assert isinstance(build.model(resnet, (3, 9, 7), 4), ResNet18)
    for name in catalogue.MODELS:
        assert name == catalogue.check_model_name(name)


def test_customary_threats() -> None:
    for name in catalogue.DATA:
        if not name.endswith(":PATH"):
            config = load_config({"data": {"name": name}})
            assert config.threat == catalogue.DATA[name].default_threat
            assert as_ball(config.threat).epsilon > 0


def test_threats_as_text() -> None:
    assert as_ball("linf:8/255") == Linf(epsilon=8 / 255)
    assert as_ball("linf:0.1") == Linf(epsilon=0.1)
    assert as_ball("l2:0.5") == L2(epsilon=0.5)
    assert as_ball("linf:1") == Linf(epsilon=1)


@pytest.mark.parametrize("text", ["", "linf", "linf:", "linf:a", "linf:1/0", "l0:1", "linf:2"])
def test_other_texts_are_no_threats(text: str) -> None:
    with pytest.raises(SettingError, match="threat"):
        as_ball(text)


def test_threads_are_those_of_before_after_a_run() -> None:
    before = torch.get_num_threads()
    with build.threads(load_config({"threads": 2})):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == before
    with pytest.raises(RuntimeError), build.threads(load_config({"threads": 2})):
        raise RuntimeError
    assert torch.get_num_threads() == before


def test_crop_and_flip_are_for_cifar_alone_unless_asked_for() -> None:
    assert build.augmentation(DataSettings(name="cifar10")) is not None
    assert build.augmentation(DataSettings(name="digits")) is None
    assert build.augmentation(DataSettings(name="cifar10", augment=False)) is None
    assert build.augmentation(DataSettings(name="digits", augment=True)) is not None


def test_the_training_check_leaves_the_network_as_it_was() -> None:
    network = seeded(0, lambda: SmallCNN(size=8, width=4))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = build.data(DataSettings(), seed=0).training()
    build.check_training(network, images, batch_size=100, classes=10)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
