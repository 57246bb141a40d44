"""One run of Auto-PGD from one start: the step sizes halve by themselves (Croce & Hein 2020)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lrat.attacks.base import image_gradient
from lrat.losses import Prepared, probability_margin
from lrat.threat import Ball

_MOMENTUM = 0.75
_RHO = 0.75

Observer = Callable[[int, Tensor, Tensor], None]
"""Called after each iterate with its number, the losses [B] and the next step sizes [B]."""


@dataclass
class Candidate:
    """Images [B C H W] with probability margin, number of the iterate and loss of each ([B])."""

    images: Tensor
    margin: Tensor
    step: Tensor
    loss: Tensor

    def replace(self, rows: Tensor, by: "Candidate") -> "Candidate":
        """``by`` where ``rows`` [B] is true."""
        wide = rows.view(-1, *[1] * (self.images.dim() - 1))
        return Candidate(
            images=torch.where(wide, by.images, self.images),
            margin=torch.where(rows, by.margin, self.margin),
            step=torch.where(rows, by.step, self.step),
            loss=torch.where(rows, by.loss, self.loss),
        )


@dataclass
class Ascent:
    """What a run found: best-loss iterate, latest misclassified one if there is any, last one."""

    best: Candidate
    wrong: Candidate
    last: Candidate
    ever_wrong: Tensor


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
    observe: Observer | None = None,
) -> Ascent:
    """Ascend ``loss`` for ``steps`` steps inside the ball around ``center``.

    Follows the reference implementation to the bit. Two of its habits show: the first checkpoint
    compares the loss of iterate 1 with 0, not with the loss of the start; and going back to the
    best point leaves the momentum's previous point where it was. Unlike it, the last iterate gets
    no gradient, since nothing uses one. Nothing here waits for the device.
    """
    gradient, losses, logits = image_gradient(model, loss, start)
    current = previous = start
    now = Candidate(start, probability_margin(logits, labels), torch.zeros_like(labels), losses)
    found = Ascent(best=now, wrong=now, last=now, ever_wrong=logits.argmax(1) != labels)
    gradient_of_best = gradient
    step_size = torch.full_like(losses, 2 * threat.epsilon)
    last_loss = rises = torch.zeros_like(losses)
    loss_at_mark = losses
    halved_at_mark = torch.ones_like(found.ever_wrong)
    marks, last_mark = set(checkpoints(steps)), 0
    shape = (-1, *[1] * (center.dim() - 1))

    for number in range(1, steps + 1):
        target = current + step_size.view(shape) * threat.ascend(gradient)
        target = threat.project(target, center)
        pull = 1.0 if number == 1 else _MOMENTUM
        moved = current + (target - current) * pull + (current - previous) * (1 - pull)
        current, previous = threat.project(moved, center), current

        final = number == steps
        if final:
            logits = model(current).float()
            losses = loss(logits)
        else:
            gradient, losses, logits = image_gradient(model, loss, current)
        wrong = logits.argmax(1) != labels
        better = losses > found.best.loss
        margin = probability_margin(logits, labels)
        now = Candidate(current, margin, torch.full_like(labels, number), losses)
        found = Ascent(
            best=found.best.replace(better, now),
            wrong=found.wrong.replace(wrong, now),
            last=now,
            ever_wrong=found.ever_wrong | wrong,
        )
        if not final:
            gradient_of_best = torch.where(better.view(shape), gradient, gradient_of_best)
            rises = rises + (losses > last_loss)
            last_loss = losses
            if number in marks:
                oscillating = rises <= _RHO * (number - last_mark)
                stalled = ~halved_at_mark & (loss_at_mark >= found.best.loss)
                halved_at_mark = oscillating | stalled
                step_size = torch.where(halved_at_mark, step_size / 2, step_size)
                back = halved_at_mark.view(shape)
                current = torch.where(back, found.best.images, current)
                gradient = torch.where(back, gradient_of_best, gradient)
                loss_at_mark, last_mark = found.best.loss, number
                rises = torch.zeros_like(rises)
        if observe is not None:
            observe(number, losses, step_size)
    return found
