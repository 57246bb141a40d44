from pathlib import Path

import pytest
import torch

from experiments.commands import TINY, contents, done, lrat
from experiments.own import write_model, write_npz
from lrat.config.settings import load_config, parse_assignments
from lrat.evaluation import NATURAL
from lrat.experiments.evaluate import EvaluationRequest, evaluate_run
from lrat.experiments.meter import Profile
from lrat.experiments.profile import Budget, profile_evaluation, profile_training
from lrat.runs.sources import ModelSource

SHORT = Budget(steps=3)
PEAK = 1e9


@pytest.fixture(autouse=True)
def known_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring it takes seconds, and is tested where it is done."""
    monkeypatch.setattr("lrat.experiments.meter.matrix_peak", lambda device, dtype: PEAK)


def trained_for(
    method: str, *assignments: str, acceleration: str = "auto", budget: Budget = SHORT
) -> Profile:
    settings = [*TINY[1::2], "data.train_limit=120", *assignments]
    chosen = {"method": {"name": method}, "acceleration": acceleration}
    config = load_config(chosen, parse_assignments(settings))
    return profile_training(config, budget=budget)


def passes(profile: Profile) -> dict[str, float]:
    """Passes per image by part, where a part has passes."""
    return {
        part.name: part.passes / profile.images for part in profile.parts if part.passes is not None
    }


EXPECTED = {
    "natural": (0, 0, 2),
    "sat": (3, 3, 2),
    # A clean pass for both attacks, SAA's three targets with a last look each, CW.
    "lrat-saa+cw": (1 + 3 * 4 + 3, 3 * 3 + 3, 4),
    "trades": (1 + 3, 3, 4),
}


@pytest.mark.parametrize("method", EXPECTED)
@pytest.mark.parametrize("acceleration", ["auto", "off"])
def test_every_pass_of_training_is_counted_once(method: str, acceleration: str) -> None:
    profile = trained_for(method, acceleration=acceleration)
    forward, backward, update = EXPECTED[method]
    assert passes(profile) == {
        "attack forward": forward,
        "attack backward": backward,
        "update": update,
    }
    assert (profile.view == "the model itself") == (acceleration == "off")


def test_the_warm_up_does_not_count() -> None:
    profile = trained_for("sat", "training.batch_size=10", budget=Budget(steps=5))
    assert profile.images == 40
    assert "40 images in 4 steps of at most 10, on cpu with 1 thread" in profile.title


def test_steps_of_several_batches() -> None:
    profile = trained_for("sat", "training.batch_size=10", "training.accumulate=2")
    assert profile.images == 40
    assert passes(profile)["attack forward"] == 3
    assert passes(profile)["update"] == 2


def test_all_parts_take_time_and_attacks_and_updates_compute() -> None:
    profile = trained_for("sat")
    assert [part.name for part in profile.parts] == [
        "attack forward",
        "attack backward",
        "attack, other",
        "update",
        "data",
        "rest",
    ]
    assert all(part.seconds > 0 for part in profile.parts)
    flop = {part.name: part.flop for part in profile.parts}
    # Backward to images alone takes as many FLOP as forward.
    assert flop["attack forward"] == flop["attack backward"] > 0
    # An update is a forward and less than twice as much back.
    assert flop["attack forward"] / 3 * 2 < flop["update"] < flop["attack forward"]
    assert 0 < profile.activations < profile.plain_activations


def test_at_least_some_steps_are_taken_however_slow_they_are() -> None:
    assert list(Budget(steps=10, seconds=0, least=3).numbers()) == [0, 1, 2]
    assert list(Budget(steps=4, seconds=1000, least=3).numbers()) == [0, 1, 2, 3]


def test_the_command_prints_a_table_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = done("train", "sat", *TINY, "--out", tmp_path / "run", "--profile")
    assert out.startswith("sat on digits, small-cnn: ")
    assert "attacks see the model in float32, BatchNorm folded (3 of 3)" in out
    for part in ("attack forward", "attack backward", "update", "data", "rest", "total"):
        assert f"\n{part} " in out
    assert not any(tmp_path.iterdir())


def test_an_evaluation_is_counted_as_the_evaluation_counts(run: Path) -> None:
    request = EvaluationRequest(limit=20)
    profile = profile_evaluation(ModelSource(run=run), request, budget=Budget(steps=3, seconds=1e9))
    assert profile.images == 40, "the same 20 images twice"
    _, result = evaluate_run(run, request)
    outcomes = result.outcomes
    attacked = outcomes.attack != NATURAL
    counted = passes(profile)
    assert counted["attack forward"] * 20 == outcomes.forwards[attacked].sum()
    assert counted["attack backward"] * 20 == outcomes.backwards[attacked].sum()
    right, standing = ((~outcomes.fooled[rows]).sum() for rows in (~attacked, attacked))
    # The clean images; what each attack returned on the model, and what still stands once on the
    # view, whose successes are confirmed; 16 images on both, which must agree in the end.
    assert counted["confirmation"] * 20 == 20 + 2 * right + standing + 2 * 16
    assert set(profile.attacks) == {"pgd-20", "cw-20"}
    assert 0 < sum(profile.attacks.values()) < profile.seconds


def test_a_profile_without_acceleration(run: Path) -> None:
    request = EvaluationRequest(limit=20, acceleration="off")
    budget = Budget(steps=3, seconds=1e9)
    plain = profile_evaluation(ModelSource(run=run), request, budget=budget)
    fast = profile_evaluation(ModelSource(run=run), EvaluationRequest(limit=20), budget=budget)
    assert plain.view == "the model itself"
    assert plain.activations == plain.plain_activations
    assert passes(plain).keys() == passes(fast).keys()
    assert passes(plain)["confirmation"] < passes(fast)["confirmation"], "a view is looked at too"


def test_slow_suites_are_measured_on_small_batches(run: Path) -> None:
    profile = profile_evaluation(
        ModelSource(run=run), EvaluationRequest(), budget=Budget(seconds=0)
    )
    assert "16 images in 2 steps of at most 8" in profile.title


def test_an_evaluation_profile_leaves_the_run_as_it_is(run: Path) -> None:
    before = contents(run)
    out = done("evaluate", run, "--limit", "30", "--checkpoint", "last", "--profile")
    assert out.startswith(f"quick on {run}: ")
    assert "by attack: pgd-20 " in out
    assert contents(run) == before


def test_ones_own_model_and_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_model("own.py")
    write_npz("all.npz")
    out = done(
        *("evaluate", "--model-file", "own.py:make", "--data", "npz:all.npz"),
        *("--threat", "linf:0.1", "--profile"),
    )
    assert out.startswith("quick on own.py:make: ")
    assert {path.name for path in tmp_path.iterdir()} <= {"own.py", "all.npz", "__pycache__"}


def test_a_profile_of_nothing() -> None:
    complaint = lrat("evaluate", "--profile").complaint
    assert complaint.startswith("name either a run folder, whose model and data are known, or")


def test_the_number_of_threads_comes_back() -> None:
    before = torch.get_num_threads()
    profile = trained_for("natural", "threads=2")
    assert "with 2 threads" in profile.title
    assert torch.get_num_threads() == before
