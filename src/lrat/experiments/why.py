"""Everything known about one image of a run: stored outcomes, and each attack's way to them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from lrat import hardware
from lrat.acceleration import View, describe
from lrat.checks import whole
from lrat.config import build, catalogue
from lrat.config.catalogue import check_suite
from lrat.data import ImageData
from lrat.errors import DataError
from lrat.evaluation import EvaluationResult, Outcomes, Suite
from lrat.evaluation.storage.records import read_identity
from lrat.evaluation.story import tell_story
from lrat.evaluation.suites import describe_threat
from lrat.experiments.why_text import ExplanationParts
from lrat.files.names import FIGURES, IDENTITY
from lrat.hardware import move
from lrat.randomness import random_state_kept
from lrat.reporting.figures import AttackPicture, Drawn, PathPicture, why_figure
from lrat.runs.folder import OFF, evaluated, finished_at
from lrat.runs.sources import LoadedModel, ModelSource, evaluated_choices, own_folder
from lrat.runs.suites import suite

_DEFAULT_SUITE = "quick"


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """``told``: the story with what is stored beside it, and the figure."""

    told: ExplanationParts
    drawn: Drawn

    def __str__(self) -> str:
        return f"{self.told}\n\nfigure in {self.drawn.pdf} and {self.drawn.png}"


@random_state_kept()
def explain(
    run: Path,
    index: int,
    *,
    suite_name: str | None = None,
    checkpoint: str = "selected",
    threat: str | None = None,
    data: str | None = None,
    data_root: str | None = None,
    out: Path | None = None,
    acceleration: Literal["auto", "off"] = "auto",
    device: str = "auto",
) -> Explanation:
    """Attack the test image numbered ``index`` alone, as an evaluation does, and watch.

    ``suite_name`` None: the suite of the run's largest finished evaluation of these weights, else
    ``quick``. Where such an evaluation holds the image, its rows are shown, and verdicts that
    differ are named. ``out``: the figure's path without ending, by default in the run's folder.
    Raises the errors of ``lrat.errors``.
    """
    if suite_name is not None:
        check_suite(suite_name)
    index = whole(example=17)("index", index)
    place = hardware.device(device)
    source = ModelSource(run=run, checkpoint=checkpoint, data=data, data_root=data_root)
    subject = source.load(threat)
    row = _row_of(index, subject.images, run)
    found = _Found.largest(run, subject, suite_name, index)
    network = move(subject.network, place)
    with subject.threads():
        way = found.acceleration or acceleration
        view = build.view(way, network, subject.images, evaluated_choices(found.folder))
        story = tell_story(
            network,
            subject.images.batch(torch.tensor([row])),
            found.suite,
            view=view,
            seed=found.seed,
            device=place,
        )
    told = ExplanationParts(
        run=f"{run} ({checkpoint})",
        data=subject.images.name,
        class_names=subject.images.class_names,
        threat=describe_threat(found.suite.threat),
        seed=found.seed,
        seen=f"attacks see the model in {describe(view)}" if isinstance(view, View) else None,
        story=story,
        stored=found.rows,
        notes=(*build.examined(network, subject.images), *found.notes),
    )
    stem = out or run / FIGURES / f"why-{index}"
    stem = stem.with_suffix("") if stem.suffix in {".pdf", ".png"} else stem
    drawn = why_figure(
        story.image,
        f"clean\n{told.words(story.natural)}",
        [
            (told.named(place, story.label), float(share))
            for place, share in enumerate(story.probabilities)
        ],
        _pictures(told),
        stem,
        caption=told.caption,
    )
    return Explanation(told=told, drawn=drawn)


def _row_of(index: int, test: ImageData, run: Path) -> int:
    """The position of the image with this number, or an error that says which there are."""
    numbers = test.index.cpu().numpy()
    rows = np.flatnonzero(numbers == index)
    if len(rows):
        return int(rows[0])
    nearest = int(numbers[np.abs(numbers - index).argmin()])
    raise DataError(
        f"no test image of {run} has the number {index}: there are {len(numbers)}, numbered "
        f"{numbers.min()} to {numbers.max()}; the nearest is {nearest}"
    )


@dataclass(frozen=True, kw_only=True)
class _Found:
    """The suite to run, and the finished evaluation that it repeats, if there is one."""

    suite: Suite
    seed: int = 0
    folder: Path | None = None
    rows: Outcomes | None = None
    acceleration: str | None = None
    notes: tuple[str, ...] = ()

    @staticmethod
    def largest(run: Path, subject: LoadedModel, suite_name: str | None, index: int) -> "_Found":
        """The evaluation with the image, then with the most attacks, then with the most images."""

        def made(name: str) -> Suite:
            return suite(name, subject.threat, subject.classes)

        asked = made(suite_name or _DEFAULT_SUITE)
        best: tuple[tuple[bool, int, int], _Found] | None = None
        for folder in _finished(run, subject, asked.name if suite_name else None):
            wanted = asked
            if suite_name is None:
                name = str(evaluated(folder, "suite"))
                if name not in catalogue.SUITES:
                    continue
                wanted = made(name)
            result = EvaluationResult.from_folder(folder)
            if not _same(result.identity, wanted):
                continue
            rank = (index in result.index, len(wanted.steps), len(result.index))
            if best is None or rank > best[0]:
                best = rank, _of(folder, result, wanted, index)
        if best is not None:
            return best[1]
        asking = f" of {asked.name}" if suite_name else ""
        note = (
            f"no finished evaluation{asking} of these weights, data and threat in {run}: nothing "
            "stored to compare with"
        )
        return _Found(suite=asked, notes=(note,))


def _finished(run: Path, subject: LoadedModel, suite_name: str | None) -> list[Path]:
    """Folders of finished evaluations of this model on these data, of a suite if one is named.
    ``RunFolderError`` for a damaged identity: nobody knows whether it is one of them."""
    wanted: dict[str, str] = {**subject.identity, "data": subject.images.digest()}
    if suite_name is not None:
        wanted["suite"] = suite_name
    known = {folder: read_identity(folder / IDENTITY) for folder in finished_at(run)}
    return [
        folder
        for folder, identity in known.items()
        if all(identity.get(key) == value for key, value in wanted.items())
        and own_folder(folder, subject.identity, subject.program) == folder
    ]


def _same(identity: Mapping[str, Any], wanted: Suite) -> bool:
    attacks = {step.name: step.description for step in wanted.steps}
    return bool(
        identity["attacks"] == attacks and identity["threat"] == describe_threat(wanted.threat)
    )


def _of(folder: Path, result: EvaluationResult, wanted: Suite, index: int) -> _Found:
    identity = result.identity
    notes = [f"stored outcomes from {folder}"]
    rows = None
    if index in result.index:
        rows = result.outcomes.select(result.outcomes.index == index)
    else:
        notes = [f"image {index} is not among the {len(result.index)} images of {folder}"]
    if identity.get("noise"):
        notes.append(
            f"the stored evaluation drew {identity['noise']}; here noise is keyed, so that starts "
            "differ"
        )
    return _Found(
        suite=wanted,
        seed=result.seed,
        folder=folder,
        rows=rows,
        acceleration=OFF if identity.get("acceleration") == OFF else "auto",
        notes=tuple(notes),
    )


def _pictures(told: ExplanationParts) -> list[AttackPicture]:
    return [
        AttackPicture(
            name=attack.name,
            image=attack.image,
            words=told.words(attack.row),
            fooled=bool(attack.row.fooled[0]),
            paths=[
                PathPicture(
                    margin=path.margin.tolist(), forward=path.forward.tolist(), failure=path.failure
                )
                for path in attack.paths
            ],
        )
        for attack in told.story.attacks
        if attack.image is not None
    ]
