"""The demonstration's rows: trained and attacked in parallel worker processes."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from lrat.errors import Interrupted
from lrat.evaluation import EvaluationResult
from lrat.experiments.config import load_config
from lrat.experiments.evaluating import evaluate_run
from lrat.experiments.folder import EVALUATIONS
from lrat.experiments.paper import DEMO_PRESET, row_settings
from lrat.experiments.request import EvaluationRequest
from lrat.experiments.run import train_run
from lrat.experiments.suites import check_suite, slug
from lrat.experiments.workers import in_workers
from lrat.training import EpochRecord, StepProgress
from lrat.training.interrupt import stopping

FORWARDS = {
    "lrat-saa+cw": 76,
    "lrat-saa": 65,
    "lsat-saa": 65,
    "lrat-cw": 11,
    "lsat-cw": 11,
    "gairat": 11,
    "sat": 11,
}
"""Per image and epoch, the costliest first: the order that leaves no worker idle for long."""
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

    def __str__(self) -> str:
        """``30 epochs each, seed 0, suite paper``."""
        length = self.preset["training"]["epochs"]
        made = f"{length} epoch{'' if length == 1 else 's'} each, seed {DEMO_PRESET['seed']}"
        plain = ", without acceleration" if self.acceleration == "off" else ""
        return f"{made}, suite {self.suite}{plain}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row that is done."""

    method: str
    folder: Path
    seconds: float
    forwards: float
    """Passes per training image and epoch, of the network forwards."""


@dataclass(frozen=True, kw_only=True)
class RowsProgress:
    """How far the rows are: epochs, the ``share`` of the work that is done (0..1), and a forecast,
    None as long as this call has done nothing measurable."""

    epochs: int
    of_epochs: int
    share: float
    seconds_left: float | None


@runtime_checkable
class Watcher(Protocol):
    """Told what happens while the rows are made."""

    def say(self, line: str) -> None: ...

    def progress(self, now: RowsProgress) -> None: ...


def make_rows(out: Path, plan: Plan, workers: int, watcher: Watcher) -> Iterator[Row]:
    """The rows as they are done."""
    forecast = Forecast(out, plan)

    def announce(reason: str) -> None:
        watcher.say(
            f"{reason}: stopping when the rows under way have saved themselves; a second signal "
            "stops at once"
        )

    with stopping(announce) as stop:
        try:
            for number, row in enumerate(
                in_workers(
                    partial(_make_row, plan=plan, preset=plan.preset, out=out),
                    list(FORWARDS),
                    workers=workers,
                    stop=stop,
                    tick=lambda: watcher.progress(forecast.now()),
                ),
                start=1,
            ):
                watcher.say(
                    f"{row.method}: {row.seconds:.0f} s of one worker; {number} of "
                    f"{len(FORWARDS)} rows done"
                )
                yield row
        except Interrupted as stopped:
            raise Interrupted(
                f"{stopped}; what was trained is saved in {out}: the same command continues"
            ) from None


class _Quiet:
    """A row's own progress: the demonstration has another."""

    def on_step(self, progress: StepProgress) -> None:
        return

    def on_epoch(self, record: EpochRecord) -> None:
        return

    def say(self, line: str) -> None:
        return


def _make_row(method: str, *, plan: Plan, preset: Mapping[str, Any], out: Path) -> Row:
    started = time.perf_counter()
    folder = out / method
    config = load_config(row_settings(method, preset))
    run = train_run(config, folder, progress=_Quiet())
    plan.evaluate(folder)
    records = run.result.records
    passes = sum(
        (record.passes.get("attack_forwards") or 0) + (record.passes.get("update_forwards") or 0)
        for record in records
    )
    return Row(
        method=method,
        folder=folder,
        seconds=time.perf_counter() - started,
        forwards=passes / len(records),
    )


class Forecast:
    """Reads from the rows' folders how much work is done, in forwards of training images."""

    def __init__(self, out: Path, plan: Plan) -> None:
        self._out = out
        self._epochs = int(plan.preset["training"]["epochs"])
        self._suite = plan.suite
        self._started = time.perf_counter()
        self._at_start = self._work_done()

    def now(self) -> RowsProgress:
        total = sum(self._epochs * forwards + self._evaluation() for forwards in FORWARDS.values())
        done = self._work_done()
        seconds, here = time.perf_counter() - self._started, done - self._at_start
        return RowsProgress(
            epochs=sum(map(self._epochs_of, FORWARDS)),
            of_epochs=self._epochs * len(FORWARDS),
            share=done / total,
            seconds_left=seconds * (total - done) / here if here else None,
        )

    def _work_done(self) -> int:
        return sum(
            self._epochs_of(method) * forwards + self._is_evaluated(method) * self._evaluation()
            for method, forwards in FORWARDS.items()
        )

    def _evaluation(self) -> int:
        return _EVALUATION.get(self._suite, max(_EVALUATION.values()))

    def _epochs_of(self, method: str) -> int:
        path = self._out / method / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.is_file() else 0

    def _is_evaluated(self, method: str) -> bool:
        places = (self._out / method / EVALUATIONS).glob(f"*-{slug(self._suite)}-*/summary.json")
        return any(places)
