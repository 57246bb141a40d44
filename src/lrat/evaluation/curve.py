"""Accuracy against epsilon under one attack: the smallest epsilon of each image, by bisection.

An adversarial image at some epsilon lies in every larger ball too, so one search per image gives
the accuracy at all of them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lrat.attacks.base import Attack
from lrat.checks import ARGUMENTS, FUNCTION, MODULE, TEXT, checked
from lrat.errors import DataError, SettingError
from lrat.evaluation.curve_result import Brackets, Curve, Positions, epsilon_at
from lrat.evaluation.evaluate import evaluate_suite
from lrat.evaluation.outcomes import NATURAL
from lrat.evaluation.result import EvaluationResult
from lrat.evaluation.suites import Member, Suite
from lrat.threat import BALL, Ball
from lrat.types import Batch


@dataclass(frozen=True, kw_only=True)
class CurveProgress:
    """The brackets of all images after ``attacked`` of them were attacked at ``epsilon``."""

    epsilon: float
    attacked: int
    brackets: Brackets


@checked(threat=BALL, attack=FUNCTION, name=TEXT, view=MODULE)
def security_curve(
    model: nn.Module,
    batches: Iterable[Batch],
    attack: Callable[[Ball], Attack],
    threat: Ball,
    *,
    max_epsilon: float | None = None,
    levels: int = 32,
    name: str = "attack",
    view: nn.Module | None = None,
    seed: int = 0,
    known: Brackets | None = None,
    on_progress: Callable[[CurveProgress], None] | None = None,
    device: torch.device | str | None = None,
) -> Curve:
    """The smallest of ``levels`` equal steps of epsilon at which ``attack`` fools each image.

    ``attack`` returns the attack for a ball; balls are ``threat`` with other epsilons, up to
    ``max_epsilon`` (None: the threat's). Each image is attacked about log2(``levels``) times,
    together with the other images at the same epsilon, in batches as large as the largest of
    ``batches``; a perturbation smaller than its ball shortens the search. Verdicts are those of
    ``evaluate_suite`` (float32, the original model, region checked), the noise depends on seed,
    image and ``name`` alone, so results do not depend on the batches. An image that the attack does
    not fool at one epsilon, but would have fooled at a smaller one, counts as robust at both.

    ``known``: brackets of an earlier call with equal arguments, to continue from. ``on_progress``
    is called after each epsilon. All images are kept in memory. Raises the exceptions of
    ``evaluate_suite``.
    """
    highest = threat.epsilon if max_epsilon is None else max_epsilon
    balls = _Balls(threat, highest, levels)
    images, batch_size = _together(batches)
    brackets = _begin(images, levels) if known is None else _checked(known, images, levels)
    notes: tuple[str, ...] | None = None
    while brackets.searching.any():
        middle = np.where(brackets.searching, (brackets.low + brackets.high) // 2, 0)
        level = int(np.bincount(middle[brackets.searching]).argmax())
        rows = np.flatnonzero(middle == level)
        ball = balls.at(level)
        member = Member(name=name, attack=attack(ball))
        result = evaluate_suite(
            model,
            _parts(images, rows, batch_size),
            Suite(name="curve", threat=ball, members=(member,)),
            seed=seed,
            view=view,
            device=device,
            known_notes=notes,
        )
        notes = result.notes if notes is None else notes
        brackets = _narrowed(brackets, rows, level, result, balls)
        if on_progress is not None:
            on_progress(CurveProgress(epsilon=ball.epsilon, attacked=len(rows), brackets=brackets))
    settings = Member(name=name, attack=attack(balls.at(levels))).description
    return Curve(
        attack=name,
        settings=settings,
        norm=threat.norm.name,
        max_epsilon=highest,
        levels=levels,
        seed=seed,
        brackets=brackets,
        notes=notes or (),
    )


@dataclass(frozen=True)
class _Balls:
    """The threat at each level."""

    threat: Ball
    highest: float
    levels: int

    def __post_init__(self) -> None:
        ARGUMENTS["max_epsilon"]("max_epsilon", self.highest)
        self.at(self.levels)  # raises before the first attack

    def at(self, level: int) -> Ball:
        threat: Any = self.threat
        try:
            ball: Ball = replace(threat, epsilon=epsilon_at(level, self.highest, self.levels))
        except TypeError:
            raise SettingError(
                f"{threat!r} is no dataclass with an epsilon, so it cannot vary: use Linf or L2"
            ) from None
        return ball

    def reached(self, distance: npt.NDArray[np.float64]) -> Positions:
        """[N]: the smallest level, at least 1, whose ball contains a perturbation of this norm."""
        grid = np.array(
            [epsilon_at(level, self.highest, self.levels) for level in range(self.levels)]
        )
        return np.maximum(np.searchsorted(grid + self.threat.tolerance, distance), 1)


def _together(batches: Iterable[Batch]) -> tuple[Batch, int]:
    """All images as one batch, and the size of the largest part."""
    parts = [part for part in batches if len(part)]
    if not parts:
        raise DataError("there are no images to attack: the data source is empty")
    whole = Batch.concatenate(parts)
    numbers, times = np.unique(whole.index.cpu().numpy(), return_counts=True)
    if len(numbers) < len(whole):
        twice = numbers[times > 1][0]
        raise DataError(f"image {twice} came twice: every image needs another index")
    return whole, max(map(len, parts))


def _parts(images: Batch, rows: Positions, size: int) -> list[Batch]:
    positions = torch.from_numpy(rows).to(images.labels.device)
    return [images.select(part) for part in torch.split(positions, size)]


def _begin(images: Batch, levels: int) -> Brackets:
    index = images.index.cpu().numpy()
    return Brackets(
        index=index,
        label=images.labels.cpu().numpy(),
        low=np.zeros_like(index),
        high=np.full_like(index, levels + 1),
    )


def _checked(known: Brackets, images: Batch, levels: int) -> Brackets:
    fresh = _begin(images, levels)
    same = np.array_equal(known.index, fresh.index) and np.array_equal(known.label, fresh.label)
    if not same or (len(known) and int(known.high.max()) > levels + 1):
        raise DataError("the known brackets are of other images or levels: begin a new curve")
    return known


def _narrowed(
    brackets: Brackets, rows: Positions, level: int, result: EvaluationResult, balls: _Balls
) -> Brackets:
    """The brackets after the attack at ``level`` on ``rows``."""
    low, high = brackets.low.copy(), brackets.high.copy()
    index = brackets.index[rows]
    wrong = result.outcomes.under(NATURAL).at(index).fooled
    fooled, reached = wrong.copy(), np.full(len(rows), level)
    for name in result.identity["attacks"]:
        outcomes = result.outcomes.under(name).at(index)
        fooled |= outcomes.fooled
        # The distance is that of the attack's image only where the attack ran.
        ran = outcomes.fooled & (outcomes.forwards > 0)
        within = balls.reached(outcomes.distance.astype(np.float64))
        reached = np.where(ran, np.minimum(reached, within), reached)
    reached = np.where(wrong, 0, reached)
    high[rows] = np.where(fooled, reached, high[rows])
    # A fooling image overrules an earlier failure in a larger ball.
    low[rows] = np.where(fooled, np.minimum(low[rows], reached - 1), level)
    return replace(brackets, low=low, high=high)
