"""Adaptive attacks: a loss of one's own in every attack, from Python and from the command line."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrat
from experiments.commands import done
from experiments.commands import lrat as command
from lrat.attacks import PGD
from lrat.errors import SettingError
from lrat.evaluation import adaptive, custom
from lrat.losses import Targeted, cw, kl
from lrat.threat import Linf
from trained import digits, trained

THREAT = Linf(epsilon=0.1)


def problem(count: int = 40) -> tuple[Tensor, Tensor]:
    images, labels = digits()
    return images[1400 : 1400 + count], labels[1400 : 1400 + count]


class Loud(nn.Module):
    """A model that hides: with logits so large the softmax is saturated and its gradient is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = trained("dense")

    def forward(self, images: Tensor) -> Tensor:
        return 1e5 * self.inner(images)


def test_added_members_ascend_the_loss() -> None:
    seen: list[tuple[int, ...]] = []

    def watched(logits: Tensor, labels: Tensor) -> Tensor:
        seen.append(tuple(logits.shape))
        return cw(logits, labels)

    plain = custom(THREAT, {"pgd": PGD(threat=THREAT, steps=2, step_size=0.02)})
    result = lrat.evaluate(trained("dense"), problem(), threat=THREAT, suite=plain, loss=watched)
    assert result.names == ("natural", "pgd", "pgd-20-adaptive", "apgd-adaptive", "square-adaptive")
    assert seen
    assert all(shape[1] == 10 for shape in seen)
    for name in result.names[2:]:
        assert "watched" in result.settings[name]
    assert result.accuracy["apgd-adaptive"].value < result.accuracy["natural"].value


def test_an_adaptive_loss_sees_what_the_others_do_not() -> None:
    """Success stays what it was: another class than the label's, on the model itself."""
    still = PGD(threat=THREAT, steps=20, step_size=0.025, start="none")
    plain = custom(THREAT, {"pgd": still})
    result = lrat.evaluate(Loud(), problem(), threat=THREAT, suite=plain, loss=cw)
    assert result.accuracy["pgd"] == result.accuracy["natural"]
    bare = lrat.evaluate(trained("dense"), problem(), threat=THREAT, suite=plain)
    assert result.accuracy["pgd-20-adaptive"].value <= bare.accuracy["pgd"].value + 0.05
    assert bare.accuracy["pgd"].value < bare.accuracy["natural"].value


