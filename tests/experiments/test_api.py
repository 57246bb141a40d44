"""``lrat.fit`` and ``lrat.evaluate`` as in the README, with models and objectives of one's own."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lrat
from builders import seeded
from experiments.commands import contents
from experiments.own import arrays
from lrat.attacks import PGD, Variant
from lrat.errors import (
    DataError,
    Interrupted,
    ModelError,
    RegionViolationError,
    RunFolderError,
    SettingError,
)
from lrat.evaluation import EvaluationResult, custom
from lrat.losses import LossLike, cross_entropy
from lrat.models import SmallCNN
from lrat.objectives import Objective, ObjectiveOutput, Reweighted, StepContext, Term
from lrat.threat import L2, Linf
from lrat.training import EpochRecord, StepProgress
from lrat.training.metrics import TIMES
from lrat.training.schedules import Schedule
from lrat.types import Batch
from trained import digits

THREAT = Linf(epsilon=0.1)
EASY = arrays(150)
DATA = (EASY["images"], EASY["labels"])


def network() -> nn.Module:
    def build() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(90, 12), nn.Tanh(), nn.Linear(12, 3))

    return seeded(0, build)


class Noisy:
    """An objective of one's own, without base class or repr: cross-entropy on noisy images."""

    def attack(self, view: nn.Module, batch: Batch, step: StepContext) -> dict[str, Variant]:
        drawn = step.noise.child("noisy").uniform(batch.images.shape, "start")
        return {"noisy": Variant(images=(batch.images + 0.1 * drawn).clamp(0, 1))}

    def loss(
        self, model: nn.Module, batch: Batch, variants: Mapping[str, Variant], step: StepContext
    ) -> ObjectiveOutput:
        losses = cross_entropy(model(variants["noisy"].images), batch.labels)
        count = torch.tensor(float(len(batch)))
        return ObjectiveOutput(
            total=losses.sum(), normalizer=count, per_example={"loss/noisy": losses.detach()}
        )


