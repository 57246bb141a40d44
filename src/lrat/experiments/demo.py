"""The demonstration: Table 1's rows on bundled digits, in parallel worker processes."""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lrat.errors import Interrupted
from lrat.evaluation import Comparison, EvaluationResult, compare
from lrat.experiments.catalogue import check_suite_name
from lrat.experiments.config import load_config
from lrat.experiments.evaluating import EvaluationRequest, evaluate_run
from lrat.experiments.folder import write_text
from lrat.experiments.paper import DEMO_PRESET, TABLE_1, row_settings
from lrat.experiments.run import train_run
from lrat.reporting.tables import WORST, RunRow, results_table, to_markdown

BASELINE = "sat"
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


def run_demo(
    out: Path,
    *,
    epochs: int | None,
    suite: str,
    workers: int,
    on_progress: Callable[[int], None] | None = None,
) -> Iterator[str]:
    """Train and attack all rows; yields lines to show, the table last, and writes it to ``out``.

    Rows that an earlier call finished are read back; an interrupted one is continued.
    """
    check_suite_name(suite)
    preset = _preset(epochs)
    started = time.perf_counter()
    training = preset["training"]
    yield (
        f"{len(_COSTLIEST_FIRST)} methods, {training['epochs']} epochs each, on "
        f"{min(workers, len(_COSTLIEST_FIRST))} worker processes of one thread; runs in {out}"
    )
    rows: dict[str, Row] = {}
    for row in _rows(out, preset, suite, workers, on_progress):
        rows[row.method] = row
        yield f"{row.method}: trained and attacked, {row.seconds:.0f} s of one worker"
    results = {name: _stored(rows[name].folder, suite) for name in TABLE_1}
    report = _report(results, rows)
    write_text(out / "table.md", report)
    yield ""
    yield report
    yield f"{time.perf_counter() - started:.0f} s; this table is in {out / 'table.md'}"


def _preset(epochs: int | None) -> dict[str, Any]:
    chosen = {} if epochs is None else {"epochs": epochs}
    return {**DEMO_PRESET, "training": {**DEMO_PRESET["training"], **chosen}}


def _rows(
    out: Path,
    preset: Mapping[str, Any],
    suite: str,
    workers: int,
    on_progress: Callable[[int], None] | None,
) -> Iterator[Row]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread) as pool:
        pending: set[Future[Row]] = {
            pool.submit(_make_row, method, preset, out / method, suite)
            for method in _COSTLIEST_FIRST
        }
        try:
            while pending:
                done, pending = wait(pending, _POLL_SECONDS, return_when=FIRST_COMPLETED)
                if on_progress is not None:
                    on_progress(_epochs_done(out))
                for future in done:
                    yield future.result()
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


def _stored(folder: Path, suite: str) -> EvaluationResult:
    return evaluate_run(folder, EvaluationRequest(suite=suite))[1]


def _report(results: Mapping[str, EvaluationResult], rows: Mapping[str, Row]) -> str:
    """The table in Markdown, the paper's beside it, and what may be concluded."""
    runs = [RunRow(name=name, summary=result.summary()) for name, result in results.items()]
    cost = {name: f"{row.forwards:.0f}" for name, row in rows.items()}
    paper = [
        ["", "natural", "PGD-20", "CW-20", "AutoAttack"],
        *(
            [name, *(f"{value:.2f}" for value in (row.natural, row.pgd, row.cw, row.autoattack))]
            for name, row in TABLE_1.items()
        ),
    ]
    comparisons = {
        name: compare(result, results[BASELINE])
        for name, result in results.items()
        if name != BASELINE
    }
    first = results[BASELINE]
    return "\n".join(
        [
            f"# Table 1 on digits: accuracy in per cent, {first.threat}, n {len(first.index)}",
            "",
            "Wilson 95 % intervals in brackets; the last column is training's network forwards per",
            "image and epoch.",
            "",
            to_markdown(results_table(runs, {"forwards": cost})),
            "The paper's Table 1: CIFAR-10, ResNet-18, Linf 8/255, 10,000 test images",
            "",
            to_markdown(paper),
            conclusion(comparisons, images=len(first.index)),
        ]
    )


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
