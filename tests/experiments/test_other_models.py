"""A stored run or evaluation belongs to a model: its code, its gradients, what it began with."""

import copy
import json
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lrat
from experiments.commands import contents
from lrat.attacks import FGSM
from lrat.config.user_code import model_from_file
from lrat.errors import Interrupted, RunFolderError, SettingError
from lrat.evaluation import custom
from lrat.evaluation.merge import merge
from lrat.threat import Linf

pytestmark = pytest.mark.usefixtures("own_randomness")
BALL = Linf(epsilon=0.05)
LABELS = torch.arange(24) % 2
IMAGES = torch.rand(24, 1, 5, 5, generator=torch.Generator().manual_seed(0))
DATA = IMAGES, LABELS
LEVELS = 4


class Net(nn.Module):
    """``loaded`` counts as a counter of a user's does; ``depth`` is a setting."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(25, 6), nn.Linear(6, 2)
        self.calls, self.depth, self.memory = 0, 1.0, []
        self.act: Callable[[Tensor], Tensor] = torch.relu

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        self.memory.append(self.calls)
        return self.head(self.act(self.hidden(self.seen(images).flatten(1))))

    def seen(self, images: Tensor) -> Tensor:
        return images


class Flip(Net):
    def seen(self, images: Tensor) -> Tensor:
        return 1 - images


class Rounded(Net):
    """Its gradient is hidden."""

    def seen(self, images: Tensor) -> Tensor:
        return (LEVELS * images).round() / LEVELS


class Through(Rounded):
    """The same answers, with a gradient."""

    def seen(self, images: Tensor) -> Tensor:
        return images + (super().seen(images) - images).detach()


def made(kind: Callable[[], nn.Module] = Net, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return kind()


def scaled(by: float) -> Callable[[Tensor], Tensor]:
    return lambda values: torch.relu(values) * by


def with_act(by: float) -> Net:
    model = made()
    model.act = scaled(by)
    return model


def with_depth() -> Net:
    model = made()
    model.depth = 2.0
    return model


def with_hook() -> Net:
    model = made()
    model.hidden.register_full_backward_hook(lambda module, given, gradients: (0 * given[0],))
    return model


def with_forward() -> Net:
    model = made()
    model.seen = MethodType(lambda self, images: images**2, model)
    return model


def evaluated(model: nn.Module, folder: Path, attack: Any = None, **options: Any) -> Any:
    suite = custom(BALL, {"attack": attack or FGSM(threat=BALL)})
    return lrat.evaluate(model, DATA, threat=BALL, suite=suite, folder=folder, **options)


def fitted(model: nn.Module, folder: Path, **options: Any) -> Any:
    settings = {"method": "natural", "epochs": 1, "lr": 0.01, "validation": 0.0, **options}
    return lrat.fit(model, DATA, threat=BALL, out=folder, **settings)


OTHERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "another forward": (made, lambda: made(Flip)),
    "a gradient that is shown": (lambda: made(Rounded), lambda: made(Through)),
    "another closed-over value": (lambda: with_act(1.0), lambda: with_act(1.0001)),
    "another attribute": (made, with_depth),
    "a hook": (made, with_hook),
    "a method of the instance": (made, with_forward),
}


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("stored", [evaluated, fitted])
def test_another_model_is_refused_in_one_line(
    what: str, stored: Callable[..., Any], tmp_path: Path
) -> None:
    first, other = OTHERS[what]
    stored(first(), tmp_path)
    with pytest.raises(RunFolderError, match=r"is of another model|answers otherwise") as refused:
        stored(other(), tmp_path)
    assert "\n" not in str(refused.value)
    stored(first(), tmp_path)


def test_a_fit_belongs_to_the_weights_that_it_began_with(tmp_path: Path) -> None:
    model = made()
    first = fitted(model, tmp_path, epochs=2)
    again = fitted(made(), tmp_path, epochs=2)
    assert again.records == first.records
    assert fitted(model, tmp_path, epochs=2).records == first.records, "the trained model itself"
    with pytest.raises(RunFolderError, match=r"began with other weights.*seed PyTorch"):
        fitted(made(seed=1), tmp_path, epochs=2)
    pretrained = made()
    with torch.no_grad():
        pretrained.head.bias += 0.001
    with pytest.raises(RunFolderError, match=r"other weights, as those of head\.bias"):
        fitted(pretrained, tmp_path, epochs=2)


class Stop:
    def on_step(self, progress: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def on_epoch(self, record: Any) -> None:
        return


def test_a_script_that_seeds_nothing_continues_what_was_interrupted(tmp_path: Path) -> None:
    """From the checkpoint, with a note; nothing that is finished, and no other model."""
    whole, parts = made(), made(seed=2)
    fitted(whole, tmp_path / "whole", epochs=2)
    with pytest.raises(Interrupted):
        fitted(made(), tmp_path / "parts", epochs=2, progress=Stop())
    with pytest.raises(RunFolderError, match=r"code|layers"):
        fitted(made(Flip), tmp_path / "parts", epochs=2)
    result = fitted(parts, tmp_path / "parts", epochs=2)
    assert "goes on from its checkpoint" in result.notes[-1]
    found = zip(whole.state_dict().values(), parts.state_dict().values(), strict=True)
    assert all(torch.equal(value, other) for value, other in found)
    with pytest.raises(RunFolderError, match="began with other weights"):
        fitted(made(seed=3), tmp_path / "parts", epochs=2)


def test_a_fit_belongs_to_the_parameters_that_learn(tmp_path: Path) -> None:
    fitted(made(), tmp_path, epochs=1)
    frozen = made()
    frozen.hidden.requires_grad_(False)
    with pytest.raises(RunFolderError, match=r"learns was 4 of 4.* and is 2 of 4"):
        fitted(frozen, tmp_path, epochs=1)


def test_trainings_and_evaluations_do_not_share_a_folder(tmp_path: Path) -> None:
    model = made()
    fitted(model, tmp_path / "fit", epochs=1)
    before = contents(tmp_path / "fit")
    with pytest.raises(SettingError, match="holds a training"):
        evaluated(model, tmp_path / "fit")
    assert contents(tmp_path / "fit") == before
    evaluated(model, tmp_path / "evaluation")
    with pytest.raises(SettingError, match="holds an evaluation"):
        fitted(model, tmp_path / "evaluation", epochs=1)


def test_rounding_and_ways_of_computing_make_no_other_model(tmp_path: Path) -> None:
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2)]
    model = nn.Sequential(*layers)
    for name, change, options in (
        ("a", 0, {"batch_size": 24, "acceleration": "off"}),
        ("b", 1e-7, {"batch_size": 5}),
    ):
        with torch.no_grad():
            for value in model.parameters():
                value.mul_(1 + change)
        evaluated(model, tmp_path / name, **options)
    first = (tmp_path / "a" / "fingerprint.json").read_bytes()
    (tmp_path / "b" / "fingerprint.json").write_bytes(first)
    evaluated(copy.deepcopy(model).train(), tmp_path / "b", batch_size=7)


def test_a_folder_of_an_earlier_version_is_continued(tmp_path: Path) -> None:
    for stored in (evaluated, fitted):
        folder = tmp_path / stored.__name__
        stored(made(), folder)
        (folder / "fingerprint.json").unlink()
        stored(with_depth(), folder)
        assert not (folder / "fingerprint.json").exists()


@pytest.mark.parametrize(
    "change",
    [{"code": 3}, {"logits": [[1.0]]}, {"weights": None}, {"else": 1}, {"values": {"a": 1}}],
)
def test_a_damaged_fingerprint_is_one_line(change: dict[str, Any], tmp_path: Path) -> None:
    evaluated(made(), tmp_path)
    path = tmp_path / "fingerprint.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RunFolderError, match=r"fingerprint\.json is damaged"):
        evaluated(made(), tmp_path)


class Brighter:
    """An attack that prints as its class alone."""

    def __init__(self, by: float) -> None:
        self.by, self.calls = by, 0

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        self.calls += 1
        return (images + self.by).clamp(0, 1)


def brighter(by: float) -> Callable[..., Tensor]:
    def attack(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return (images + by).clamp(0, 1)

    return attack


@pytest.mark.parametrize("kind", [Brighter, brighter])
def test_attacks_with_other_settings_are_other_attacks(kind: Any, tmp_path: Path) -> None:
    evaluated(made(), tmp_path, kind(0.01))
    evaluated(made(), tmp_path, kind(0.01))
    with pytest.raises(RunFolderError, match=r"attack|functions"):
        evaluated(made(), tmp_path, kind(0.02))


def test_parts_of_different_models_are_not_joined(tmp_path: Path) -> None:
    evaluated(made(Rounded), tmp_path / "a", limit=8)
    evaluated(made(Through), tmp_path / "b", limit=8)
    with pytest.raises(RunFolderError, match="of different models"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    merge([tmp_path / "a"], tmp_path / "out")
    assert (tmp_path / "out" / "fingerprint.json").is_file()


MODEL = """
import torch
from helper import Wide, act
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Linear(25, Wide.width), torch.nn.Linear(Wide.width, 2)
    def forward(self, x):
        return self.b(act(self.a(x.flatten(1))))