def test_losses_with_targets_are_ascended_by_attacks_that_aim() -> None:
    ranks: list[int] = []

    def towards(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        assert (targets != labels).all()
        ranks.append(len(targets))
        picked = logits.gather(1, torch.stack([targets, labels], 1))
        return picked[:, 0] - picked[:, 1]

    quick = custom(THREAT, {"pgd": PGD(threat=THREAT, steps=2, step_size=0.02)})
    added = adaptive(THREAT, Targeted(towards))
    assert [member.name for member in added] == ["apgd-t-adaptive", "fab-t-adaptive"]
    result = lrat.evaluate(
        trained("dense"), problem(10), threat=THREAT, suite=quick, loss=Targeted(towards)
    )
    assert ranks
    assert result.names[2:] == ("apgd-t-adaptive", "fab-t-adaptive")
    assert result.accuracy["apgd-t-adaptive"].value <= result.accuracy["pgd"].value


def test_a_loss_that_compares_with_the_clean_image_is_no_score_for_square() -> None:
    names = [member.name for member in adaptive(THREAT, kl)]
    assert names == ["pgd-20-adaptive", "apgd-adaptive"]


def test_named_suites_take_the_members_too() -> None:
    result = lrat.evaluate(
        trained("dense"), problem(6), threat=THREAT, suite="quick", loss=cw, limit=5
    )
    assert result.names[1:4] == ("pgd-20", "cw-20", "pgd-20-adaptive")


@pytest.mark.parametrize(
    ("loss", "cause"),
    [
        (lambda logits, labels: logits.sum(), "return one value per image"),
        (lambda logits, labels: logits, "return one value per image"),
    ],
)
def test_losses_that_are_none_are_refused(loss: Any, cause: str) -> None:
    with pytest.raises(SettingError, match=cause):
        lrat.evaluate(trained("dense"), problem(5), threat=THREAT, loss=loss)


OWN = """
import torch
from lrat.losses import Targeted


def margin(logits, labels):
    true = logits.gather(1, labels[:, None]).squeeze(1)
    return logits.scatter(1, labels[:, None], float("-inf")).amax(1) - true


@Targeted
def towards(logits, labels, targets):
    both = logits.gather(1, torch.stack([targets, labels], 1))
    return both[:, 0] - both[:, 1]


def whole(logits, labels):
    return logits.sum()


def cut(logits, labels):
    return logits.argmax(1).float()


def number(logits, labels):
    return 3.0


def broken(logits, labels):
    return logits @ labels
"""
SHORT = "name: short\nattacks: {pgd: {attack: pgd, steps: 2}}\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "short.yaml").write_text(SHORT)
    return tmp_path


def rows(out: str) -> list[str]:
    return [line.split()[0] for line in out.splitlines()[2:] if not line.startswith("evidence")]


def test_a_loss_in_a_file_from_the_command_line(run: Path, here: Path) -> None:
    options = ("--limit", 10, "--suite", "short.yaml", "--loss")
    out = done("evaluate", run, *options, "own.py:margin")
    added = ["pgd-20-adaptive", "apgd-adaptive", "square-adaptive"]
    assert rows(out)[:5] == ["natural", "pgd", *added]
    first = out.splitlines()[-1]
    assert "selected-short-linf-0.2-10-adaptive-margin-" in first
    assert done("evaluate", run, *options, "own.py:margin") == out, "read back"
    (here / "own.py").write_text(OWN.replace("logits.sum()", "logits.mean()"))
    changed = done("evaluate", run, *options, "own.py:margin")
    assert changed.splitlines()[-1] != first, "another version of the file is another loss"
    targeted = done("evaluate", run, "--limit", 4, *options[2:], "own.py:towards")
    assert rows(targeted)[:4] == ["natural", "pgd", "apgd-t-adaptive", "fab-t-adaptive"]


def test_each_loss_has_a_folder_of_its_own(run: Path, here: Path) -> None:
    twin = OWN.replace(
        "def whole", "def twin(logits, labels):\n    return margin(logits, labels)\n\n\ndef whole"
    )
    (here / "own.py").write_text(twin)
    places = []
    for loss in ("own.py:margin", "own.py:twin", "cw", "dlr"):
        out = done("evaluate", run, "--limit", 4, "--loss", loss)
        places.append(Path(out.splitlines()[-1].removeprefix("evidence in ")).name)
    assert len(set(places)) == 4
    assert places[0].startswith("selected-quick-linf-0.2-4-adaptive-margin-")
    assert places[1].startswith("selected-quick-linf-0.2-4-adaptive-twin-")
    assert places[2:] == [f"selected-quick-linf-0.2-4-adaptive-{name}" for name in ("cw", "dlr")]


@pytest.mark.parametrize(
    ("loss", "cause"),
    [
        ("own.py:gone", "own.py has no 'gone'"),
        ("gone.py:x", "there is no Python file gone.py"),
        ("cw2", "unknown loss 'cw2': did you mean 'cw'?"),
        ("own.py:whole", "loss 'own.py:whole' returned shape () for"),
        ("own.py:cut", "loss 'own.py:cut' does not depend on the logits differentiably"),
        ("own.py:number", "loss 'own.py:number' returned float: return a tensor"),
        ("own.py:broken", "loss 'own.py:broken' fails in own.py, line 30: RuntimeError: "),
    ],
)
def test_a_loss_that_cannot_be_used_is_one_line(
    loss: str, cause: str, run: Path, here: Path
) -> None:
    answer = command("evaluate", run, "--limit", 6, "--suite", "short.yaml", "--loss", loss)
    assert cause in answer.complaint
