"""The demonstration: Table 1's rows on bundled digits, in parallel worker processes."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lrat.errors import Interrupted
from lrat.evaluation import Comparison, EvaluationResult, compare
from lrat.experiments.config import load_config
from lrat.experiments.evaluating import EvaluationRequest, evaluate_run
from lrat.experiments.folder import EVALUATIONS
from lrat.experiments.paper import DEMO_PRESET, TABLE_1, row_settings
from lrat.experiments.run import train_run
from lrat.experiments.suites import check_suite, slug
from lrat.experiments.workers import in_workers
from lrat.files import write_text
from lrat.reporting.tables import WORST, RunRow, results_table, to_markdown
from lrat.training import EpochRecord, StepProgress
from lrat.training.interrupt import stopping

BASELINE = "sat"
PAPER_TITLE = "The paper: CIFAR-10, ResNet-18, Linf 8/255, 10,000 images"
_LEGEND = (
    "Wilson 95 % intervals in brackets; forwards: network forwards of training per image and epoch."
)
_FORWARDS = {
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
_AUTOATTACKED = 200
"""So many images meet AutoAttack, which costs two hundred times what PGD-20 does."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row that is done."""

    method: str
    folder: Path
    seconds: float
    forwards: float
    """Passes per training image and epoch, of the network forwards."""


@dataclass(frozen=True, kw_only=True)
class DemoReport:
    """Our table, the paper's, and what may be concluded; ``path`` holds them in Markdown."""

    title: str
    table: Sequence[Sequence[str]]
    paper: Sequence[Sequence[str]]
    made: str
    conclusion: str
    path: Path
    seconds: float

    def markdown(self) -> str:
        return "\n".join(
            [
                f"# {self.title}",
                "",
                f"{self.made}. {_LEGEND}",
                "",
                to_markdown(self.table),
                f"## {PAPER_TITLE}",
                "",
                to_markdown(self.paper),
                self.conclusion,
            ]
        )


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


def run_demo(
    out: Path, *, epochs: int | None, suite: str, workers: int, watcher: Watcher
) -> DemoReport:
    """Train and attack all rows of Table 1 into ``out``, and write ``table.md`` there.

    Rows that an earlier call finished are read back; an interrupted one is continued.
    """
    check_suite(suite)
    preset = _preset(epochs)
    started = time.perf_counter()
    workers = min(workers, len(_FORWARDS))
    length = preset["training"]["epochs"]
    made = f"{length} epoch{'' if length == 1 else 's'} each, seed {preset['seed']}, suite {suite}"
    watcher.say(
        f"{len(_FORWARDS)} methods, {made}, on {workers} worker "
        f"process{'' if workers == 1 else 'es'} of one thread; runs in {out}"
    )
    rows = {row.method: row for row in _rows(out, preset, suite, workers, watcher)}
    evaluations = {name: _evaluate(rows[name].folder, suite) for name in TABLE_1}
    results = {name: found[-1] for name, found in evaluations.items()}
    first = results[BASELINE]
    counts = [len(found.index) for found in evaluations[BASELINE]]
    title = f"Table 1 on digits: accuracy in per cent, {first.threat}, n {counts[0]}"
    if len(counts) > 1:
        title += f" (autoattack and worst case: n {counts[-1]})"
    comparisons = {
        name: compare(result, first) for name, result in results.items() if name != BASELINE
    }
    report = DemoReport(
        title=title,
        table=results_table(
            [RunRow(name=name, summary=_joined(found)) for name, found in evaluations.items()],
            {"forwards": {name: f"{row.forwards:.0f}" for name, row in rows.items()}},
        ),
        paper=_paper_table(),
        made=made,
        conclusion=conclusion(comparisons, images=len(first.index)),
        path=out / "table.md",
        seconds=time.perf_counter() - started,
    )
    write_text(report.path, report.markdown())
    return report


def _requests(suite: str) -> tuple[EvaluationRequest, ...]:
    """The evaluations of a row; with AutoAttack the short attacks on all images come first."""
    if suite == "paper":
        limited = EvaluationRequest(suite=suite, limit=_AUTOATTACKED)
        return EvaluationRequest(suite="quick"), limited
    return (EvaluationRequest(suite=suite),)


def _evaluate(run: Path, suite: str) -> list[EvaluationResult]:
    return [evaluate_run(run, request)[1] for request in _requests(suite)]


def _joined(results: Sequence[EvaluationResult]) -> dict[str, Any]:
    """One summary: each attack from the evaluation that met it first, the worst case from the
    last, which holds all attacks."""
    summaries = [result.summary() for result in results]
    shares: dict[str, Any] = {}
    for result, summary in zip(results, summaries, strict=True):
        for name in result.names:
            shares.setdefault(name, summary["accuracy"][name])
    return {**summaries[-1], "accuracy": shares}


