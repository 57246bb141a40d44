"""One step: attack, score, check, update."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lrat.attacks.base import Variant
from lrat.errors import NonFiniteError
from lrat.objectives.base import Objective, ObjectiveOutput, StepContext
from lrat.passes import PassCounter
from lrat.randomness import Keyed, keys
from lrat.training.outcome import KINDS, Passes, StepOutcome, merge, summed, traced
from lrat.training.settings import Optimisation
from lrat.types import Batch

_DIVERGED = "lower the learning rate, clip gradients, or look at the images of this step"
_WEIGHTS = "a weighting must return finite numbers >= 0"


@runtime_checkable
class Refreshable(Protocol):
    """A view of a model that keeps a copy of its weights: refreshed after each update."""

    def refresh(self) -> object: ...


class Stepper:
    """Takes one optimiser step from one or several batches.

    Gradients of the objective's totals add up over the batches and are divided once by the summed
    normalizer, so that several small batches weigh exactly as one large batch does; also where
    some have no weight at all: what stood in for it is taken back when a later batch has some. The
    loss is looked at before the weights change: one host synchronisation per step, none elsewhere.
    A context manager, for the hooks that count passes.
    """

    def __init__(
        self,
        model: nn.Module,
        view: nn.Module,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        optimisation: Optimisation,
        memory: dict[str, Tensor],
    ) -> None:
        self.memory = memory
        self._model = model
        self._view = view
        self._objective = objective
        self._optimizer = optimizer
        self._optimisation = optimisation
        self._parameters = [value for group in optimizer.param_groups for value in group["params"]]
        self._update_passes = PassCounter(model)
        self._attack_passes = self._update_passes if view is model else PassCounter(view)
        self._hooks = ExitStack()

    def __enter__(self) -> "Stepper":
        self._hooks.enter_context(self._update_passes)
        if self._attack_passes is not self._update_passes:
            self._hooks.enter_context(self._attack_passes)
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.close()

    def __call__(self, batches: Sequence[Batch], *, epoch: int, step: int) -> StepOutcome:
        """Update the weights from ``batches``; ``epoch`` and ``step`` count from 0.

        Raises ``NonFiniteError`` before the update if the loss is NaN or infinite.
        """
        outputs: list[ObjectiveOutput] = []
        passes = Passes()
        self._optimizer.zero_grad(set_to_none=True)
        if isinstance(self._view, Refreshable):
            self._view.refresh()
        with own_randomness(self._optimisation.seed, epoch, step, batches[0].images.device):
            for batch in batches:
                context = self._context(batch, epoch, outputs)
                variants, attack_passes = self._attack(batch, context)
                output, update_passes = self._score(batch, variants, context)
                outputs.append(output)
                passes = passes + attack_passes + update_passes
            outputs = settled(outputs)
            loss = self._update(outputs, epoch, step)
        return merge(batches, outputs, loss, passes)

    def _context(self, batch: Batch, epoch: int, before: Sequence[ObjectiveOutput]) -> StepContext:
        return StepContext(
            epoch=epoch,
            progress=self._optimisation.progress(epoch),
            noise=Keyed(keys(self._optimisation.seed, batch.index)).child(epoch),
            weighed=_weighed(before[-1]) if before else None,
            memory=self.memory,
        )

    def _attack(self, batch: Batch, context: StepContext) -> tuple[dict[str, Variant], Passes]:
        before = self._attack_passes.read()
        variants = self._objective.attack(self._view, batch, context)
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
    ) -> tuple[ObjectiveOutput, Passes]:
        before = self._update_passes.read()
        output = self._objective.loss(self._model, batch, variants, context)
        if context.weighed is not None:
            self._take_back(_weighed(output), context.weighed)
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

    def _update(self, outputs: Sequence[ObjectiveOutput], epoch: int, step: int) -> Tensor:
        normalizer = summed([output.normalizer.detach() for output in outputs])
        loss = summed([output.total.detach() for output in outputs]) / normalizer
        gradients = [value.grad for value in self._parameters if value.grad is not None]
        if gradients:
            torch._foreach_mul_(gradients, 1 / normalizer)
        if not torch.isfinite(loss).item():
            raise NonFiniteError(f"epoch {epoch + 1}, step {step + 1}: {_blame(outputs)}")
        if self._optimisation.clip is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._optimisation.clip)
        self._optimizer.step()
        return loss


def _weighed(output: ObjectiveOutput) -> Tensor | None:
    """Whether a batch of the step had weight up to this one; None where nobody says."""
    return None if output.stand_in is None else output.stand_in.detach() == 0


def settled(outputs: Sequence[ObjectiveOutput]) -> list[ObjectiveOutput]:
    """The outputs of a step's batches without what stood in for weights that came later."""
    last = outputs[-1].stand_in
    if len(outputs) == 1 or last is None:
        return list(outputs)
    found = []
    for output in outputs:
        kept = output if output.stand_in is None else _where(output.stand_in <= last, output)
        found.append(kept)
    return found


def _where(counts: Tensor, output: ObjectiveOutput) -> ObjectiveOutput:
    """The output if it counts, else one that adds nothing."""
    fallback = output.fallback
    return replace(
        output,
        total=torch.where(counts, output.total, 0.0),
        normalizer=torch.where(counts, output.normalizer, 0.0),
        fallback=None if fallback is None else torch.where(counts, fallback, 0.0),
    )


@contextmanager
def own_randomness(seed: int, epoch: int, step: int, device: torch.device) -> Iterator[None]:
    """Torch's global random state set from (seed, epoch, step) inside, and put back afterwards.

    Nothing in this package draws from it, but dropout and the like in a user's model do: so they
    too draw the same numbers when a run continues at this step, and leave no trace outside.
    """
    number = int(keys(seed, torch.tensor((epoch << 32) + step)))
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(number)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(number)
        yield


def _blame(outputs: Sequence[ObjectiveOutput]) -> str:
    """The first record that is not what it must be, in words, with the cure."""
    for output in outputs:
        for name, values in output.per_example.items():
            kind, _, term = name.partition("/")
            if kind == "weight" and (values < 0).any():
                return f"a weight of term {term!r} is {values[values < 0].min():g}: {_WEIGHTS}"
            if kind in KINDS and not torch.isfinite(values).all():
                cure = _WEIGHTS if kind == "weight" else _DIVERGED
                return f"the {kind} of term {term!r} became NaN or infinite: {cure}"
    if all(torch.isfinite(output.total) for output in outputs):
        return f"the normalizer is 0, so that the loss became NaN or infinite: {_DIVERGED}"
    return f"the loss (though no term alone) became NaN or infinite: {_DIVERGED}"