class Stop:
    """Sends this process a signal in the middle of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_step(self, progress: StepProgress) -> None:
        if (progress.epoch, progress.step) == (self.epoch, 2):
            os.kill(os.getpid(), signal.SIGTERM)

    def on_epoch(self, record: EpochRecord) -> None:
        return


def same(records: tuple[EpochRecord, ...]) -> list[dict]:
    return [
        {name: value for name, value in asdict(record).items() if name not in TIMES}
        for record in records
    ]


def equal_weights(a: nn.Module, b: nn.Module) -> bool:
    return all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_fit_makes_a_model_withstand_attacks_and_evaluate_measures_it() -> None:
    images, labels = (part[:500] for part in digits())
    model = seeded(0, lambda: SmallCNN(size=8, width=4))
    before = lrat.evaluate(model, (images, labels), threat=THREAT, limit=100)
    fitted = lrat.fit(model, (images, labels), method="sat", threat=THREAT, epochs=4, batch_size=32)
    after = lrat.evaluate(model, (images, labels), threat=THREAT, limit=100)
    assert after.worst_case.value > before.worst_case.value + 0.2
    assert not model.training
    assert len(fitted.records) == 4
    assert 1 <= fitted.selected_epoch <= 4
    values = [record.validation["pgd-10"] for record in fitted.records]
    assert fitted.validation_accuracy == max(values)


def test_a_result_has_shares_with_intervals_and_prints_as_a_table() -> None:
    result = lrat.evaluate(network(), DATA, threat=THREAT, suite="quick")
    assert isinstance(result, EvaluationResult)
    for share in (result.accuracy["pgd-20"], result.worst_case):
        assert 0 <= share.low <= share.value <= share.high <= 1
        assert share.n == 150
    assert len(result.outcomes) == 3 * 150
    assert str(result).splitlines()[0].split() == [
        "attack",
        "accuracy",
        "%",
        "95",
        "%",
        "interval",
        "forwards",
        "backwards",
    ]


def test_without_held_out_images_the_last_epoch_is_kept() -> None:
    model = network()
    fitted = lrat.fit(model, DATA, method="natural", threat=THREAT, epochs=2, validation=0)
    assert fitted.selected_epoch == 2
    assert fitted.validation_accuracy is None
    assert fitted.records[0].images == 150


def test_the_same_call_gives_the_same_model_and_another_seed_another() -> None:
    models = []
    for seed in (0, 0, 1):
        model = network()
        lrat.fit(model, DATA, method="lrat-cw", threat=THREAT, epochs=2, seed=seed)
        models.append(model)
    assert equal_weights(models[0], models[1])
    assert not equal_weights(models[0], models[2])


def test_lists_bytes_and_channel_last_images_are_taken_as_they_come() -> None:
    bytes_last = (255 * EASY["images"]).round().astype(np.uint8).transpose(0, 2, 3, 1)
    result = lrat.evaluate(network(), (bytes_last, EASY["labels"].tolist()), threat=THREAT)
    assert result.worst_case.n == 150


def test_an_objective_from_parts() -> None:
    attack = PGD(threat=THREAT, steps=2, step_size=0.05)
    objective = Reweighted(terms=[Term(name="mine", attack=attack)])
    fitted = lrat.fit(network(), DATA, method=objective, threat=THREAT, epochs=1)
    assert set(fitted.records[0].terms) == {"mine"}


def test_an_objective_of_ones_own_learns() -> None:
    fitted = lrat.fit(network(), DATA, method=Noisy(), threat=THREAT, epochs=6, lr=0.3)
    losses = [record.terms["noisy"]["loss"] for record in fitted.records]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("method", ["lrat-cw", "own"])
def test_an_interrupted_fit_is_continued_by_the_same_call(method: str, tmp_path: Path) -> None:
    def fit(model: nn.Module, folder: Path, **extra: object) -> lrat.FitResult:
        chosen = Noisy() if method == "own" else method  # another object, as in another process
        options = {"epochs": 4, "batch_size": 40, "out": folder, **extra}
        return lrat.fit(model, DATA, method=chosen, threat=THREAT, **options)

    whole, parts = network(), network()
    expected = fit(whole, tmp_path / "whole")
    with pytest.raises(Interrupted, match="stopped by SIGTERM in epoch 3 after step 2; saved in"):
        fit(parts, tmp_path / "parts", progress=Stop(3))
    again = network()
    result = fit(again, tmp_path / "parts")
    assert equal_weights(again, whole)
    assert same(result.records) == same(expected.records)
    assert result.selected_epoch == expected.selected_epoch
    assert (tmp_path / "parts" / "metrics.jsonl").read_text().count("\n") == 4


def test_a_method_written_out_trains_and_is_continued_as_itself_alone(tmp_path: Path) -> None:
    def written(beta: float) -> dict[str, object]:
        margin = {"name": "margin", "alpha": 2, "beta": beta}
        terms = [{"attack": "saa", "weighting": margin}, {"attack": "cw", "weighting": margin}]
        return {"terms": terms, "min_weight": 0.1}

    by_name, by_value = network(), network()
    options = {"threat": THREAT, "epochs": 1, "batch_size": 40}
    lrat.fit(by_name, DATA, method="lrat-saa+cw", **options)
    lrat.fit(by_value, DATA, method=written(0.5), out=tmp_path, **options)
    assert equal_weights(by_value, by_name)
    lrat.fit(network(), DATA, method=written(0.5), out=tmp_path, **options)
    with pytest.raises(lrat.LratError, match="another configuration"):
        lrat.fit(network(), DATA, method=written(0.6), out=tmp_path, **options)
    with pytest.raises(lrat.LratError, match=r"^method\.terms\[0\]\.attack: unknown attack 'sa'"):
        lrat.fit(network(), DATA, method={"terms": [{"attack": "sa"}]}, **options)


def test_other_settings_do_not_continue_a_fit(tmp_path: Path) -> None:
    lrat.fit(network(), DATA, method="sat", threat=THREAT, epochs=1, out=tmp_path)
    before = contents(tmp_path)
    for changed in ({"seed": 1}, {"method": "gairat"}, {"threat": L2(epsilon=0.1)}, {"lr": 0.2}):
        options = {"method": "sat", "threat": THREAT, "epochs": 1, **changed}
        with pytest.raises(lrat.LratError, match="another configuration"):
            lrat.fit(network(), DATA, out=tmp_path, **options)
    assert contents(tmp_path) == before


def halving(lr: float, position: float, length: int) -> float:
    return lr / 2**position


def constant(factor: float) -> Schedule:
    def rate(lr: float, position: float, length: int) -> float:
        return factor * lr

    return rate


def attacking(loss: LossLike) -> Objective:
    attack = PGD(threat=THREAT, steps=1, step_size=0.1, loss=loss)
    return Reweighted(terms=[Term(name="mine", attack=attack)])


class Scaled(Noisy):
    """Prints as its class alone."""

    def __init__(self, amount: float) -> None:
        self.amount = amount


@pytest.mark.parametrize(
    ("first", "other"),
    [
        (
            {"schedule": lambda lr, position, length: lr},
            {"schedule": lambda lr, position, length: 0.1 * lr},
        ),
        ({"schedule": constant(1.0)}, {"schedule": constant(0.1)}),
        ({"schedule": partial(lambda f, lr, *_: f * lr, 1)}, {"schedule": halving}),
        (
            {"augmentation": lambda images, noise: images},
            {"augmentation": lambda images, noise: images.flip(3)},
        ),
        ({"method": Scaled(0.1)}, {"method": Scaled(0.2)}),
        (
            {"method": attacking(lambda logits, labels: 1 * cross_entropy(logits, labels))},
            {"method": attacking(lambda logits, labels: -1 * cross_entropy(logits, labels))},
        ),
    ],
)
def test_functions_without_a_name_are_told_apart_by_their_code(
    first: dict, other: dict, tmp_path: Path
) -> None:
    def fit(**chosen: object) -> lrat.FitResult:
        options = {"method": "natural", "epochs": 1, "out": tmp_path, **chosen}
        return lrat.fit(network(), DATA, threat=THREAT, **options)

    result = fit(**first)
    assert fit(**first).records == result.records, "the same call reads it back"
    before = contents(tmp_path)
    with pytest.raises(lrat.LratError, match="another configuration"):
        fit(**other)
    assert contents(tmp_path) == before


def test_a_function_without_a_name_is_the_same_in_another_process(tmp_path: Path) -> None:
    code = """