def _preset(epochs: int | None) -> dict[str, Any]:
    chosen = {} if epochs is None else {"epochs": epochs}
    return {**DEMO_PRESET, "training": {**DEMO_PRESET["training"], **chosen}}


def _rows(
    out: Path,
    preset: Mapping[str, Any],
    suite: str,
    workers: int,
    watcher: Watcher,
) -> Iterator[Row]:
    """The rows as they are done."""
    forecast = _Forecast(out, epochs=int(preset["training"]["epochs"]), suite=suite)

    def announce(reason: str) -> None:
        watcher.say(
            f"{reason}: stopping when the rows under way have saved themselves; a second signal "
            "stops at once"
        )

    with stopping(announce) as stop:
        try:
            for number, row in enumerate(
                in_workers(
                    partial(_make_row, preset=preset, out=out, suite=suite),
                    list(_FORWARDS),
                    workers=workers,
                    stop=stop,
                    tick=lambda: watcher.progress(forecast.now()),
                ),
                start=1,
            ):
                watcher.say(
                    f"{row.method}: {row.seconds:.0f} s of one worker; {number} of "
                    f"{len(_FORWARDS)} rows done"
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


def _make_row(method: str, *, preset: Mapping[str, Any], out: Path, suite: str) -> Row:
    started = time.perf_counter()
    folder = out / method
    config = load_config(row_settings(method, preset))
    run = train_run(config, folder, progress=_Quiet())
    _evaluate(folder, suite)
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


class _Forecast:
    """Reads from the rows' folders how much work is done, in forwards of training images."""

    def __init__(self, out: Path, *, epochs: int, suite: str) -> None:
        self._out = out
        self._epochs = epochs
        self._suite = suite
        self._started = time.perf_counter()
        self._at_start = self._work_done()

    def now(self) -> RowsProgress:
        total = sum(self._epochs * forwards + self._evaluation() for forwards in _FORWARDS.values())
        done = self._work_done()
        seconds, here = time.perf_counter() - self._started, done - self._at_start
        return RowsProgress(
            epochs=sum(map(self._epochs_of, _FORWARDS)),
            of_epochs=self._epochs * len(_FORWARDS),
            share=done / total,
            seconds_left=seconds * (total - done) / here if here else None,
        )

    def _work_done(self) -> int:
        return sum(
            self._epochs_of(method) * forwards + self._is_evaluated(method) * self._evaluation()
            for method, forwards in _FORWARDS.items()
        )

    def _evaluation(self) -> int:
        return _EVALUATION.get(self._suite, max(_EVALUATION.values()))

    def _epochs_of(self, method: str) -> int:
        path = self._out / method / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.is_file() else 0

    def _is_evaluated(self, method: str) -> bool:
        places = (self._out / method / EVALUATIONS).glob(f"*-{slug(self._suite)}-*/summary.json")
        return any(places)


def _paper_table() -> list[list[str]]:
    lines = [
        [name, *(f"{value:.2f}" for value in (row.natural, row.pgd, row.cw, row.autoattack))]
        for name, row in TABLE_1.items()
    ]
    return [["", "natural", "PGD", "CW", "AA"], *lines]


def conclusion(comparisons: Mapping[str, Comparison], *, images: int) -> str:
    """One honest paragraph on what the table shows."""
    told, untold = [], []
    for name, comparison in comparisons.items():
        worst = comparison.contrasts[WORST]
        if worst.distinguishable:
            verb = "better" if worst.difference.value > 0 else "worse"
            points = 100 * abs(worst.difference.value)
            told.append(f"{name} is {verb} by {points:.1f} points (p = {worst.p:.2g})")
        else:
            untold.append(name)
    return (
        f"What this shows: one seed and {images} test images of another data set and another "
        f"network than the paper's, so compare the order of rows, not their values. By the worst "
        f"case over the suite, against {BASELINE} and on the same images (exact McNemar test, "
        f"5 % level, not corrected for {len(comparisons)} comparisons): "
        f"{_listed(told) or 'no row can be told apart from it'}"
        f"{'' if not (told and untold) else '; not told apart: ' + ', '.join(untold)}. "
        "A row that gains under PGD and loses under the other attacks, as GAIRAT does in the "
        "paper, shows masking rather than robustness; a claim about small differences needs "
        "several seeds.\n"
    )


def _listed(parts: Sequence[str]) -> str:
    return "; ".join(parts)
