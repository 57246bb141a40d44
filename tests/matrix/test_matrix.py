"""Odd models through every entry point: the right verdicts, a note, or one line.

Three things hold of each: the caller's tensors, modes, gradients and random state are as before;
verdicts are the same with acceleration on and off; and for batches of 1, 7 and 64 images, or a note
says that they are not.
"""

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lrat
from experiments.commands import lrat as command
from lrat.errors import LratError
from lrat.evaluation import EvaluationResult
from lrat.threat import Linf
from matrix.odd import MODELS, Odd, problem

THREAT = Linf(epsilon=0.1)
BATCHES = (64, 1, 7)
each_model = pytest.mark.parametrize("name", MODELS)
every_fourth = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.soak] if number % 4 else [])
        for number, name in enumerate(MODELS)
    ],
)
"""All of them in `make soak`."""


def built(name: str) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MODELS[name].build()


def state(model: nn.Module) -> dict[str, Any]:
    """What a caller may rely on: data, random states, modes, weights, buffers and gradients."""
    images, labels = problem()
    tensors = {
        "images": images,
        "labels": labels,
        "torch": torch.random.get_rng_state(),
        "python": torch.tensor(random.getstate()[1]),
        "numpy": torch.from_numpy(np.random.get_state()[1].astype("int64")),  # type: ignore[union-attr]
    }
    tensors |= {f"gradient {n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    tensors |= {n: p.detach() for n, p in model.named_parameters()}
    tensors |= dict(model.named_buffers())
    return {
        "tensors": {name: value.clone() for name, value in tensors.items()},
        "modes": [getattr(module, "training", None) for module in model.modules()],
        "trainable": [parameter.requires_grad for parameter in model.parameters()],
        "type": torch.get_default_dtype(),
    }


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    kept, now = before["tensors"], after["tensors"]
    found = [name for name in kept if name not in now or not torch.equal(kept[name], now[name])]
    found += [name for name in now if name not in kept]
    return found + [key for key in ("modes", "trainable", "type") if before[key] != after[key]]


@contextmanager
def untouched(model: nn.Module, *, but: tuple[str, ...] = ()) -> Iterator[None]:
    before = state(model)
    try:
        yield
    finally:
        found = [name for name in differences(before, state(model)) if not name.startswith(but)]
        torch.random.set_rng_state(before["tensors"]["torch"])
        torch.set_default_dtype(before["type"])
        assert found == []


def answer(odd: Odd, entry: str, call: Any) -> Any:
    """What the call returns; None where it is refused, which it must be where ``odd`` says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if entry not in odd.refused:
            return call()
        with pytest.raises(LratError) as error:
            call()
    text = str(error.value)
    assert text
    assert "\n" not in text
    assert len(text) < 1000
    return None


def evaluated(model: nn.Module, suite: str, batch: int, acceleration: Any) -> EvaluationResult:
    return lrat.evaluate(
        model, problem(), threat=THREAT, suite=suite, batch_size=batch, acceleration=acceleration
    )


def verdicts(result: EvaluationResult) -> dict[str, np.ndarray]:
    """The prediction for each image under each attack; -1 where it is a tie by rounding."""
    outcomes = result.outcomes.arranged(result.names)
    close = np.abs(outcomes.margin) < 1e-3
    predictions = np.where(close, -1, outcomes.fooled.astype(int))
    return {name: predictions[outcomes.attack == name] for name in result.names}


def assert_same(found: EvaluationResult, expected: EvaluationResult) -> None:
    one, other = verdicts(found), verdicts(expected)
    assert one.keys() == other.keys()
    for attack, values in one.items():
        decided = (values >= 0) & (other[attack] >= 0)
        assert (values == other[attack])[decided].all(), attack
        assert decided.sum() >= len(decided) - 2


@cache
def plain(suite: str) -> EvaluationResult:
    result = evaluated(built("plain"), suite, 64, "off")
    assert 0 < result.worst_case.value < result.accuracy["natural"].value == 1
    return result


@each_model
def test_evaluation(name: str) -> None:
    odd = MODELS[name]
    model = built(name)
    results = []
    for acceleration in ("auto", "off"):
        for batch in BATCHES if acceleration == "auto" else BATCHES[:1]:
            with untouched(model):
                found = answer(
                    odd, "evaluate", lambda b=batch, a=acceleration: evaluated(model, "quick", b, a)
                )
            if found is None:
                return
            results.append(found)
    notes = [" ".join(result.notes) for result in results]
    if odd.note is None:
        assert notes == [""] * len(notes)
    else:
        assert all(odd.note in note for note in notes), notes
    if odd.note not in ("random", "beside it"):
        for result in results[1:]:
            assert_same(result, results[0])
    if odd.like_plain:
        assert_same(results[0], plain("quick"))


@every_fourth
def test_evaluation_under_targeted_attacks(name: str) -> None:
    odd = MODELS[name]
    model = built(name)
    with untouched(model):
        found = answer(odd, "evaluate", lambda: evaluated(model, "tier", 12, "auto"))
    if found is None:
        return
    if odd.note is not None:
        assert odd.note in " ".join(found.notes)
    if odd.like_plain:
        assert_same(found, plain("tier"))


@each_model
def test_training(name: str) -> None:
    odd = MODELS[name]
    fits: dict[str, tuple[Any, dict[str, Tensor]]] = {}
    for acceleration in ("auto", "off"):
        model = built(name)
        trained = tuple(state(model)["tensors"].keys() - {"images", "labels", "torch", "numpy"})
        with untouched(model, but=(*trained, "gradient", "modes")):
            result = answer(
                odd,
                "fit",
                lambda m=model, a=acceleration: lrat.fit(
                    m,
                    problem(),
                    threat=THREAT,
                    method="sat",
                    epochs=2,
                    batch_size=12,
                    lr=0.01,
                    validation=0,
                    acceleration=a,
                ),
            )
        if result is None:
            return
        weights = {name: value.detach().clone() for name, value in model.named_parameters()}
        fits[acceleration] = result, weights
    if odd.note == "random":
        return
    for key, value in fits["auto"][1].items():
        torch.testing.assert_close(value, fits["off"][1][key], rtol=1e-3, atol=1e-4)


@every_fourth
def test_masking_panel(name: str) -> None:
    odd = MODELS[name]
    model = built(name)
    images, labels = problem()
    with untouched(model):
        panel = answer(
            odd, "masking", lambda: lrat.check_masking(model, (images, labels), threat=THREAT)
        )
    if panel is not None and name == "plain":
        assert "failed" not in {check.status for check in panel.checks}


@every_fourth
def test_commands(name: str, tmp_path: Path) -> None:
    """``train``, ``curve`` and ``why``: status 0, or 2 with one line."""
    odd = MODELS[name]
    images, labels = problem()
    data = tmp_path / "data.npz"
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    np.savez(data, **{key: value.numpy() for key, value in arrays.items()})
    file = tmp_path / "model.py"
    file.write_text(
        f"from matrix.odd import MODELS\n\n\ndef make():\n    return MODELS[{name!r}].build()\n"
    )
    run = tmp_path / "run"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answers = [
            command(
                *("train", "natural", "--data", f"npz:{data}", "--model", f"{file}:make"),
                *("--threat", "linf:0.1", "--epochs", "1", "--set", "training.batch_size=12"),
                *("--set", "data.validation=0", "--set", "training.selection=last", "--out", run),
            )
        ]
        if answers[0].status == 0:
            answers.append(command("curve", run, "--levels", "3"))
            answers.append(command("why", run, "0"))
    assert (answers[0].status == 2) == ("fit" in odd.refused), answers[0].err
    for each in answers:
        assert each.status in (0, 2)
        assert each.status == 0 or each.complaint
