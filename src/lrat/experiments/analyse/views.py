"""The attacks of an analysis, image by image, kept as they go."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lrat.analysis import Look, look_at, looks
from lrat.analysis.views import Columns, joined, names_of
from lrat.config.settings import RunConfig
from lrat.data import ImageData, in_order
from lrat.evaluation import Progress
from lrat.evaluation.forward import classify
from lrat.files.names import VULNERABILITY
from lrat.files.write import write_table
from lrat.methods import Simulated
from lrat.modes import evaluating
from lrat.runs.kept import KeptResult, with_columns
from lrat.threat import Ball, as_ball

ProgressCallback: TypeAlias = Callable[[Progress], None]
_SECONDS_BETWEEN_SAVES = 20.0
"""As much of the attacks' work is lost at most when the command is killed."""


def looks_of(config: RunConfig, *, again: bool, saa: bool) -> list[Look]:
    """The run's own training attacks: PGD and CW as it simulates them, whatever its method uses."""
    simulated = Simulated(threat=as_ball(config.threat), **config.attack.model_dump())
    return looks(
        simulated.make("pgd"),
        simulated.make("cw"),
        again=again,
        saa=simulated.make("saa") if saa else None,
    )


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """A row per image in the order of their numbers; ``seconds`` of attacks and ``images``: the
    number attacked in this call."""

    columns: Columns
    seconds: float
    images: int


def attack_images(
    network: nn.Module,
    view: nn.Module,
    images: ImageData,
    looks: Sequence[Look],
    *,
    kept: KeptResult,
    threat: Ball,
    seed: int,
    batch_size: int,
    device: torch.device,
    progress: ProgressCallback | None = None,
) -> Attacked:
    """The views of all ``images``: those that ``kept`` holds are read back, the others attacked.

    Whole batches are kept at least every 20 s, so that a broken-off call goes on there.
    """
    names = names_of(looks)
    known = kept.table(VULNERABILITY, with_columns(*names))
    parts = [] if known is None else [{name: known[name] for name in names}]
    numbers = images.index.cpu().numpy()
    left = ~np.isin(numbers, known["index"]) if known is not None else np.full(len(images), True)
    rows = torch.from_numpy(np.flatnonzero(left))
    seconds, saved = 0.0, time.perf_counter()
    if len(rows):
        rest = in_order(images.select(rows), batch_size=batch_size, device=device)
        with evaluating(network), evaluating(view):
            for batch in rest:
                seen = look_at(
                    batch,
                    looks,
                    view=view,
                    answers=partial(classify, network),
                    threat=threat,
                    seed=seed,
                )
                parts.append(seen.columns)
                seconds += seen.attack_seconds
                if time.perf_counter() - saved > _SECONDS_BETWEEN_SAVES:
                    parts = [joined(parts)]
                    write_table(kept.folder / VULNERABILITY, parts[0])
                    saved = time.perf_counter()
                if progress is not None:
                    progress(_progress(parts, len(images)))
    return Attacked(columns=joined(parts), seconds=seconds, images=len(rows))


def _progress(parts: Sequence[Columns], total: int) -> Progress:
    """How many images are done, and how many of them withstand both attacks."""
    done = sum(len(part["index"]) for part in parts)
    stand = sum(int(_standing(part).sum()) for part in parts)
    return Progress(attack="views", done=done, robust=stand, total=total)


def _standing(part: Columns) -> npt.NDArray[np.bool_]:
    after: npt.NDArray[np.bool_] = (part["margin_pgd"] > 0) & (part["margin_cw"] > 0)
    return np.logical_and(after, part["correct"])
