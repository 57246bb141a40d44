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
    """The story of an image with what is stored beside it (``parts``), and the figure."""

    parts: ExplanationParts
    drawn: Drawn

    def __str__(self) -> str:
        return f"{self.parts}\n\nfigure in {self.drawn.pdf} and {self.drawn.png}"


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
    chosen_device = hardware.device(device)
    source = ModelSource(run=run, checkpoint=checkpoint, data=data, data_root=data_root)
    subject = source.load(threat)
    row = _row_of(index, subject.images, run)
    repeated = _Repeated.largest(run, subject, suite_name, index)
    network = move(subject.network, chosen_device)
    with subject.threads():
        way = repeated.acceleration or acceleration
        view = build.view(way, network, subject.images, evaluated_choices(repeated.folder))
        story = tell_story(
            network,
            subject.images.batch(torch.tensor([row])),
            repeated.suite,
            view=view,
            seed=repeated.seed,
            device=chosen_device,
        )
    parts = ExplanationParts(
        run=f"{run} ({checkpoint})",
        data=subject.images.name,
        class_names=subject.images.class_names,
        threat=describe_threat(repeated.suite.threat),
        seed=repeated.seed,
        seen=f"attacks see the model in {describe(view)}" if isinstance(view, View) else None,
        story=story,
        stored=repeated.rows,
        notes=(*build.examined(network, subject.images), *repeated.notes),
    )
    stem = out or run / FIGURES / f"why-{index}"
    stem = stem.with_suffix("") if stem.suffix in {".pdf", ".png"} else stem
    drawn = why_figure(
        story.image,
        f"clean\n{parts.words(story.natural)}",
        [
            (parts.named(number, story.label), float(share))
            for number, share in enumerate(story.probabilities)
        ],
        _pictures(parts),
        stem,
        caption=parts.caption,
    )
    return Explanation(parts=parts, drawn=drawn)


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
class _Repeated:
    """The suite to run, and the finished evaluation that it repeats, if there is one."""

    suite: Suite
    seed: int = 0
    folder: Path | None = None
    rows: Outcomes | None = None
    acceleration: str | None = None
    notes: tuple[str, ...] = ()

    @staticmethod
    def largest(run: Path, subject: LoadedModel, suite_name: str | None, index: int) -> "_Repeated":
        """The evaluation with the image, then with the most attacks, then with the most images."""

        def named(name: str) -> Suite:
            return suite(name, subject.threat, subject.classes)

        default = named(suite_name or _DEFAULT_SUITE)
        best: tuple[tuple[bool, int, int], _Repeated] | None = None
        for folder in _finished(run, subject, default.name if suite_name else None):
            attacks = default
            if suite_name is None:
                name = str(evaluated(folder, "suite"))
                if name not in catalogue.SUITES:
                    continue
                attacks = named(name)
            result = EvaluationResult.from_folder(folder)
            if not _same(result.identity, attacks):
                continue
            rank = (index in result.index, len(attacks.steps), len(result.index))
            if best is None or rank > best[0]:
                best = rank, _of(folder, result, attacks, index)
        if best is not None:
            return best[1]
        of_suite = f" of {default.name}" if suite_name else ""
        note = (
            f"no finished evaluation{of_suite} of these weights, data and threat in {run}: nothing "
            "stored to compare with"
        )
        return _Repeated(suite=default, notes=(note,))


def _finished(run: Path, subject: LoadedModel, suite_name: str | None) -> list[Path]:
    """Folders of finished evaluations of this model on these data, of a suite if one is named.
    ``RunFolderError`` for a damaged identity, which might be one of them."""
    expected: dict[str, str] = {**subject.identity, "data": subject.images.digest()}
    if suite_name is not None:
        expected["suite"] = suite_name
    known = {folder: read_identity(folder / IDENTITY) for folder in finished_at(run)}
    return [
        folder
        for folder, identity in known.items()
        if all(identity.get(key) == value for key, value in expected.items())
        and own_folder(folder, subject.identity, subject.program) == folder
    ]


def _same(identity: Mapping[str, Any], suite: Suite) -> bool:
    attacks = {step.name: step.description for step in suite.steps}
    return bool(
        identity["attacks"] == attacks and identity["threat"] == describe_threat(suite.threat)
    )


def _of(folder: Path, result: EvaluationResult, attacks: Suite, index: int) -> _Repeated:
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
    return _Repeated(
        suite=attacks,
        seed=result.seed,
        folder=folder,
        rows=rows,
        acceleration=OFF if identity.get("acceleration") == OFF else "auto",
        notes=tuple(notes),
    )


def _pictures(parts: ExplanationParts) -> list[AttackPicture]:
    return [
        AttackPicture(
            name=attack.name,
            image=attack.image,
            words=parts.words(attack.row),
            fooled=bool(attack.row.fooled[0]),
            paths=[
                PathPicture(
                    margin=path.margin.tolist(), forward=path.forward.tolist(), failure=path.failure
                )
                for path in attack.paths
            ],
        )
        for attack in parts.story.attacks
        if attack.image is not None
    ]
