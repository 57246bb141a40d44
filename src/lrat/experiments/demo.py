"""The demonstration: Table 1's rows on bundled digits, in parallel worker processes."""

import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from lrat.errors import Interrupted
from lrat.evaluation import Comparison, compare
from lrat.experiments.catalogue import check_suite_name
from lrat.experiments.config import load_config
from lrat.experiments.evaluating import EvaluationRequest, evaluate_run
from lrat.experiments.paper import DEMO_PRESET, TABLE_1, row_settings
from lrat.experiments.run import train_run
from lrat.files import write_text
from lrat.reporting.tables import WORST, RunRow, results_table, to_markdown

BASELINE = "sat"
PAPER_TITLE = "The paper: CIFAR-10, ResNet-18, Linf 8/255, 10,000 images"
_LEGEND = (
    "Wilson 95 % intervals in brackets; forwards: network forwards of training per image and epoch."
)
_COSTLIEST_FIRST = ("lrat-saa+cw", "lrat-saa", "lsat-saa", "lrat-cw", "lsat-cw", "gairat", "sat")
_POLL_SECONDS = 1.0


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


@runtime_checkable
class Watcher(Protocol):
    """Told what happens while the rows are made."""

    def say(self, line: str) -> None: ...

    def epochs(self, done: int, total: int) -> None: ...


def run_demo(
    out: Path, *, epochs: int | None, suite: str, workers: int, watcher: Watcher
) -> DemoReport:
    """Train and attack all rows of Table 1 into ``out``, and write ``table.md`` there.

    Rows that an earlier call finished are read back; an interrupted one is continued.
    """
    check_suite_name(suite)
    preset = _preset(epochs)
    started = time.perf_counter()
    workers = min(workers, len(_COSTLIEST_FIRST))
    length = preset["training"]["epochs"]
    made = f"{length} epoch{'' if length == 1 else 's'} each, seed {preset['seed']}, suite {suite}"
    watcher.say(
        f"{len(_COSTLIEST_FIRST)} methods, {made}, on {workers} worker "
        f"process{'' if workers == 1 else 'es'} of one thread; runs in {out}"
    )
    rows = {row.method: row for row in _rows(out, preset, suite, workers, watcher)}
    results = {
        name: evaluate_run(rows[name].folder, EvaluationRequest(suite=suite))[1] for name in TABLE_1
    }
    first = results[BASELINE]
    comparisons = {
        name: compare(result, first) for name, result in results.items() if name != BASELINE
    }
    report = DemoReport(
        title=f"Table 1 on digits: accuracy in per cent, {first.threat}, n {len(first.index)}",
        table=results_table(
            [RunRow(name=name, summary=result.summary()) for name, result in results.items()],
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
    total = len(_COSTLIEST_FIRST) * int(preset["training"]["epochs"])
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread) as pool:
        pending: set[Future[Row]] = {
            pool.submit(_make_row, method, preset, out / method, suite)
            for method in _COSTLIEST_FIRST
        }
        try:
            while pending:
                done, pending = wait(pending, _POLL_SECONDS, return_when=FIRST_COMPLETED)
                watcher.epochs(_epochs_done(out), total)
                for future in done:
                    row = future.result()
                    watcher.say(f"{row.method}: {row.seconds:.0f} s of one worker")
                    yield row
        except (KeyboardInterrupt, Interrupted):
            pool.shutdown(cancel_futures=True)
            raise Interrupted(
                f"stopped; what was trained is saved in {out}: the same command continues"
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _one_thread() -> None:
    torch.set_num_threads(1)


def _make_row(method: str, preset: Mapping[str, Any], folder: Path, suite: str) -> Row:
    started = time.perf_counter()
    config = load_config(row_settings(method, preset))
    run = train_run(config, folder)
    evaluate_run(folder, EvaluationRequest(suite=suite))
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


def _epochs_done(out: Path) -> int:
    files = out.glob("*/metrics.jsonl")
    return sum(path.read_bytes().count(b"\n") for path in files)


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