import torch, lrat
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
data = (torch.rand(12, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 2)
rate = lambda lr, position, length: lr if position in {'a', 'b', 0.0} else 0.5 * lr
class Plain:
    def __init__(self):
        self.words, self.other = {'one', 'two', 'three'}, object()
    def __call__(self, images, noise):
        return images
lrat.fit(model, data, threat='linf:0.1', method='natural', epochs=1, schedule=rate,
         augmentation=Plain(), out='run', validation=0)
"""
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path, capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("\n") == 1


def darken(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """An attack of one's own: a plain callable."""
    return (images - 0.1).clamp(0, 1)


def test_a_suite_of_ones_own_with_a_plain_callable() -> None:
    pgd = PGD(threat=THREAT, steps=3, step_size=0.05)
    suite = custom(THREAT, {"darken": darken, "pgd-3": pgd}, name="mine")
    result = lrat.evaluate(network(), DATA, threat=THREAT, suite=suite)
    assert result.names == ("natural", "darken", "pgd-3")
    assert result.suite == "mine"
    rows = result.outcomes.under("darken")
    attacked = ~result.outcomes.under("natural").fooled
    assert np.allclose(rows.distance[attacked], 0.1, atol=1e-6)


def test_an_attack_that_leaves_the_region_is_an_error() -> None:
    suite = custom(Linf(epsilon=0.05), {"darken": darken})
    with pytest.raises(RegionViolationError, match=r"^darken left Linf\(epsilon=0.05\) on image "):
        lrat.evaluate(network(), DATA, threat=Linf(epsilon=0.05), suite=suite)


def test_a_suite_inside_another_threat_is_refused() -> None:
    suite = custom(THREAT, {"darken": darken})
    with pytest.raises(SettingError, match=r"the suite attacks inside Linf.*but threat is L2"):
        lrat.evaluate(network(), DATA, threat=L2(epsilon=1), suite=suite)


def test_an_evaluation_in_a_folder_is_read_back_and_guarded(tmp_path: Path) -> None:
    model = network()
    first = lrat.evaluate(model, DATA, threat=THREAT, folder=tmp_path)
    before = contents(tmp_path)
    assert str(lrat.evaluate(model, DATA, threat=THREAT, folder=tmp_path)) == str(first)
    assert str(EvaluationResult.from_folder(tmp_path)) == str(first)
    assert contents(tmp_path) == before
    with torch.no_grad():
        model[3].bias += 1
    with pytest.raises(RunFolderError, match="belongs to another evaluation"):
        lrat.evaluate(model, DATA, threat=THREAT, folder=tmp_path)


def test_models_modes_and_gradients_are_left_alone_by_evaluate() -> None:
    model = network().train()
    model[1].eval()
    lrat.evaluate(model, DATA, threat=THREAT)
    assert [module.training for module in model] == [True, False, True, True]
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"data": (255 * DATA[0], DATA[1])}, DataError, r"must lie in \[0, 1\], but range over \["),
        ({"data": (DATA[0], DATA[1][:5])}, DataError, "150 images but 5 labels"),
        ({"data": (DATA[0][:0], DATA[1][:0])}, DataError, "is empty"),
        ({"model": nn.Flatten()}, ModelError, "no parameter of the model requires a gradient"),
        ({"model": nn.Linear(5, 3)}, ModelError, r"returns shape \(2, 3, 6, 3\) for 2 images"),
        ({"method": "lart-saa"}, SettingError, r"or 'lrat-saa'\?"),
        ({"epochs": 0}, SettingError, "epochs=0: must be a whole number >= 1"),
        ({"lr": float("nan")}, SettingError, "must be a finite number > 0"),
        ({"batch_size": 0}, SettingError, "batch_size=0"),
        ({"validation": 1.0}, SettingError, ">= 0 and < 1"),
        ({"device": "gpu"}, SettingError, "use auto, cpu or cuda"),
    ],
)
def test_what_does_not_fit_is_one_line(
    change: dict, error: type[Exception], words: str, tmp_path: Path
) -> None:
    options = {"model": network(), "data": DATA, "threat": THREAT, "epochs": 1, **change}
    model, data = options.pop("model"), options.pop("data")
    with pytest.raises(error, match=words) as caught:
        lrat.fit(model, data, out=tmp_path / "run", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_values_of_another_kind_are_one_line(tmp_path: Path) -> None:
    """In a process of its own, where no run-time type check comes first."""
    code = """
import torch, lrat
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
data = (torch.rand(6, 1, 2, 2), torch.arange(6) % 2)
common = dict(threat='linf:0.1')
for call, change in (
    (lrat.evaluate, dict(suite=None)),
    (lrat.evaluate, dict(seed='a')),
    (lrat.evaluate, dict(folder=5)),
    (lrat.evaluate, dict(folder='taken')),
    (lrat.evaluate, dict(acceleration='x')),
    (lrat.evaluate, dict(model=model.forward)),
    (lrat.check_masking, dict(model=model.forward)),
    (lrat.fit, dict(model=model.forward)),
    (lrat.fit, dict(out='taken')),
):
    options = {**common, **change}
    try:
        call(options.pop('model', model), data, **options)
    except lrat.LratError as error:
        print(error)
"""
    (tmp_path / "taken").write_text("")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    starts = (
        "suite=None: must be a suite's name",
        "seed='a': must be a whole number",
        "folder=5: must be a path",
        "taken is a file: name a folder",
        "acceleration='x': must be 'auto' or 'off'",
        "model=<bound method",
        "model=<bound method",
        "model=<bound method",
        "taken is a file: name a folder",
    )
    lines = done.stdout.splitlines()
    assert [line[: len(start)] for line, start in zip(lines, starts, strict=True)] == list(starts)


def test_epsilon_in_pixel_units_is_refused() -> None:
    with pytest.raises(SettingError, match="8/255 was probably meant"):
        lrat.threat.Linf(epsilon=8)