"""
HELPER = """
import torch
SLOPE = .1
class Wide:
    width = 6
def act(x):
    return torch.where(x > 0, x, SLOPE * x)
"""


def from_file(folder: Path, helper: str, name: str = "net.py", model: str = MODEL) -> Any:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(model)
    (folder / "helper.py").write_text(helper)
    return model_from_file(f"{folder / name}:Net", seed=0)


@pytest.mark.parametrize("stored", [evaluated, fitted])
def test_what_a_model_s_file_imports_belongs_to_it(
    stored: Callable[..., Any], tmp_path: Path
) -> None:
    here, out = tmp_path / "here", tmp_path / "out"
    stored(from_file(here, HELPER), out)
    stored(from_file(here, f"# a comment\n{HELPER}\nunused = 3\n"), out)
    moved = from_file(tmp_path / "there", HELPER, "moved.py", f"# elsewhere\n{MODEL}")
    if stored is fitted:  # the code of a model's file counts to the letter in an evaluation
        stored(moved, out)
    for old, new in (("SLOPE * x", "x * SLOPE"), ("SLOPE = .1", "SLOPE = .1001")):
        with pytest.raises(RunFolderError, match=r"another model|answers otherwise"):
            stored(from_file(here, HELPER.replace(old, new)), out)


DRAWING = """
import random
import numpy as np, torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        drawn = [random.random(), np.random.rand(), torch.rand(())]
        self.weight = torch.nn.Parameter(torch.tensor(drawn))
