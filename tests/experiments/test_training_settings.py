"""Settings of a recipe from a configuration and from ``lrat.fit`` to the loop."""

from pathlib import Path
from typing import Any

import pytest
import torch

import lrat
from builders import seeded
from experiments.commands import lrat as command
from lrat.config import build, catalogue
from lrat.config.settings import load_config, parse_assignments, read_settings
from lrat.errors import ConfigurationError, SettingError
from lrat.losses import smoothed_cross_entropy
from lrat.models import SmallCNN
from lrat.training import Optimisation
from lrat.training.schedules import Cosine, OneCycle, Piecewise, WarmUp
from trained import digits


def optimisation(*assignments: str) -> Optimisation:
    return build.optimisation(load_config(parse_assignments(assignments)))


def test_the_defaults_are_the_papers() -> None:
    found = optimisation()
    assert found == Optimisation(epochs=30)
    assert (found.schedule, found.ema, found.decay, found.clip) == (None, None, "all", None)
    assert found.precision == "float32"
    method: Any = build.objective(load_config({}))
    assert method.criterion is lrat.losses.cross_entropy


@pytest.mark.parametrize(
    ("assignments", "schedule"),
    [
        (["training.schedule.name=cosine"], Cosine()),
        (["training.schedule={name: cosine, final: 0.1}"], Cosine(final=0.1)),
        (
            ["training.schedule={name: one-cycle, peak: 0.4, shape: linear, div_factor: 10}"],
            OneCycle(peak=0.4, shape="linear", div_factor=10),
        ),
        (
            ["training.schedule.warm_up_epochs=2", "training.drops={0.5: 0.2}"],
            WarmUp(schedule=Piecewise({0.5: 0.2}), epochs=2),
        ),
        (["training.schedule.name=piecewise", "training.drops={0.5: 0.2}"], None),
    ],
)
def test_schedules(assignments: list[str], schedule: Any, tmp_path: Path) -> None:
    assert optimisation(*assignments).schedule == schedule
    config = load_config(parse_assignments(assignments))
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    again = load_config(read_settings(tmp_path / "config.yaml"))
    assert again == config
    assert build.optimisation(again) == build.optimisation(config)


def test_all_settings_reach_the_loop_and_the_objective() -> None:
    assignments = (
        "training.ema=0.99",
        "training.ema_warm_up=false",
        "training.decay=weights",
        "training.precision=bf16-mixed",
        "training.label_smoothing=0.1",
        "training.clip=0.5",
    )
    found = optimisation(*assignments)
    assert (found.ema, found.ema_warm_up, found.decay) == (0.99, False, "weights")
    assert (found.precision, found.clip) == ("bf16-mixed", 0.5)
    for name in catalogue.METHODS:
        config = load_config(parse_assignments([*assignments, f"method.name={name}"]))
        method: Any = build.objective(config)
        for part in [part for _, part in getattr(method, "starts", [(0, method)])]:
            assert part.criterion == smoothed_cross_entropy(0.1)


@pytest.mark.parametrize(
    "assignment",
    [
        "training.schedule.name=cosine",
        "training.ema=0.9",
        "training.label_smoothing=0.1",
        "training.decay=weights",
        "training.precision=bf16-mixed",
    ],
)
def test_each_makes_another_run_and_its_default_the_same(assignment: str) -> None:
    plain = load_config({})
    assert load_config(parse_assignments([assignment])).digest() != plain.digest()
    off = load_config(
        {
            "training": {
                "schedule": {"name": "piecewise", "final": None},
                "ema": None,
                "label_smoothing": 0,
                "decay": "all",
                "precision": "float32",
            }
        }
    )
    assert off.digest() == plain.digest()
    assert "training" not in off.result_settings(defaults=False)


