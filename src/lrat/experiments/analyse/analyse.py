"""``lrat analyse``: how a run's model sees its images, kept in the run's folder.

What an analysis' numbers are of: the plain values of its ``summary.json``.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lrat import hardware
from lrat.analysis import margin_distributions
from lrat.analysis.agreements import agreement, top_sets
from lrat.analysis.embedding import LEAST, check_points, embed, engine_of, perplexity_of
from lrat.analysis.views import Columns, Look, last_layer
from lrat.analysis.weights import EDGES, LOW, read_recorded, weight_statistics
from lrat.config import build
from lrat.data import ImageData, in_order, stratified_subset
from lrat.errors import ConfigurationError, RunFolderError
from lrat.evaluation.forward import classify
from lrat.evaluation.statistics import wilson
from lrat.evaluation.storage.records import read_identity
from lrat.evaluation.suites import Member
from lrat.experiments.analyse.figures import draw
from lrat.experiments.analyse.ranking import Ranking, rank_folder
from lrat.experiments.analyse.result import Analysis, AnalysisRequest
from lrat.experiments.analyse.views import ProgressCallback, attack_images, looks_of
from lrat.files.names import (
    ANALYSES,
    EMBEDDING,
    IDENTITY,
    OVERLAP,
    RANKINGS,
    RECORDED,
    SUMMARY,
    VULNERABILITY,
)
from lrat.files.write import write_json, write_table
from lrat.hardware import environment, move
from lrat.modes import evaluating
from lrat.randomness import random_state_kept
from lrat.runs.folder import finished_at
from lrat.runs.kept import KeptResult, with_columns
from lrat.runs.lock import locked
from lrat.runs.sources import (
    LoadedModel,
    ModelSource,
    check_images,
    choices_in,
    evaluated_choices,
    own_folder,
)

__all__ = ["Analysis", "AnalysisRequest", "analyse_run"]

_LIMIT_SEED = 0
_AGAIN = "delete it and analyse again"
_WEIGHTS = "weights"


@random_state_kept()
def analyse_run(
    run: Path,
    request: AnalysisRequest,
    *,
    data: str | None = None,
    data_root: str | None = None,
    progress: ProgressCallback | None = None,
) -> Analysis:
    """Analyse a run's weights on its images, or read back and complete what is there.

    The same request continues an analysis that was broken off. One of other weights, or of another
    version of the user's code, has a folder of its own; what else changed since is refused with the
    difference. ``data`` and ``data_root``: where the run's data lie now, if they were moved. Raises
    the errors of ``lrat.errors``.
    """
    hardware.device(request.device)
    before = time.perf_counter()
    source = ModelSource(run=run, checkpoint=request.checkpoint, data=data, data_root=data_root)
    subject = source.load(part=request.part)
    check_images(run, request.part, subject.images)
    images = stratified_subset(subject.images, request.limit, seed=_LIMIT_SEED)
    check_points(min(request.points, len(images)))
    with subject.threads():
        opening = time.perf_counter() - before
        return _Analysis(run, subject, request, images, progress, {"opening": opening}).run()


@dataclass
class _Analysis:
    """One call: its parts in the order in which they are done."""

    run_folder: Path
    subject: LoadedModel
    request: AnalysisRequest
    images: ImageData
    progress: ProgressCallback | None
    seconds: dict[str, float]
    notes: list[str] = field(default_factory=list)

    def run(self) -> Analysis:
        """Two calls in one folder would write over each other: the second waits, and reads."""
        name = self.request.folder_name(len(self.images))
        folder = self.run_folder / ANALYSES / name
        folder = own_folder(folder, self._model, self.subject.program)
        with locked(folder, wait=True):
            return self._analyse_in(folder)

    def _analyse_in(self, folder: Path) -> Analysis:
        began = time.perf_counter()
        request = self.request
        device = hardware.device(request.device)
        network = move(self.subject.network, device)
        view = build.view(request.acceleration, network, self.images, evaluated_choices(folder))
        looks = looks_of(self.subject.config, again=request.again, saa=request.saa)
        identity = self._identity(view, looks)
        kept = KeptResult(folder=folder, identity=identity, what="analysis", again=_AGAIN)
        kept.begin()
        earlier = kept.json(SUMMARY, dict)
        attacked = attack_images(
            network,
            view,
            self.images,
            looks,
            kept=kept,
            threat=self.subject.threat,
            seed=request.seed,
            batch_size=request.batch_size,
            device=device,
            progress=self.progress,
        )
        self.seconds["attacks"] = attacked.seconds
        analysis = self._derived(kept, network, device, identity, attacked.columns)
        with self._timed("figures"):
            drawn = draw(analysis)
        whole = time.perf_counter() - began
        timed = sum(self.seconds.values()) - self.seconds["opening"]
        if attacked.images or earlier is None:
            times = {**self.seconds, "rest": whole - timed, "images_attacked": attacked.images}
        else:  # nothing was attacked: the times are those of the call that did
            times = earlier.get("seconds", self.seconds)
        analysis.summary["seconds"] = times
        kept.finish(SUMMARY, analysis.summary)
        return replace(analysis, figures=tuple(each.pdf for each in drawn))

    @cached_property
    def _model(self) -> dict[str, str]:
        """What tells the model from others; of one with code of the user's that too."""
        program = self.subject.program
        code = {"program": program.digest()} if program.code else {}
        return {**self.subject.identity, **code}

    def _identity(self, view: nn.Module, looks: Sequence[Look]) -> dict[str, Any]:
        """Everything that the views depend on, but for the device."""
        return {
            **self._model,
            "data": self.images.digest(),
            "part": self.request.part,
            "threat": self.subject.config.threat,
            "attacks": {
                look.name: Member(name=look.name, attack=look.attack).description for look in looks
            },
            "seed": self.request.seed,
            "acceleration": choices_in(view),
        }

    def _derived(
        self,
        kept: KeptResult,
        network: nn.Module,
        device: torch.device,
        identity: dict[str, Any],
        columns: Columns,
    ) -> Analysis:
        """Everything that follows from the views; all but the summary is written at once."""
        views = {**columns, **top_sets(columns, self.request.top)}
        # A summary must agree with the other files, also after a kill: another --top or --points
        # changes the tables one by one.
        kept.remove(SUMMARY)
        write_table(kept.folder / VULNERABILITY, views)
        overlap = agreement(columns, self.request.top)
        write_json(kept.folder / OVERLAP, overlap)
        self._note_ties(overlap)
        weights = self._weights(kept)
        rankings = self._rankings(kept, identity["model"])
        with self._timed("embedding"):
            embedding = self._embedding(kept, network, device)
        summary = {
            **about(self.subject, self.request, self.images, columns),
            "size": overlap["size"],
            "weights": about_weights(self.subject, weights),
            "embedding": about_embedding(self.request, embedding),
            "rankings": [ranking.name for ranking in rankings],
            "notes": self.notes,
            "identity": identity,
            "environment": environment(device),
        }
        return Analysis(
            folder=kept.folder,
            summary=summary,
            overlap=overlap,
            views=views,
            weights=weights,
            embedding=embedding,
            rankings=rankings,
        )

    @contextmanager
    def _timed(self, work: str) -> Iterator[None]:
        before = time.perf_counter()
        yield
        self.seconds[work] = time.perf_counter() - before

    def _weights(self, kept: KeptResult) -> Columns | None:
        """The statistics of the recorded epochs; None, and a note, where there are none."""
        recorded = list(read_recorded(self.run_folder / RECORDED))
        table = weight_statistics(recorded, floor=self.subject.config.floor_in)
        if table:
            write_table(kept.folder / _WEIGHTS, table)
            return table
        kept.remove(_WEIGHTS)
        if recorded:
            self.notes.append(f"{self.subject.config.method.name} gives its images no weights")
        else:
            self.notes.append(
                "no weights were recorded: train a run that does, `lrat train --config "
                f"{self.run_folder}/config.yaml --set training.record_weights="
                f"[{self.subject.config.training.epochs}] --out ANOTHER`"
            )
        return None

    def _rankings(self, kept: KeptResult, model: str) -> tuple[Ranking, ...]:
        """The ranking of each finished evaluation of these weights, or a note why there is none."""
        rankings = []
        for folder in finished_at(self.run_folder):
            try:
                if read_identity(folder / IDENTITY).get("model") != model:
                    continue
                rankings.append(replace(rank_folder(folder), name=folder.name))
            except (ConfigurationError, RunFolderError) as error:
                self.notes.append(f"{folder.name} is not ranked: {error}")
        if rankings:
            write_json(kept.folder / RANKINGS, {each.name: each.record() for each in rankings})
        else:
            kept.remove(RANKINGS)
        return tuple(rankings)

    def _note_ties(self, overlap: dict[str, Any]) -> None:
        cut = overlap["views"]["v_gd"]
        if cut["at"] > cut["taken_at"]:
            self.notes.append(
                f"V_GD's most vulnerable {overlap['size']} rest on ties: {cut['at']} images have "
                f"kappa {cut['value']:g} at its edge and {cut['taken_at']} of them are taken, by "
                "V_PGD, so its overlap with V_PGD is partly the rule's (see 'random ties')"
            )

    def _embedding(
        self, kept: KeptResult, network: nn.Module, device: torch.device
    ) -> Columns | None:
        """t-SNE of a fixed, stratified part of the images; read back where it is there already."""
        if self.request.points == 0:
            kept.remove(EMBEDDING)
            return None
        shown = stratified_subset(self.images, self.request.points, seed=_LIMIT_SEED)
        names = ("index", "label", "x", "y")
        known = kept.table(EMBEDDING, with_columns(*names))
        if known is not None and np.array_equal(known["index"], np.sort(shown.index.cpu().numpy())):
            return known
        batches = list(in_order(shown, batch_size=self.request.batch_size, device=device))
        with evaluating(network):
            outputs, index = last_layer(batches, partial(classify, network))
        points = embed(outputs, seed=self.request.seed)
        if points is None:
            kept.remove(EMBEDDING)
            self.notes.append(
                f"no t-SNE: {len(shown)} images are too few, it needs {LEAST}"
                if len(shown) < LEAST
                else "no t-SNE: the model gives all images the same outputs"
            )
            return None
        order = np.argsort(index, kind="stable")
        shown_labels: np.ndarray = shown.labels.cpu().numpy()
        columns: tuple[np.ndarray, ...] = (index, shown_labels, points[:, 0], points[:, 1])
        table = {name: each[order] for name, each in zip(names, columns, strict=True)}
        write_table(kept.folder / EMBEDDING, table)
        return table


