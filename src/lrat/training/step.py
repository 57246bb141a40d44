"""One step: attack, score, check, update.

Where the loss or a gradient is not finite, ``blame`` says why and ``Undo`` leaves no trace.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lrat.attacks.base import Variant
from lrat.data.inputs import trusting
from lrat.distributed.group import ProcessGroup, SingleProcess, agree_on_buffers, shares
from lrat.errors import NonFiniteError
from lrat.hardware import device_of
from lrat.hooks import PassCounter
from lrat.modes import without_traces
from lrat.objectives.base import Objective, ObjectiveOutput, StepContext
from lrat.outputs import failing_in_one_line, is_memory_error
from lrat.randomness import Keyed, keys, seeded_randomness
from lrat.training.memory import largest_fitting, shortage
from lrat.training.optimisation import Optimisation
from lrat.training.outcome import (
    KINDS,
    Exchanged,
    Passes,
    StepOutcome,
    empty,
    exchange,
    merge,
    settled,
    summed,
    traced,
)
from lrat.training.precision import mixed
from lrat.types import Batch

_DIVERGED = "lower the learning rate, clip gradients, or look at the images of this step"
_WEIGHTS = "a weighting must return finite numbers >= 0"


@runtime_checkable
class Examine(Protocol):
    """Shown the attacks' view, a batch and its variants; ``counts``: whether the batch is one of
    this process, and no stand-in."""

    def __call__(
        self,
        view: nn.Module,
        batch: Batch,
        variants: Mapping[str, Variant],
        /,
        *,
        counts: bool,
    ) -> object: ...


@runtime_checkable
class Refreshable(Protocol):
    """A view of a model that keeps a copy of its weights: refreshed after each update."""

    def refresh(self) -> object: ...


class Stepper:
    """Takes one optimiser step from one or several batches.

    Gradients of the objective's totals add up over the batches and the processes of ``group`` and
    are divided once by the summed normalizer, so that several small batches weigh exactly as one
    large batch does; also where some have no weight at all: what stood in for it is taken back when
    a later batch has some. Loss and gradient are looked at before the weights change: one host
    synchronisation per step, none elsewhere. A context manager, for the hooks that count passes.
    """

    def __init__(
        self,
        model: nn.Module,
        view: nn.Module,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        optimisation: Optimisation,
        memory: dict[str, Tensor],
        group: ProcessGroup | None = None,
    ) -> None:
        self.memory = memory
        self._model = model
        self._group = SingleProcess() if group is None else group
        self._device = device_of(model) or torch.device("cpu")
        self._bare = mixed(model, optimisation.precision, self._device)
        self._scored = self._group.wrap(self._bare)
        self._view = view
        self._objective = objective
        self._optimizer = optimizer
        self._optimisation = optimisation
        self._parameters = [value for group in optimizer.param_groups for value in group["params"]]
        self._update_passes = PassCounter(self._scored)
        self._attack_passes = self._update_passes if view is self._scored else PassCounter(view)
        self._hooks = ExitStack()
        self._has_attacked = False

    def __enter__(self) -> "Stepper":
        self._hooks.enter_context(self._update_passes)
        if self._attack_passes is not self._update_passes:
            self._hooks.enter_context(self._attack_passes)
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.close()

    def __call__(
        self,
        batches: Sequence[Batch],
        *,
        epoch: int,
        step: int,
        urgency: int = 0,
        examine: Examine | None = None,
    ) -> StepOutcome:
        """Update the weights from ``batches``; ``epoch`` and ``step`` count from 0.

        ``batches`` are the whole ones in each process; ``urgency`` of a request to stop
        this process (0: none), which all of them learn; ``examine`` receives the variants of this
        process's share of the first batch, before the update. Raises ``NonFiniteError``, also
        before it, if the loss or the gradient is NaN or infinite, unless such steps are to be
        skipped; ``MemoryShortError`` with the largest batch that fits.
        """
        try:
            return self._step(batches, epoch, step, urgency, examine)
        except Exception as error:
            if not is_memory_error(error):
                raise
        raise self._shortage(batches, epoch)

    def _step(
        self,
        batches: Sequence[Batch],
        epoch: int,
        step: int,
        urgency: int,
        examine: Examine | None,
    ) -> StepOutcome:
        outputs: list[ObjectiveOutput] = []
        passes = Passes()
        undo = Undo(self._model, self.memory) if self._optimisation.non_finite == "skip" else None
        self._optimizer.zero_grad(set_to_none=True)
        if isinstance(self._view, Refreshable):
            self._view.refresh()
        with self._randomness(epoch, step):
            for number, batch in enumerate(batches, 1):
                with self._exchanging(last=number == len(batches)):
                    output, needed = self._share_of(batch, epoch, outputs, examine)
                examine = None
                outputs.append(output)
                passes = passes + needed
            known = self._exchanged(batches, outputs, passes, urgency)
            outputs = settled(known.outputs)
            loss, finite, stop = self._judge(outputs, known.urgency)
            if finite:
                self._optimizer.step()
                agree_on_buffers(self._model, self._group)
            elif undo is None:
                raise NonFiniteError(f"epoch {epoch + 1}, step {step + 1}: {blame(outputs, loss)}")
            else:
                undo()
        outcome = merge(known.batches, outputs, loss, known.passes)
        return replace(outcome, skipped=not finite, urgency=stop)

    def _share_of(
        self,
        batch: Batch,
        epoch: int,
        before: Sequence[ObjectiveOutput],
        examine: Examine | None,
    ) -> tuple[ObjectiveOutput, Passes]:
        """Attack and score this process's share of a batch, and go backward."""
        share = shares(batch, self._group.size)[self._group.rank] if self._group.size > 1 else batch
        idle = len(share) == 0
        share = shares(batch, len(batch))[0] if idle else share
        context = self._context(share, epoch, before)
        with without_traces(self._model):
            variants, attack_passes = self._attack(share, context)
            if examine is not None:
                examine(self._view, share, variants, counts=not idle)
        output, update_passes = self._score(share, variants, context, idle=idle)
        return output, Passes() if idle else attack_passes + update_passes

    def _shortage(self, batches: Sequence[Batch], epoch: int) -> Exception:
        """The error for memory that ran out. It waits for no other process: one may have ended."""
        largest = max(batches, key=len)
        share = shares(largest, self._group.size)[0]

        def attempt(count: int) -> None:
            rows = slice(count)
            batch = Batch(
                images=share.images[rows], labels=share.labels[rows], index=share.index[rows]
            )
            try:
                context = replace(self._context(batch, epoch, []), mean_across_processes=_alone)
                with self._randomness(epoch, 0):
                    variants = self._objective.attack(self._view, batch, context)
                    output = self._objective.loss(self._bare, batch, variants, context)
                    # Not backward, which would have other processes exchange gradients.
                    torch.autograd.grad(output.total, self._parameters, allow_unused=True)
            finally:
                self._optimizer.zero_grad(set_to_none=True)

        self._optimizer.zero_grad(set_to_none=True)
        # Momentum, which the optimiser makes at its first step.
        reserve = [] if self._optimizer.state else self._parameters
        size = self._group.size
        fits = size * largest_fitting(attempt, len(share), reserve=reserve)
        return shortage(fits, len(largest), self._device, accumulate=len(batches), processes=size)

    def _context(self, batch: Batch, epoch: int, before: Sequence[ObjectiveOutput]) -> StepContext:
        return StepContext(
            epoch=epoch,
            progress=self._optimisation.progress(epoch),
            noise=Keyed(keys(self._optimisation.seed, batch.index)).child(epoch),
            mean_across_processes=self._group.mean,
            weighed=_weighed(before[-1]) if before else None,
            memory=self.memory,
        )

    def _attack(self, batch: Batch, context: StepContext) -> tuple[dict[str, Variant], Passes]:
        before = self._attack_passes.read()
        # The first batch is looked at; later ones cost no wait for the device.
        with trusting() if self._has_attacked else nullcontext():
            variants = self._objective.attack(self._view, batch, context)
        self._has_attacked = True
        forwards, backwards = self._attack_passes.since(before)
        if forwards:
            return variants, Passes(attack_forwards=forwards, attack_backwards=backwards)
        # A view that hooks cannot see into: the attacks' own count, where they keep one.
        known = traced(variants) or (0, 0)
        return variants, Passes(attack_forwards=known[0], attack_backwards=known[1])

    def _score(
        self,
        batch: Batch,
        variants: Mapping[str, Variant],
        context: StepContext,
        *,
        idle: bool,
    ) -> tuple[ObjectiveOutput, Passes]:
        before = self._update_passes.read()
        output = self._objective.loss(self._scored, batch, variants, context)
        output = empty(output) if idle else output
        if context.weighed is not None:
            self._take_back(_weighed(output), context.weighed)
        # Of several processes, one that died raises here too.
        alone = self._group.size == 1
        with failing_in_one_line(self._model, batch.images) if alone else nullcontext():
            output.total.backward()  # type: ignore[no-untyped-call]
        forwards, backwards = self._update_passes.since(before)
        return output, Passes(update_forwards=forwards, update_backwards=backwards)

    def _take_back(self, weighed: Tensor | None, weighed_before: Tensor) -> None:
        """Drop the gradients so far if this is the step's first batch that has weight."""
        if weighed is None:
            return
        first = weighed & ~weighed_before
        for value in self._parameters:
            if value.grad is not None:
                value.grad.masked_fill_(first, 0)

    def _exchanged(
        self,
        batches: Sequence[Batch],
        outputs: Sequence[ObjectiveOutput],
        passes: Passes,
        urgency: int,
    ) -> Exchanged:
        """The step as all processes together know it."""
        if self._group.size > 1:
            return exchange(self._group, batches, outputs, passes, urgency=urgency)
        return Exchanged(batches=batches, outputs=outputs, passes=passes, urgency=None)

    def _judge(
        self, outputs: Sequence[ObjectiveOutput], urgency: Tensor | None
    ) -> tuple[Tensor, bool, int]:
        """Scale and clip the gradient; the loss, whether both are finite, the urgency to stop."""
        normalizer = summed([output.normalizer.detach() for output in outputs])
        loss = summed([output.total.detach() for output in outputs]) / normalizer
        gradients = [value.grad for value in self._parameters if value.grad is not None]
        finite = torch.isfinite(loss)
        if gradients:
            torch._foreach_mul_(gradients, self._group.size / normalizer)
            norm = nn.utils.get_total_norm(gradients)
            finite = finite & torch.isfinite(norm)
            if self._optimisation.clip is not None:
                nn.utils.clip_grads_with_norm_(self._parameters, self._optimisation.clip, norm)
        flags = [finite] if urgency is None else [finite, urgency]
        good, *urgencies = torch.stack([value.float() for value in flags]).tolist()
        return loss, bool(good), int(sum(urgencies))

    def _exchanging(self, *, last: bool) -> AbstractContextManager[None]:
        """Gradients are exchanged once per step, with those of the last batch."""
        return nullcontext() if last else self._group.quiet(self._scored)

    def _randomness(self, epoch: int, step: int) -> AbstractContextManager[None]:
        return step_randomness(self._optimisation.seed, epoch, step, self._group.rank)


