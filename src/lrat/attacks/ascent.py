"""One run of Auto-PGD from one start, with adaptive step sizes (Croce & Hein 2020)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lrat.attacks.gradient import image_gradient
from lrat.losses import Prepared, probability_margin
from lrat.outputs import forward_logits
from lrat.threat import Ball, Projection, per_image

_MOMENTUM = 0.75
_RHO = 0.75

Observer = Callable[[int, Tensor, Tensor], None]
"""Called after each iterate with its number, the losses [B] and the next step sizes [B]."""


@dataclass
class Candidate:
    """Images [B C H W] with their logits [B K], labels and number of the iterate (both [B])."""

    images: Tensor
    logits: Tensor
    labels: Tensor
    step: Tensor

    @cached_property
    def margin(self) -> Tensor:
        """Probability margin [B], computed on demand, since few iterates are compared by it."""
        return probability_margin(self.logits, self.labels)

    def replace(self, rows: Tensor, by: "Candidate") -> "Candidate":
        """``by`` where ``rows`` [B] is true."""
        return Candidate(
            images=torch.where(per_image(rows, self.images), by.images, self.images),
            logits=torch.where(rows[:, None], by.logits, self.logits),
            labels=self.labels,
            step=torch.where(rows, by.step, self.step),
        )

    def advance(self, rows: Tensor, images: Tensor, logits: Tensor, number: int) -> "Candidate":
        """The iterate of this number where ``rows`` [B] is true."""
        return Candidate(
            images=torch.where(per_image(rows, images), images, self.images),
            logits=torch.where(rows[:, None], logits, self.logits),
            labels=self.labels,
            step=self.step.masked_fill(rows, number),
        )

    def select(self, rows: Tensor) -> "Candidate":
        return Candidate(self.images[rows], self.logits[rows], self.labels[rows], self.step[rows])


@dataclass
class Ascent:
    """A run after iterate ``number``: every tensor has a row per start, so rows can be dropped.

    ``best`` is the best-loss iterate; ``wrong`` the latest misclassified one, where ``ever_wrong``
    [B], kept only on request; ``last`` the newest iterate. ``row`` [B]: the numbers of the starts.
    """

    loss: Prepared
    inside: Projection
    labels: Tensor
    row: Tensor
    number: int
    current: Tensor
    previous: Tensor
    gradient: Tensor
    logits: Tensor
    losses: Tensor
    best: Candidate
    best_loss: Tensor
    best_gradient: Tensor
    wrong: Candidate | None
    ever_wrong: Tensor
    step_size: Tensor
    rises: Tensor
    loss_before: Tensor
    loss_at_mark: Tensor
    halved_at_mark: Tensor
    last_mark: int
    gradients: int = 1

    @property
    def last(self) -> Candidate:
        step = torch.full_like(self.labels, self.number)
        return Candidate(self.current, self.logits, self.labels, step)

    def select(self, rows: Tensor) -> "Ascent":
        """The run of these rows (integers) alone, which can be continued like the whole run."""
        return Ascent(**{name: _of_rows(part, rows) for name, part in vars(self).items()})

    def part(self, first: int, stop: int) -> "Ascent":
        """The run of these consecutive rows, of which none was dropped, numbered from 0."""
        run = self.select(torch.arange(first, stop, device=self.row.device))
        run.row = run.row - first
        return run


def _of_rows(part: Any, rows: Tensor) -> Any:
    if isinstance(part, Tensor):
        return part[rows]
    return part.select(rows) if isinstance(part, Candidate | Prepared | Projection) else part


Narrowing = Callable[[Ascent], Tensor | None]
"""Called after each iterate but the last; returns the rows (integers) that go on, None for all.
Without rows the run ends."""


def checkpoints(steps: int) -> list[int]:
    """Iterates after which step sizes may halve; for 100 steps 22, 41, 57, 70, 80, 87, 93, 99."""
    period, shrink, shortest = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    marks = []
    at = period
    while at <= steps:
        marks.append(at)
        period = max(period - shrink, shortest)
        at += period
    return marks


def ascend(
    model: nn.Module,
    loss: Prepared,
    start: Tensor,
    center: Tensor,
    labels: Tensor,
    *,
    threat: Ball,
    steps: int,
    track_wrong: bool = True,
    narrow: Narrowing | None = None,
    observe: Observer | None = None,
) -> Ascent:
    """Ascend ``loss`` for ``steps`` steps inside the ball around ``center``.

    The iterates are bit-equal to those of the reference implementation, with two peculiarities of
    it: the first checkpoint compares the loss of iterate 1 with 0, not with the loss of the start;
    and the return to the best point does not move the momentum's previous point. Unlike there, the
    last iterate gets no gradient, since nothing uses one. Nothing here waits for the device.

    ``track_wrong``: keep the latest misclassified iterate too. ``narrow``: choose the rows that
    continue.
    """
    run = _begin(model, loss, start, center, labels, threat=threat, track_wrong=track_wrong)
    marks = set(checkpoints(steps))
    for number in range(1, steps + 1):
        _move(run, threat, pull=1.0 if number == 1 else _MOMENTUM)
        if number == steps:
            logits = forward_logits(model, run.current)
            _judge(run, run.loss(logits), logits)
        else:
            run.gradient, losses, logits = image_gradient(model, run.loss, run.current)
            run.gradients += 1
            better = _judge(run, losses, logits)
            wide = per_image(better, run.gradient)
            run.best_gradient = torch.where(wide, run.gradient, run.best_gradient)
            run.rises = run.rises + (losses > run.loss_before)
            run.loss_before = losses
            rows = None if narrow is None else narrow(run)
            if rows is not None:
                run = run.select(rows)
                if len(rows) == 0:
                    break
            if number in marks:
                _adapt(run)
        if observe is not None:
            observe(number, run.losses, run.step_size)
    return run


def _begin(
    model: nn.Module,
    loss: Prepared,
    start: Tensor,
    center: Tensor,
    labels: Tensor,
    *,
    threat: Ball,
    track_wrong: bool,
) -> Ascent:
    gradient, losses, logits = image_gradient(model, loss, start)
    first = Candidate(start, logits, labels, torch.zeros_like(labels))
    zeros, wrong = torch.zeros_like(losses), logits.argmax(1) != labels
    return Ascent(
        loss=loss,
        inside=threat.around(center),
        labels=labels,
        row=torch.arange(len(labels), device=labels.device),
        number=0,
        current=start,
        previous=start,
        gradient=gradient,
        logits=logits,
        losses=losses,
        best=first,
        best_loss=losses,
        best_gradient=gradient,
        wrong=first if track_wrong else None,
        ever_wrong=wrong,
        step_size=torch.full_like(losses, 2 * threat.epsilon),
        rises=zeros,
        loss_before=zeros,
        loss_at_mark=losses,
        halved_at_mark=torch.ones_like(wrong),
        last_mark=0,
    )


def _move(run: Ascent, threat: Ball, pull: float) -> None:
    """The next iterate: the weighted sum of a projected step and the momentum, projected."""
    current, previous = run.current, run.previous
    # In place on new tensors: the same sums in the same order, with fewer tensors of images.
    step = per_image(run.step_size, current) * threat.ascend(run.gradient)
    moved = run.inside(step.add_(current)).sub_(current).mul_(pull).add_(current)
    moved.add_((current - previous).mul_(1 - pull))
    run.current, run.previous = run.inside(moved), current
    run.number += 1


def _judge(run: Ascent, losses: Tensor, logits: Tensor) -> Tensor:
    """Take in the iterate's losses [B] and logits [B K]; where it is the best so far [B]."""
    run.losses, run.logits = losses, logits
    wrong, better = logits.argmax(1) != run.labels, losses > run.best_loss
    run.ever_wrong = run.ever_wrong | wrong
    run.best = run.best.advance(better, run.current, logits, run.number)
    run.best_loss = torch.where(better, losses, run.best_loss)
    if run.wrong is not None:
        run.wrong = run.wrong.advance(wrong, run.current, logits, run.number)
    return better


def _adapt(run: Ascent) -> None:
    """At a checkpoint: where the loss oscillates or stalls, halve the step, go back to the best."""
    oscillating = run.rises <= _RHO * (run.number - run.last_mark)
    stalled = ~run.halved_at_mark & (run.loss_at_mark >= run.best_loss)
    back = run.halved_at_mark = oscillating | stalled
    run.step_size = torch.where(back, run.step_size / 2, run.step_size)
    wide = per_image(back, run.current)
    run.current = torch.where(wide, run.best.images, run.current)
    run.gradient = torch.where(wide, run.best_gradient, run.gradient)
    run.loss_at_mark, run.last_mark = run.best_loss, run.number
    run.rises = torch.zeros_like(run.rises)
