"""What each process found out about its share of a step, told to all in one exchange."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lrat.distributed.group import Crew, shares
from lrat.objectives.base import ObjectiveOutput
from lrat.training.outcome import Passes
from lrat.types import Batch

_PASSES = tuple(vars(Passes()))


@dataclass(frozen=True, kw_only=True)
class Exchanged:
    """A step as one process would know it: its batches in shares, and an output for each.

    ``asked`` []: how urgently somebody was asked to stop; None for a single process.
    """

    batches: Sequence[Batch]
    outputs: Sequence[ObjectiveOutput]
    passes: Passes
    asked: Tensor | None


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
    crew: Crew,
    batches: Sequence[Batch],
    outputs: Sequence[ObjectiveOutput],
    passes: Passes,
    *,
    asked: int,
) -> Exchanged:
    """Everybody's outputs, by batch and then by rank. ``outputs``: of this process's shares.

    All must name the same records. Numbers travel as float64, which holds float32 and counts
    exactly.
    """
    device = batches[0].images.device
    rows = [math.ceil(len(batch) / crew.size) for batch in batches]
    packed = [_packed(output, count) for output, count in zip(outputs, rows, strict=True)]
    numbers = [*(getattr(passes, name) for name in _PASSES), float(asked)]
    if any(isinstance(number, Tensor) for number in numbers):
        told = torch.stack(
            [torch.as_tensor(number, dtype=torch.float64, device=device) for number in numbers]
        )
    else:
        told = torch.tensor(numbers, dtype=torch.float64, device=device)
    everybody = crew.gather(torch.cat([told, *packed]))
    told, *blocks = torch.split(everybody, [len(told), *map(len, packed)], dim=1)
    found: list[tuple[Batch, ObjectiveOutput]] = []
    for batch, output, count, block in zip(batches, outputs, rows, blocks, strict=True):
        for share, values in zip(shares(batch, crew.size), block, strict=True):
            if len(share):
                found.append((share, _unpacked(output, values, count, len(share))))
    totals = told.sum(0)
    return Exchanged(
        batches=[share for share, _ in found],
        outputs=[output for _, output in found],
        passes=Passes(**dict(zip(_PASSES, totals, strict=False))),
        asked=told[:, -1].amax(),
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
    """What ``_packed`` made of an output that names the same records as ``like``."""
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