@pytest.mark.parametrize(
    ("assignments", "said"),
    [
        (["training.schedule.name=cosin"], "training.schedule.name='cosin': input should be"),
        (["training.schedule.fnal=1"], "did you mean 'training.schedule.final'"),
        (["training.schedule=cosine"], "training.schedule='cosine': must be a section"),
        (["training.schedule.peak=0.3"], "schedule.peak does nothing in 'piecewise'"),
        (["training.schedule={name: cosine, peak: 0.3}"], "does nothing in 'cosine'"),
        (["training.schedule.name=cosine", "training.drops={0.5: 0.1}"], "drops={0.5: 0.1} do not"),
        (["training.schedule.warm_up_start=0.1"], "does nothing without warm_up_epochs"),
        (["training.ema=1.0"], "ema=1.0: must be a finite number >= 0 and < 1, as ema=0.9"),
        (["training.ema=-0.1"], "ema=-0.1: must be a finite number >= 0 and < 1, as"),
        (
            ["training.ema=.nan"],
            "ema=nan: must be a finite number >= 0 and < 1, as ema=0.9",
        ),
        (["training.keep_epochs=3"], "keep_epochs=3: must be a list, as training.keep_epochs=[3]"),
        (
            ["training.trackers=tensorboard"],
            "training.trackers='tensorboard': must be a list, as training.trackers=[tensorboard]",
        ),
        (
            ["training.record_weights={a: 1}"],
            "training.record_weights={'a': 1}: must be a list, as training.record_weights=[...]",
        ),
        (
            ["training.epochs=1", "training.keep_epochs=[1, 7]"],
            "training.keep_epochs=[1, 7]: 1 epochs are trained, so there will be no epoch 7: name",
        ),
        (["training.record_weights=[31]"], "record_weights=[31]: 30 epochs are trained, so there"),
        (["training.record_weights=[0]"], "there will be no epoch 0: name epochs from 1 to 30"),
        (["training.lr=.inf"], "lr=inf): must be a finite number > 0"),
        (
            ["training.clip=.inf"],
            "clip=inf): must be a finite number > 0",
        ),
        (["training.ema_warm_up=false"], "training.ema_warm_up does nothing without training.ema"),
        (["training.label_smoothing=1"], "training.label_smoothing=1: input should be less than 1"),
        (["training.decay=none"], "training.decay='none': input should be 'all' or 'weights'"),
        (["training.precision=fp16"], "training.precision='fp16': input should be 'float32' or"),
    ],
)
def test_refused_in_one_line(assignments: list[str], said: str) -> None:
    with pytest.raises((ConfigurationError, SettingError)) as caught:
        optimisation(*assignments)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_command_with_all_of_it(tmp_path: Path) -> None:
    """Trains, is refused with another decay, and goes on from where it was."""
    settings = [
        "model.width=4",
        "data.train_limit=60",
        "training.validation_steps=1",
        "training.schedule={name: one-cycle, warm_up_fraction: 0.1}",
        "training.ema=0.9",
        "training.decay=weights",
        "training.label_smoothing=0.1",
        "training.clip=1",
    ]
    call = ["train", "sat", "--epochs", "1", "--out", str(tmp_path / "run")]
    for each in settings:
        call += ["--set", each]
    assert command(*call).status == 0
    answer = command(*call, "--set", "training.ema=0.8")
    assert answer.status == 2
    assert "training.ema: 0.8 asked, 0.9 in the folder" in answer.err
    answer = command(*call, "--set", "training.ema=1.0")
    assert answer.status == 2
    assert answer.err.count("\n") == 1
    assert command(*call).status == 0


def fit(out: Path | None = None, **settings: Any) -> tuple[torch.nn.Module, lrat.FitResult]:
    images, labels = (part[:48] for part in digits())
    model = seeded(0, lambda: SmallCNN(size=8, width=2))
    result = lrat.fit(
        model, (images, labels), threat="linf:0.1", epochs=2, batch_size=16, out=out,
        **{"method": "sat", **settings},
    )  # fmt: skip
    return model, result


def test_fit_takes_them_too(tmp_path: Path) -> None:
    chosen = {"schedule": {"name": "cosine", "final": 0.5}, "ema": 0.9, "label_smoothing": 0.1}
    model, result = fit(tmp_path / "run", **chosen, accumulate=2, precision="bf16-mixed")
    assert [record.steps for record in result.records] == [2, 2]
    assert 0.05 < result.records[-1].lr < 0.1
    assert result.records[-1].average
    again, _ = fit(tmp_path / "run", **chosen, accumulate=2, precision="bf16-mixed")
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    with pytest.raises(lrat.LratError, match="another configuration"):
        fit(tmp_path / "run", **{**chosen, "label_smoothing": 0.2}, accumulate=2)


def test_fit_without_them_is_what_it_was() -> None:
    plain, _ = fit()
    off, _ = fit(schedule="piecewise", ema=None, label_smoothing=0.0, precision="float32")
    for name, value in plain.state_dict().items():
        assert torch.equal(off.state_dict()[name], value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"schedule": "cosin"}, "unknown schedule 'cosin': did you mean 'cosine'"),
        ({"schedule": {"final": 0.1}}, "give its name, as"),
        ({"schedule": {"name": "cosine", "peak": 0.1}}, "does nothing in 'cosine'"),
        ({"schedule": "cosine", "drops": {0.5: 0.1}}, "do nothing in the schedule 'cosine'"),
        ({"schedule": Cosine(), "drops": {0.5: 0.1}}, "do nothing beside a schedule"),
        ({"ema": 1.0}, "ema=1.0: must be a finite number"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0: "),
        ({"accumulate": 0}, "accumulate=0: must be a whole number >= 1"),
    ],
)
def test_fit_refuses_in_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError) as caught:
        fit(**settings)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_setting_of_the_optimiser_reaches_it() -> None:
    given = {
        "momentum": 0.5,
        "nesterov": True,
        "weight_decay": 0.01,
        "decay": "weights",
        "ema": 0.9,
        "ema_warm_up": False,
        "precision": "bf16-mixed",
        "non_finite": "skip",
        "clip": 2.0,
        "accumulate": 3,
    }
    made = build.optimisation(load_config({"training": given}))
    assert {name: getattr(made, name) for name in given} == given
    assert vars(build.optimisation(load_config({}))) == vars(Optimisation(epochs=30))
