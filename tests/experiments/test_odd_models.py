"""``lrat.evaluate`` on odd models and data: a result or one clear line, never a wrong number."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrat
from builders import seeded
from lrat.attacks import APGD, FAB, PGD, Cascade, LogitScaled, Restarts, Square
from lrat.errors import DataError, LratError, ModelError, NonFiniteError, RegionViolationError
from lrat.evaluation import EvaluationResult, Suite, custom, paper
from lrat.losses import cross_entropy, dlr, targeted_dlr
from lrat.threat import L2, Ball, Linf
from trained import digits, trained

THREAT = Linf(epsilon=0.1)
COUNT = 24


def problem(count: int = COUNT) -> tuple[Tensor, Tensor]:
    images, labels = digits()
    return images[1400 : 1400 + count], labels[1400 : 1400 + count]


def short(targets: int = 9) -> Suite:
    """What ``paper`` holds, in a few steps."""
    members = {
        "apgd-ce": APGD(threat=THREAT, steps=5, retire_every=2),
        "apgd-t": APGD(threat=THREAT, steps=5, loss=targeted_dlr, targets=targets),
        "fab-t": FAB(threat=THREAT, steps=5, targets=targets, retire_every=2),
        "square": Square(threat=THREAT, queries=10),
    }
    pgd = PGD(threat=THREAT, steps=3, step_size=0.05)
    return custom(THREAT, {"pgd": pgd, "autoattack": Cascade(members=members)}, name="paper")


def evaluate(
    model: nn.Module, data: Any = None, suite: Suite | None = None, **settings: Any
) -> EvaluationResult:
    data = problem() if data is None else data
    return lrat.evaluate(model.eval(), data, threat=THREAT, suite=suite or short(), **settings)


class Through(nn.Module):
    """The trained model with something done to its logits."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inner = trained("dense")
        self.change = change

    def forward(self, images: Tensor) -> Any:
        return self.change(self.inner(images))


