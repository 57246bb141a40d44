"""What a step leaves behind for records: sums aside, one table of rows per term.

Several processes exchange, once a step, the results of their shares.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lrat.attacks.base import Variant
from lrat.distributed.group import ProcessGroup, shares
from lrat.objectives.base import ObjectiveOutput
from lrat.types import Batch, Labels, PerExample, Scalar

KINDS = ("loss", "weight", "share")


@dataclass(frozen=True, kw_only=True)
class Passes:
    """Images sent forward and gradients sent back; tensors where only the attacks know, or other
    processes."""

    attack_forwards: int | Tensor = 0
    attack_backwards: int | Tensor = 0
    update_forwards: int | Tensor = 0
    update_backwards: int | Tensor = 0

    def __add__(self, other: "Passes") -> "Passes":
        return Passes(
            attack_forwards=self.attack_forwards + other.attack_forwards,
            attack_backwards=self.attack_backwards + other.attack_backwards,
            update_forwards=self.update_forwards + other.update_forwards,
            update_backwards=self.update_backwards + other.update_backwards,
        )


_PASSES = tuple(vars(Passes()))


@dataclass(frozen=True, kw_only=True)
class TermRows:
    """One term's records of the images that it saw: a row per image, ``values`` by kind.

    Kinds: ``loss``, ``weight`` (raw) and ``share`` (the coefficient under the normalisation of
    the whole step, in units where the mean row is 1), as far as the objective tells them.
    """

    index: Labels
    labels: Labels
    values: Mapping[str, PerExample]


@dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """One optimiser step over one or several batches; tensors detached, on the step's device.

    ``loss``: total / normalizer of the step. ``correct`` [B] as the objective reports it;
    ``fallbacks`` is 1 where it fell back to uniform weights in any of the batches. ``skipped``: its
    loss or gradient was NaN or infinite, so that it changed nothing. ``urgency`` of a
    request to stop one of several processes; 0: none. Each has the outcome of the whole step.
    """

    loss: Scalar
    images: int
    terms: Mapping[str, TermRows]
    correct: Tensor | None
    fallbacks: Scalar | None
    passes: Passes
    skipped: bool = False
    urgency: int = 0


def summed(values: Sequence[Tensor]) -> Tensor:
    """The sum of scalars; of one, the very same number."""
    return values[0] if len(values) == 1 else torch.stack(list(values)).sum()


def settled(outputs: Sequence[ObjectiveOutput]) -> list[ObjectiveOutput]:
    """The outputs of a step's batches without what stood in for weights that came later."""
    last = outputs[-1].stand_in
    if len(outputs) == 1 or last is None:
        return list(outputs)
    return [
        output if output.stand_in is None else _where(output.stand_in <= last, output)
        for output in outputs
    ]


def _where(counts: Tensor, output: ObjectiveOutput) -> ObjectiveOutput:
    """The output if it counts, else one that adds nothing."""
    fallback = output.fallback
    return replace(
        output,
        total=torch.where(counts, output.total, 0.0),
        normalizer=torch.where(counts, output.normalizer, 0.0),
        fallback=None if fallback is None else torch.where(counts, fallback, 0.0),
    )


def merge(
    batches: Sequence[Batch], outputs: Sequence[ObjectiveOutput], loss: Tensor, passes: Passes
) -> StepOutcome:
    """The outcome of a step from what the objective said about each of its batches."""
    corrects = [output.correct for output in outputs if output.correct is not None]
    fallbacks = [output.fallback.detach() for output in outputs if output.fallback is not None]
    return StepOutcome(
        loss=loss,
        images=sum(len(batch) for batch in batches),
        terms=_terms(batches, outputs),
        correct=torch.cat(corrects) if corrects else None,
        fallbacks=torch.stack(fallbacks).amax() if fallbacks else None,
        passes=passes,
    )


def _terms(batches: Sequence[Batch], outputs: Sequence[ObjectiveOutput]) -> dict[str, TermRows]:
    """Rows by term; an objective that samples its terms may have some in some batches only."""
    parts: dict[str, list[tuple[Batch, dict[str, Tensor]]]] = {}
    scales = _share_scales(batches, outputs)
    for batch, output, scale in zip(batches, outputs, scales, strict=True):
        known: dict[str, dict[str, Tensor]] = {}
        for name, values in output.per_example.items():
            kind, _, term = name.partition("/")
            if kind in KINDS and term:
                scaled = values.detach() if kind != "share" else values.detach() * scale
                known.setdefault(term, {})[kind] = scaled
        for term, values_by_kind in known.items():
            parts.setdefault(term, []).append((batch, values_by_kind))
    return {term: _rows(rows) for term, rows in parts.items()}


def _rows(parts: Sequence[tuple[Batch, Mapping[str, Tensor]]]) -> TermRows:
    kinds = [kind for kind in KINDS if all(kind in values for _, values in parts)]
    return TermRows(
        index=torch.cat([batch.index for batch, _ in parts]),
        labels=torch.cat([batch.labels for batch, _ in parts]),
        values={kind: torch.cat([values[kind] for _, values in parts]) for kind in kinds},
    )


