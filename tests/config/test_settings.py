from pathlib import Path

import pytest

from lrat.config.settings import (
    RunConfig,
    differences,
    load_config,
    parse_assignments,
    read_settings,
)
from lrat.errors import ConfigurationError
from lrat.runs.folder import claim, default_folder, threat_slug
from lrat.text import duration


def test_the_defaults_are_the_papers_method_and_schedule() -> None:
    config = load_config({})
    assert config.method.name == "lrat-saa+cw"
    assert (config.method.alpha, config.method.beta, config.method.min_weight) == (2, 0.5, 0.1)
    assert config.training.drops == {0.6: 0.1, 0.9: 0.1}
    assert (config.training.lr, config.training.momentum) == (0.1, 0.9)
    assert config.training.weight_decay == 2e-4
    assert config.data.name == "digits"


def test_later_layers_win_and_sections_merge() -> None:
    config = load_config(
        {"training": {"epochs": 5, "lr": 0.3}}, {"training": {"epochs": 6}}, {"seed": 2}
    )
    assert (config.training.epochs, config.training.lr, config.seed) == (6, 0.3, 2)


def test_drops_are_replaced_as_a_whole() -> None:
    config = load_config({}, parse_assignments(["training.drops={0.5: 0.2}"]))
    assert config.training.drops == {0.5: 0.2}


def test_yaml_and_back(tmp_path: Path) -> None:
    config = load_config(
        {
            "method": {"name": "gairat", "gairat_begin": 0.5},
            "training": {"drops": {0.25: 0.5}, "keep_epochs": [1, 3], "clip": 2.0},
            "threat": "l2:128/255",
        }
    )
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    again = load_config(read_settings(path))
    assert again == config
    assert again.digest() == config.digest()


def test_device_and_threads_do_not_decide_the_result() -> None:
    config = load_config({})
    elsewhere = load_config({"device": "cuda", "threads": 3})
    assert elsewhere.digest() == config.digest()
    assert load_config({"seed": 1}).digest() != config.digest()


def test_differences_name_the_leaves() -> None:
    ours = load_config({"training": {"lr": 0.2}, "seed": 1}).result_settings()
    theirs = load_config({}).result_settings()
    assert differences(ours, theirs) == [
        "seed: 1 asked, 0 in the folder",
        "training.lr: 0.2 asked, 0.1 in the folder",
    ]
    assert differences(ours, ours) == []


def test_several_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_config({"training": {"epoch": 1, "lr": "x"}, "method": {"name": "st"}})
    text = str(caught.value)
    for part in ("did you mean 'training.epochs'", "training.lr='x'", "did you mean 'sat'"):
        assert part in text
    assert "\n" not in text


@pytest.mark.parametrize("assignment", ["seed", "=3", "seed=[1"])
def test_assignments_that_are_none(assignment: str) -> None:
    with pytest.raises(ConfigurationError, match="--set"):
        parse_assignments([assignment])


def test_assigned_values_are_yaml() -> None:
    assert parse_assignments(["a.b=1", "a.c=null", "d=[1, 2]", "e=0.05", "f=a=b"]) == {
        "a": {"b": 1, "c": None},
        "d": [1, 2],
        "e": 0.05,
        "f": "a=b",
    }


def test_names_of_folders() -> None:
    assert default_folder(load_config({})) == Path("runs/lrat-saa+cw-digits-0")
    own = load_config({"data": {"name": "npz:some/where/cats.npz"}, "threat": "linf:0.1"})
    assert default_folder(own) == Path("runs/lrat-saa+cw-cats-0")
    assert threat_slug("linf:8/255") == "linf-8-255"


def test_an_empty_folder_can_be_claimed(tmp_path: Path) -> None:
    claim(tmp_path, RunConfig())
    claim(tmp_path / "new", RunConfig())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.1, "1 s"), (45, "45 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (59.7, "1 min 00 s")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_how_a_run_is_kept_and_watched_does_not_decide_the_result() -> None:
    plain = load_config({})
    for setting in (
        {"keep_last": 5},
        {"checkpoint_every_steps": 3},
        {"checkpoint_every_minutes": None},
        {"trackers": ["tensorboard"]},
    ):
        kept = load_config({"training": setting})
        assert kept.digest() == plain.digest()
        assert differences(kept.result_settings(), plain.result_settings()) == []
        assert kept != plain