"""


def test_whatever_a_model_s_file_draws_from_follows_from_the_seed(tmp_path: Path) -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    first, again = (from_file(tmp_path, HELPER, model=DRAWING).weight for _ in range(2))
    assert torch.equal(first, again)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert after[:2] == before[:2]
    assert torch.equal(after[2], before[2])


class Linked:
    def __init__(self, following: Any) -> None:
        self.following = following


def nested(make: Callable[[Any], Any]) -> Any:
    found = None
    for _ in range(3000):
        found = make(found)
    return found


def circle() -> Any:
    found: list[Any] = []
    found += [found, found]
    return found


@pytest.mark.parametrize(
    "held",
    [nested(lambda inner: (inner,)), nested(Linked), circle()],
    ids=["tuples", "a linked list", "a circle"],
)
def test_what_a_model_holds_may_nest_without_end(held: Any, tmp_path: Path) -> None:
    for _ in range(2):
        model = made()
        model.held = held
        evaluated(model, tmp_path)


def test_a_model_that_cannot_be_printed_is_known_by_its_layers(tmp_path: Path) -> None:
    class Unprintable(Net):
        def __repr__(self) -> str:
            raise ValueError("not me")

    evaluated(made(Unprintable), tmp_path)
    evaluated(made(Unprintable), tmp_path)
    other = made(Unprintable)
    other.more = nn.Identity()
    with pytest.raises(RunFolderError, match="its layers changed"):
        evaluated(other, tmp_path)
