"""`lrat reproduce sensitivity`: how much the paper's choices matter, on few epochs and seeds."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lrat.config import build
from lrat.errors import LratError
from lrat.evaluation.comparison.group_scores import adjusted
from lrat.evaluation.comparison.groups import GroupContrast
from lrat.evaluation.comparison.shared import WORST_CASE
from lrat.files.write import write_json, write_text
from lrat.reproduce.cell import Attacks, RunTask
from lrat.reproduce.evidence import Evidence, over_seeds, read_run, test_count
from lrat.reproduce.folder import SENSITIVITY, RunPlace, check, claim, note_in_history, run_name
from lrat.reproduce.grid import Watcher
from lrat.reproduce.make_runs import make_tasks, threads_of, workers_of
from lrat.reproduce.presets import Choice
from lrat.reproduce.request import Report, Request
from lrat.reproduce.studies import (
    Study,
    StudyRow,
    StudyTable,
    Varied,
    distinct,
    in_brief,
    markdown,
    studies,
)
from lrat.reproduce.tables import common_seeds, contrasts_with, count_right
from lrat.runs.weights import load_weights
from lrat.threat.norms import threat_parts

_logger = logging.getLogger(__name__)

SUITE = "tier"
_EPOCHS: Mapping[str, int] = {"digits": 10}
"""Fewer than the preset's, so that all rows fit into an hour of two processor cores."""
_SEEDS: Mapping[str, int] = {"digits": 2}


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """The ``studies`` that are asked for, ``every`` other one too, with the settings that all their
    rows share."""

    request: Request
    choice: Choice
    every: tuple[Study, ...]
    studies: tuple[Study, ...]
    seeds: tuple[int, ...]
    attacks: Attacks

    @staticmethod
    def of(request: Request) -> "_Plan":
        preset = request.choice.preset
        base = request.choice.config("sat", 0)
        found = studies(base, threat_parts(base.threat)[1])
        asked = request.rows
        seeds = request.seeds or tuple(range(_SEEDS.get(preset.name, 1)))
        return _Plan(
            request=request,
            choice=request.choice,
            every=tuple(found),
            studies=tuple(each for each in found if asked is None or each.name in asked),
            seeds=seeds,
            attacks=Attacks(
                suite=request.suite or SUITE, limit=request.limit or preset.autoattacked
            ),
        )

    def layer(self, row: Varied) -> dict[str, Any]:
        """What the row changes, and what no sensitivity needs: records and monitors."""
        name = self.choice.preset.name
        shorter = name in _EPOCHS and not self.choice.sets("training.epochs")
        own = row.layer
        training = {
            "record_weights": [],
            "monitor": {"attacks": []},
            **({"epochs": _EPOCHS[name], "keep_epochs": []} if shorter else {}),
            **own.get("training", {}),
        }
        return {**own, "training": training}

    def tasks(self, choice: Choice, seed: int) -> list[RunTask]:
        found = []
        for row in distinct(self.studies):
            config = choice.config(row.method, seed, self.layer(row))
            found.append(
                RunTask(
                    name=run_name(row.name, seed),
                    config=config,
                    folder=self.folder(row.name, seed),
                    checkpoints=(choice.checkpoint(config),),
                    attacks=self.attacks,
                    images=test_count(config.data, seed),
                )
            )
        return found

    def folder(self, row: str, seed: int) -> Path:
        return self.request.out / SENSITIVITY / run_name(row, seed)


def reproduce_sensitivity(request: Request, watcher: Watcher) -> Report:
    """Make the studies asked for (``request.rows``, None: all), ``OUT/sensitivity.md``, ``.json``.

    Whatever is finished below ``OUT/sensitivity`` is read back, and studies that an earlier call
    made are shown too. Raises ``LratError``.
    """
    started = time.perf_counter()
    plan = _Plan.of(request)
    check(request.out, request.choice)
    first = plan.tasks(request.choice, plan.seeds[0])
    for task in first:
        build.objective(task.config)
    workers = workers_of(request, len(first) * len(plan.seeds))
    choice = replace(request.choice, threads=threads_of(request, workers))
    claim(request.out, request.choice)
    rounds = [plan.tasks(choice, seed) for seed in plan.seeds]
    failed = {
        made.name: made.failure
        for made in make_tasks(request, rounds, workers, watcher)
        if made.failure is not None
    }
    tables = _tables(plan, failed)
    if not any(table.rows for table in tables):
        raise LratError(f"no run of the sensitivity can be shown: {'; '.join(failed.values())}")
    json_path, path = request.out / "sensitivity.json", request.out / "sensitivity.md"
    about = _about(plan, first[0])
    write_json(
        json_path,
        {
            "preset": request.choice.record(),
            "command": request.command,
            "about": about,
            "suite": plan.attacks.suite,
            "limit": plan.attacks.limit,
            "studies": [table.record() for table in tables],
            "failed": failed,
        },
    )
    write_text(path, markdown(tables, about, request.command))
    seconds = time.perf_counter() - started
    done = f"{len(tables)} studies, {sum(map(len, rounds))} runs"
    note_in_history(request.out, request.target, request.command, seconds=seconds, about=done)
    shown, conclusion = in_brief(tables)
    return Report(
        tables=shown,
        conclusion=conclusion,
        paths=(path, json_path),
        seconds=seconds,
        failed=tuple(f"{name}: {why}" for name, why in failed.items()),
    )