def said(error: pytest.ExceptionInfo[LratError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


OUTPUTS: dict[str, Callable[[Tensor], Any]] = {
    "tuple": lambda logits: (logits, "hidden"),
    "list": lambda logits: [logits, None],
    "dict": lambda logits: {"logits": logits, "loss": None},
    "object": lambda logits: SimpleNamespace(logits=logits),
    "double": lambda logits: logits.double(),
    "more classes than the data": lambda logits: torch.cat([logits, logits - 30], 1),
}


@pytest.mark.parametrize("change", OUTPUTS.values(), ids=OUTPUTS)
def test_logits_in_any_wrapping_are_logits(change: Callable[[Tensor], Any]) -> None:
    found, plain = evaluate(Through(change)), evaluate(trained("dense"))
    assert found.accuracy == plain.accuracy
    assert 0 < found.worst_case.value < found.accuracy["natural"].value


def test_probabilities_are_noted_beside_the_numbers(tmp_path: Path) -> None:
    """In the table, in the folder, and where only outcomes are left to read."""
    model = Through(lambda logits: logits.softmax(1))
    note = "the model seems to return probabilities instead of logits"
    result = evaluate(model, folder=tmp_path)
    assert result.notes[0].startswith(note)
    assert f"note: {note}" in str(result)
    assert str(EvaluationResult.from_folder(tmp_path)) == str(result)
    (tmp_path / "summary.json").unlink()
    assert str(evaluate(model, folder=tmp_path)) == str(result)
    assert evaluate(trained("dense")).notes == ()


def test_wrong_ranges_and_labels_are_refused() -> None:
    images, labels = problem()
    for changed in (images * 255, images - 0.5, images * torch.nan):
        with pytest.raises(DataError, match=r"must lie in \[0, 1\]|NaN or infinite") as error:
            evaluate(trained("dense"), (changed, labels))
        said(error)
    for wrong in (labels - 1, labels + 0.5):
        with pytest.raises(DataError) as error:
            evaluate(trained("dense"), (images, wrong))
        said(error)
    with pytest.raises(DataError, match="data is empty"):
        evaluate(trained("dense"), (images[:0], labels[:0]))


def test_too_few_classes_are_refused() -> None:
    with pytest.raises(ModelError, match="the model knows 3 classes, data has 10") as error:
        evaluate(Through(lambda logits: logits[:, :3]))
    said(error)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_are_no_numbers_are_refused_with_the_image(value: float) -> None:
    def some(logits: Tensor) -> Tensor:
        return torch.where(logits.argmax(1, keepdim=True) == 3, value, logits)

    with torch.no_grad():
        first = int((trained("dense")(problem()[0]).argmax(1) == 3).nonzero()[0])
    with pytest.raises(NonFiniteError, match=rf"on image {first} under natural") as error:
        evaluate(Through(some))
    said(error)


def test_a_model_without_gradients_is_one_line_and_square_alone_works() -> None:
    model = Through(lambda logits: logits.detach())
    with pytest.raises(ModelError, match="gradient attacks cannot be used on it") as error:
        evaluate(model, suite=paper(THREAT))
    said(error)
    assert "`attacks: {square: {attack: square}}`" in str(error.value)
    alone = custom(THREAT, {"square": Square(threat=THREAT, queries=20)})
    result = evaluate(model, suite=alone)
    assert result.accuracy == evaluate(trained("dense"), suite=alone).accuracy
    assert result.worst_case.value < result.accuracy["natural"].value


class Rooted(nn.Module):
    """A root at 0: finite logits, and a gradient that is NaN on images above ``limit``."""

    def __init__(self, limit: float = -1.0) -> None:
        super().__init__()
        self.inner, self.limit = trained("dense"), limit

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        root = (flat.sum(1) * (flat.mean(1) <= self.limit)).sqrt()
        logits: Tensor = self.inner(images) + 0 * root[:, None]
        return logits


GRADIENT_ATTACKS = {
    "pgd": lambda ball: PGD(threat=ball, steps=2, step_size=ball.epsilon / 2),
    "apgd": lambda ball: APGD(threat=ball, steps=3, retire_every=1),
    "fab": lambda ball: FAB(threat=ball, steps=3),
    "scaled": lambda ball: LogitScaled(attack=APGD(threat=ball, steps=3), scale=2),
}


@pytest.mark.parametrize("threat", [THREAT, L2(epsilon=1.0)], ids=["linf", "l2"])
@pytest.mark.parametrize("make", GRADIENT_ATTACKS.values(), ids=GRADIENT_ATTACKS)
def test_gradients_that_are_no_numbers_are_refused(make: Any, threat: Ball) -> None:
    """The sign of NaN is 0: the attack would stand still, the model look robust."""
    suite = custom(threat, {"attack": make(threat)})
    for acceleration in ("auto", "off"):
        with pytest.raises(NonFiniteError, match=r"gradient is NaN on image \d+ \(") as error:
            lrat.evaluate(
                Rooted(), problem(), threat=threat, suite=suite, acceleration=acceleration
            )
        said(error)
    alone = custom(threat, {"square": Square(threat=threat, queries=20)})
    result = lrat.evaluate(Rooted(), problem(), threat=threat, suite=alone)
    assert result.worst_case.value < result.accuracy["natural"].value


def test_the_first_image_without_a_gradient_is_named() -> None:
    images, labels = problem()
    means = images.flatten(1).mean(1)
    with torch.no_grad():
        right = trained("dense")(images).argmax(1) == labels
    limit = float(means[right].sort().values[-3])
    first = int(((means > limit) & right).nonzero()[0])
    suite = custom(THREAT, {"pgd": PGD(threat=THREAT, steps=1, step_size=0.01, start="none")})
    with pytest.raises(NonFiniteError, match=rf"on image {first} \(2 such\) under pgd"):
        evaluate(Rooted(limit), suite=suite)


def test_a_loss_of_ones_own_that_is_no_number_is_refused() -> None:
    with pytest.raises(
        NonFiniteError, match="under pgd-20-adaptive, so gradient attacks do not move"
    ):
        evaluate(trained("dense"), loss=lambda logits, labels: logits.sum(1) * torch.nan)


def test_square_alone_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "square.yaml").write_text("attacks: {square: {attack: square, queries: 20}}")
    model = Through(lambda logits: logits.detach())
    result = lrat.evaluate(
        model, problem(), threat=THREAT, suite=str(tmp_path / "square.yaml"), limit=10
    )
    assert result.names == ("natural", "square")


def test_all_images_wrong_and_a_single_image() -> None:
    images, _ = problem()
    with torch.no_grad():
        wrong = (trained("dense")(images).argmax(1) + 1) % 10
    result = evaluate(trained("dense"), (images, wrong))
    assert {share.value for share in result.accuracy.values()} == {0.0}
    assert result.worst_case.high < 0.2
    assert result.passes["autoattack"].forwards == 0
    single = evaluate(trained("dense"), (images[:1], wrong[:1] - 1))
    assert (single.worst_case.n, single.worst_case.value) == (1, 0.0)


def test_images_that_are_not_square() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 3 * 5, 10))

    model = seeded(0, build)
    images = torch.rand(30, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        labels = model(images).argmax(1)
    result = evaluate(model, (images, labels))
    assert result.accuracy["natural"].value == 1
    assert result.worst_case.value < 1


def test_an_attack_that_leaves_its_region_is_named_with_image_and_excess() -> None:
    images, labels = problem()
    with torch.no_grad():
        right = trained("dense")(images).argmax(1) == labels
    second = int(right.nonzero()[1])

    def leaving(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        moved = images.clone()
        moved[1] = (moved[1] - 0.15).abs()
        return moved

    with pytest.raises(RegionViolationError, match=rf"leaving left .* on image {second} by 0\.05"):
        evaluate(trained("dense"), suite=custom(THREAT, {"leaving": leaving}))


def few(classes: int) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """The trained model on digits below ``classes``, knowing no others."""
    images, labels = digits()
    rows = (labels[1400:] < classes).nonzero().flatten()[:COUNT] + 1400
    return Through(lambda logits: logits[:, :classes]), (images[rows], labels[rows])


def aims(stage: str, classes: int) -> str:
    return f"autoattack.{stage} aims at {classes - 1} wrong classes instead of 9"


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_few_classes_are_attacked_and_what_was_replaced_is_said(
    classes: int, tmp_path: Path
) -> None:
    model, data = few(classes)
    result = evaluate(model, data, folder=tmp_path)
    assert result.worst_case.value < result.accuracy["natural"].value
    expected = [aims("apgd-t", classes), aims("fab-t", classes)]
    if classes < 4:
        expected.insert(
            1,
            "autoattack.apgd-t ascends z_t - z_y: the targeted DLR loss needs four classes, the "
            f"model has {classes}",
        )
    assert list(result.notes) == expected
    assert str(result).splitlines()[-len(expected) :] == [f"note: {each}" for each in expected]
    assert EvaluationResult.from_folder(tmp_path).notes == result.notes
    again = evaluate(model, data, folder=tmp_path)
    assert again.notes == result.notes, "also where nothing is left to attack"


def test_what_is_replaced_inside_other_attacks_is_said_too() -> None:
    model, data = few(2)
    targeted = APGD(threat=THREAT, steps=2, loss=targeted_dlr, targets=2)
    plain = APGD(threat=THREAT, steps=2, loss=dlr)
    suite = custom(
        THREAT,
        {
            "twice": Restarts(attack=LogitScaled(attack=targeted, scale=2), count=2),
            "dlr": plain,
            "ce": APGD(threat=THREAT, steps=2, loss=cross_entropy),
        },
    )
    assert evaluate(model, data, suite=suite).notes == (
        "twice aims at 1 wrong classes instead of 2",
        "twice ascends z_t - z_y: the targeted DLR loss needs four classes, the model has 2",
        "dlr ascends the logit margin: the DLR loss needs three classes, the model has 2",
    )


def test_ten_classes_need_no_note() -> None:
    assert evaluate(trained("dense")).notes == ()