def _alone(values: Tensor) -> Tensor:
    return values


def _weighed(output: ObjectiveOutput) -> Tensor | None:
    """Whether a batch of the step had weight up to this one; None where that is unknown."""
    return None if output.stand_in is None else output.stand_in.detach() == 0


def step_randomness(
    seed: int, epoch: int, step: int, rank: int = 0
) -> AbstractContextManager[None]:
    """Global random states set from (seed, epoch, step, rank) inside, and put back after.

    Dropout and the like in a user's model draw from them: so they draw the same numbers when a run
    continues at this step, and leave no trace outside.
    """
    return seeded_randomness(
        int(keys(seed, torch.tensor((epoch << 32) + step, device="cpu"))) + rank
    )


def blame(outputs: Sequence[ObjectiveOutput], loss: Tensor) -> str:
    """The first record that is not what it must be, in words, with the cure."""
    for output in outputs:
        for name, values in output.per_example.items():
            kind, _, term = name.partition("/")
            if kind == "weight" and (values < 0).any():
                return f"a weight of term {term!r} is {values[values < 0].min():g}: {_WEIGHTS}"
            if kind in KINDS and not torch.isfinite(values).all():
                cure = _WEIGHTS if kind == "weight" else _DIVERGED
                return f"the {kind} of term {term!r} became NaN or infinite: {cure}"
    if torch.isfinite(loss):
        return f"the gradient (though not the loss) became NaN or infinite: {_DIVERGED}"
    if all(torch.isfinite(output.total) for output in outputs):
        return f"the normalizer is 0, so that the loss became NaN or infinite: {_DIVERGED}"
    return f"the loss (though no term alone) became NaN or infinite: {_DIVERGED}"


class Undo:
    """Takes back what a step that is skipped left in buffers (BatchNorm's) and in the memory."""

    def __init__(self, model: nn.Module, memory: dict[str, Tensor]) -> None:
        self._buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        self._memory = memory
        self._held = {name: value.clone() for name, value in memory.items()}

    def __call__(self) -> None:
        for buffer, before in self._buffers:
            buffer.copy_(before)
        self._memory.clear()
        self._memory.update(self._held)
