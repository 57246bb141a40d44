"""The demonstration's rows: trained and attacked in parallel worker processes."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lrat.config.settings import load_config
from lrat.evaluation import EvaluationResult
from lrat.experiments.evaluate import evaluate_run
from lrat.experiments.evaluation_request import EvaluationRequest
from lrat.experiments.reproduce.rows import LONG_BASELINE, row_layer
from lrat.experiments.suite_names import check_suite, slug
from lrat.experiments.train import train_run
from lrat.reproduce.grid import Cell, Evaluation, Quiet, Watcher, make_cells
from lrat.reproduce.paper import DEMO_PRESET
from lrat.runs.folder import EVALUATIONS

FORWARDS = {
    "lrat-saa+cw": 76,
    "lrat-saa": 65,
    "lsat-saa": 65,
    "lrat-cw": 11,
    "lsat-cw": 11,
    "gairat": 11,
    "sat": 11,
    LONG_BASELINE: 11,
}
"""By row, per image and epoch, the costliest first: so no worker is idle for long."""
_EVALUATION = {"quick": 12, "tier": 200, "paper": 460}
"""An evaluation's forwards per training image, as most images stand until the end."""
AUTOATTACKED = 200
"""So many images meet AutoAttack, which costs two hundred times what PGD-20 does."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the demonstration does with each row; ``epochs`` None is the preset's."""

    suite: str = "paper"
    epochs: int | None = None
    acceleration: Literal["auto", "off"] = "auto"

    def __post_init__(self) -> None:
        check_suite(self.suite)

    @property
    def preset(self) -> dict[str, Any]:
        """The rows' common settings."""
        chosen = {} if self.epochs is None else {"epochs": self.epochs}
        training = {**DEMO_PRESET["training"], **chosen}
        return {**DEMO_PRESET, "training": training, "acceleration": self.acceleration}

    def evaluate(self, run: Path) -> list[EvaluationResult]:
        """A row's evaluations; with AutoAttack the short attacks on all images come first."""
        request = EvaluationRequest(suite=self.suite, acceleration=self.acceleration)
        requests = [request]
        if self.suite == "paper":
            requests = [replace(request, suite="quick"), replace(request, limit=AUTOATTACKED)]
        return [evaluate_run(run, each)[1] for each in requests]

    def cells(self, out: Path) -> list[Cell]:
        """The rows as cells of a grid, the costliest first."""
        evaluation = Evaluation(
            pattern=f"{EVALUATIONS}/*-{slug(self.suite)}-*/summary.json",
            forwards=_EVALUATION.get(self.suite, max(_EVALUATION.values())),
        )
        return [
            Cell(
                name=row,
                folder=out / row,
                epochs=int(self.preset["training"]["epochs"]),
                forwards=forwards,
                evaluations=(evaluation,),
            )
            for row, forwards in FORWARDS.items()
        ]

    def __str__(self) -> str:
        """``30 epochs each, seed 0, suite paper``."""
        length = self.preset["training"]["epochs"]
        made = f"{length} epoch{'' if length == 1 else 's'} each, seed {DEMO_PRESET['seed']}"
        plain = ", without acceleration" if self.acceleration == "off" else ""
        return f"{made}, suite {self.suite}{plain}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row that is done."""

    name: str
    folder: Path
    seconds: float
    forwards: float
    """Passes per training image and epoch, of the network forwards."""


def make_rows(out: Path, plan: Plan, workers: int, watcher: Watcher) -> Iterator[Row]:
    """The rows as they are done."""
    make = partial(_make_row, plan=plan, preset=plan.preset, out=out)
    return make_cells(make, plan.cells(out), workers=workers, watcher=watcher, out=out)


def _make_row(name: str, *, plan: Plan, preset: Mapping[str, Any], out: Path) -> Row:
    started = time.perf_counter()
    folder = out / name
    config = load_config(preset, row_layer(name, preset["threat"]))
    run = train_run(config, folder, progress=Quiet())
    plan.evaluate(folder)
    records = run.result.records
    passes = sum(
        (record.passes.get("attack_forwards") or 0) + (record.passes.get("update_forwards") or 0)
        for record in records
    )
    return Row(
        name=name,
        folder=folder,
        seconds=time.perf_counter() - started,
        forwards=passes / len(records),
    )