def _about(plan: _Plan, task: RunTask) -> str:
    config = task.config
    seeds = " ".join(map(str, plan.seeds))
    images = "all test images"
    if plan.attacks.limit is not None and plan.attacks.limit < task.images:
        images = f"{plan.attacks.limit} test images"
    shorter = plan.choice.preset.name in _EPOCHS and not plan.choice.sets("training.epochs")
    fewer = ", fewer than in the tables: compare rows with each other alone" * shorter
    changed = f"; changed for all rows: {', '.join(plan.choice.set)}" * bool(plan.choice.set)
    return (
        f"Preset {plan.choice.preset.name}{changed}; {config.training.epochs} epochs{fewer}; seeds "
        f"{seeds}, "
        f"{config.threat}, suite {plan.attacks.suite} on {images} of each seed"
    )


def _tables(plan: _Plan, failed: Mapping[str, str]) -> list[StudyTable]:
    """Of the studies asked for, and of others that are whole."""
    tables = []
    for study in plan.every:
        if study in plan.studies:
            tables.append(_table(study, plan, failed))
            continue
        try:
            tables.append(_table(study, plan, {}))
        except LratError as error:
            if all(
                plan.folder(row.name, seed).exists() for row in study.rows for seed in plan.seeds
            ):
                _logger.warning("%s is left out: %s", study.title, error)
    return tables


def _table(study: Study, plan: _Plan, failed: Mapping[str, str]) -> StudyTable:
    """A study's rows: those that trained, in order, each against the reference."""
    evidence = {row.name: _evidence(row, plan, failed) for row in study.rows}
    there = {name: runs for name, runs in evidence.items() if runs}
    source = plan.choice.preset.name if plan.choice.preset.test_folds else None
    base = there.get(study.reference, [])
    columns = _columns(there)
    others = [
        runs for name, runs in there.items() if name != study.reference and common_seeds(base, runs)
    ]
    contrasts: list[GroupContrast] = []
    for runs in others:
        contrasts += contrasts_with(base, runs, (WORST_CASE,), source, comparisons=len(others))
    by_name = {each.group: each for each in adjusted(contrasts)}
    rows = [
        StudyRow(
            name=name,
            seeds=tuple(run.seed for run in runs),
            scores={
                column: over_seeds(
                    [count_right(run, column) for run in runs], same_images=source is None
                )
                for column in columns
            },
            contrast=by_name.get(name),
            weights=_weights(runs),
            farthest=_farthest(runs, base) if study.name == "alpha" else None,
        )
        for name, runs in there.items()
    ]
    return StudyTable(
        name=study.name,
        title=study.title,
        question=study.question,
        reference=study.reference,
        columns=columns,
        rows=tuple(rows),
        failed={name: why for name, why in failed.items() if _row_of(name) in evidence},
    )


def _columns(there: Mapping[str, Sequence[Evidence]]) -> tuple[str, ...]:
    for runs in there.values():
        names = dict.fromkeys(name for result in runs[0].results for name in result.names)
        return (*names, WORST_CASE)
    return ()


def _evidence(row: Varied, plan: _Plan, failed: Mapping[str, str]) -> list[Evidence]:
    """The runs of a row with the seeds that are asked for, but for those that failed."""
    found = []
    for seed in plan.seeds:
        if run_name(row.name, seed) in failed:
            continue
        folder = plan.folder(row.name, seed)
        config = plan.choice.config(row.method, seed, plan.layer(row))
        place = RunPlace(row=row.name, seed=seed, folder=folder)
        checkpoint = plan.choice.checkpoint(config)
        found.append(read_run(place, checkpoint, plan.attacks, plan.choice.data_root))
    return found


def _weights(runs: Sequence[Evidence]) -> dict[str, dict[str, float]]:
    """By term, means over seeds of the last epoch: ``share`` of the loss, with the floor's where it
    falls to the term, and ``effective_sample_size``."""
    terms: dict[str, dict[str, float]] = {}
    for term in runs[0].last["terms"]:
        for kind in ("share", "effective_sample_size"):
            values = [run.last["terms"].get(term, {}).get(kind) for run in runs]
            known = [value for value in values if value is not None]
            if known:
                terms.setdefault(term, {})[kind] = sum(known) / len(known)
    return terms


def _farthest(runs: Sequence[Evidence], base: Sequence[Evidence]) -> float | None:
    """The largest difference of any of the network's weights from the reference's, over seeds."""
    pairs = [(run, other) for run in runs for other in base if run.seed == other.seed]
    distances = []
    for run, other in pairs:
        ours = load_weights(run.folder, run.config, run.checkpoint)
        theirs = load_weights(other.folder, other.config, other.checkpoint)
        distances += [
            float((value.double() - theirs[name].double()).abs().max())
            for name, value in ours.items()
            if value.numel()
        ]
    return max(distances, default=None)


def _row_of(run: str) -> str:
    return run.rpartition("-seed-")[0]