def about(
    subject: LoadedModel, request: AnalysisRequest, images: ImageData, views: Columns
) -> dict[str, Any]:
    """The run, the images and the margins that they were left with."""
    config = subject.config
    return {
        "method": config.method.name,
        "data": config.data.name,
        "model": config.model.name,
        "threat": config.threat,
        "training_seed": config.seed,
        "checkpoint": request.checkpoint,
        "part": request.part,
        "images": len(images),
        "of": len(subject.images),
        "classes": subject.classes,
        "class_names": list(images.class_names),
        "seed": request.seed,
        "top": request.top,
        "max_steps": config.attack.steps,
        "right_when_clean": vars(wilson(int(views["correct"].sum()), len(images))),
        "margins": margin_distributions(views),
    }


def about_weights(subject: LoadedModel, weights: Columns | None) -> dict[str, Any] | None:
    """The recorded epochs and terms, and the histograms' edges, of which the last bin is open."""
    if weights is None:
        return None
    return {
        "epochs": [int(epoch) for epoch in np.unique(weights["epoch"])],
        "terms": list(dict.fromkeys(str(term) for term in weights["term"])),
        "edges": [float(edge) for edge in EDGES[:-1]],
        "low": LOW,
        "floor": subject.config.floor_in(int(weights["epoch"].max())),
    }


def about_embedding(request: AnalysisRequest, embedding: Columns | None) -> dict[str, Any]:
    """How the points were laid out; ``points`` 0 where there are none."""
    points = 0 if embedding is None else len(embedding["index"])
    return {
        "points": points,
        "engine": engine_of(points),
        "perplexity": perplexity_of(points) if points >= LEAST else None,
        "of": "last-layer outputs (logits) of clean images",
        "seed": request.seed,
    }