def _share_scales(
    batches: Sequence[Batch], outputs: Sequence[ObjectiveOutput]
) -> list[float | Tensor]:
    """From shares under each batch's own normalizer to shares under the step's normalizer."""
    if len(outputs) == 1:
        return [1.0]
    count = sum(len(batch) for batch in batches)
    mean = summed([output.normalizer.detach() for output in outputs]) / count
    return [
        output.normalizer.detach() / len(batch) / mean
        for batch, output in zip(batches, outputs, strict=True)
    ]


def traced(variants: Mapping[str, Variant]) -> tuple[Tensor, Tensor] | None:
    """Forward and backward passes summed over images and variants, as the attacks counted them.

    For views that hooks cannot see into (a replayed graph). None unless every attack counted.
    """
    traces = [variant.trace for variant in variants.values()]
    forwards = [trace.forwards for trace in traces if trace and trace.forwards is not None]
    backwards = [trace.backwards for trace in traces if trace and trace.backwards is not None]
    if not traces or len(forwards) < len(traces) or len(backwards) < len(traces):
        return None
    total_forwards = sum((part.sum() for part in forwards[1:]), forwards[0].sum())
    return total_forwards, sum((part.sum() for part in backwards[1:]), backwards[0].sum())


@dataclass(frozen=True, kw_only=True)
class Exchanged:
    """A step as one process would know it: its batches in shares, and an output for each.

    ``urgency`` []: that of the most urgent request to stop; None for a single process.
    """

    batches: Sequence[Batch]
    outputs: Sequence[ObjectiveOutput]
    passes: Passes
    urgency: Tensor | None


def empty(output: ObjectiveOutput) -> ObjectiveOutput:
    """The output of a process that has no image of a batch and looked at another's in its stead.

    Its gradient is 0: all processes must go backward together, and a network may refuse a batch
    without images.
    """
    return replace(
        output,
        total=output.total * 0,
        normalizer=output.normalizer * 0,
        per_example={name: values[:0] for name, values in output.per_example.items()},
        correct=None if output.correct is None else output.correct[:0],
    )


def exchange(
    group: ProcessGroup,
    batches: Sequence[Batch],
    outputs: Sequence[ObjectiveOutput],
    passes: Passes,
    *,
    urgency: int,
) -> Exchanged:
    """Everybody's outputs, by batch and then by rank. ``outputs``: of this process's shares.

    All must name the same records. Numbers travel as float64, which holds float32 and counts
    exactly.
    """
    device = batches[0].images.device
    rows = [math.ceil(len(batch) / group.size) for batch in batches]
    packed = [_packed(output, count) for output, count in zip(outputs, rows, strict=True)]
    numbers = [*(getattr(passes, name) for name in _PASSES), float(urgency)]
    if any(isinstance(number, Tensor) for number in numbers):
        header = torch.stack(
            [torch.as_tensor(number, dtype=torch.float64, device=device) for number in numbers]
        )
    else:
        header = torch.tensor(numbers, dtype=torch.float64, device=device)
    gathered = group.gather(torch.cat([header, *packed]))
    scalars, *blocks = torch.split(gathered, [len(numbers), *map(len, packed)], dim=1)
    parts: list[tuple[Batch, ObjectiveOutput]] = []
    for batch, output, count, block in zip(batches, outputs, rows, blocks, strict=True):
        for share, values in zip(shares(batch, group.size), block, strict=True):
            if len(share):
                parts.append((share, _unpacked(output, values, count, len(share))))
    totals = scalars.sum(0)
    return Exchanged(
        batches=[share for share, _ in parts],
        outputs=[output for _, output in parts],
        passes=Passes(**dict(zip(_PASSES, totals, strict=False))),
        urgency=scalars[:, -1].amax(),
    )


def _packed(output: ObjectiveOutput, count: int) -> Tensor:
    """Scalars and records as one vector, each record filled up to ``count`` rows."""
    scalars = [output.total.detach(), output.normalizer.detach()]
    scalars += [value.detach() for value in (output.fallback, output.stand_in) if value is not None]
    rows = [output.per_example[name] for name in sorted(output.per_example)]
    rows += [] if output.correct is None else [output.correct]
    filled = [torch.nn.functional.pad(row.double(), (0, count - len(row))) for row in rows]
    return torch.cat([torch.stack(scalars).double(), *filled])


def _unpacked(like: ObjectiveOutput, values: Tensor, count: int, length: int) -> ObjectiveOutput:
    """The inverse of ``_packed``, for an output that names the same records as ``like``."""
    names = sorted(like.per_example)
    optional = [name for name in ("fallback", "stand_in") if getattr(like, name) is not None]
    scalars, rows = values[: 2 + len(optional)].float(), values[2 + len(optional) :]
    table = rows.view(-1, count)[:, :length]
    return ObjectiveOutput(
        total=scalars[0],
        normalizer=scalars[1],
        per_example={
            name: row.to(like.per_example[name].dtype)
            for name, row in zip(names, table, strict=False)
        },
        correct=None if like.correct is None else table[len(names)].bool(),
        **dict(zip(optional, scalars[2:], strict=True)),
    )
