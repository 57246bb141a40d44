"""``lrat analyse``: how a run's model sees its images, kept in the run's folder."""

import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lrat.acceleration import View, evaluating
from lrat.analysis import (
    agreement,
    check_points,
    embed,
    last_layer,
    margin_distributions,
    read_recorded,
    top_sets,
    weight_statistics,
)
from lrat.analysis.embedding import LEAST, engine_of, perplexity_of
from lrat.analysis.views import Columns
from lrat.analysis.weights import EDGES, LOW
from lrat.data import ImageData, in_order, stratified_subset
from lrat.errors import ConfigurationError, RunFolderError
from lrat.evaluation.forward import classify
from lrat.evaluation.statistics import wilson
from lrat.evaluation.suites import Member
from lrat.experiments import build
from lrat.experiments.analysing_rankings import Ranking, rank_folder
from lrat.experiments.analysing_request import Analysis, AnalysisRequest
from lrat.experiments.analysing_store import (
    ANALYSES,
    EMBEDDING,
    OVERLAP,
    RANKINGS,
    SUMMARY,
    VULNERABILITY,
    WEIGHTS,
    AnalysisStore,
)
from lrat.experiments.analysing_subject import Analysed, open_run
from lrat.experiments.analysing_views import ProgressCallback, attack_images, looks_of
from lrat.experiments.environment import environment
from lrat.experiments.folder import EVALUATIONS, OFF, evaluated, evaluated_choices
from lrat.experiments.subjects import model_identity

__all__ = ["Analysis", "AnalysisRequest", "analyse_run"]

_LIMIT_SEED = 0
_RECORDED = "weights"


def analyse_run(
    run: Path,
    request: AnalysisRequest,
    *,
    data: str | None = None,
    data_root: str | None = None,
    progress: ProgressCallback | None = None,
) -> Analysis:
    """Analyse a run's weights on its images, or read back and complete what is there.

    The same request continues an analysis that was broken off; where the weights, the images or
    the attacks changed since, it is made anew. ``data`` and ``data_root``: where the run's data lie
    now, if they were moved. Raises the errors of ``lrat.errors``.
    """
    request.check()
    began = time.perf_counter()
    subject = open_run(run, request.checkpoint, request.part, data=data, data_root=data_root)
    images = stratified_subset(subject.images, request.limit, seed=_LIMIT_SEED)
    check_points(min(request.points, len(images)))
    with build.threads(subject.config):
        return _Work(subject, request, images, progress, began).run()


@dataclass
class _Work:
    """One call: its parts in the order in which they are done."""

    subject: Analysed
    request: AnalysisRequest
    images: ImageData
    progress: ProgressCallback | None
    began: float
    notes: list[str] = field(default_factory=list)

    def run(self) -> Analysis:
        config, request = self.subject.config, self.request
        place = build.device(request.device)
        network = self.subject.network.to(place)
        folder = self.subject.run / ANALYSES / request.folder_name(len(self.images))
        store = AnalysisStore(folder)
        view = build.view(request.acceleration, network, self.images, evaluated_choices(folder))
        wanted = looks_of(config, again=request.again, saa=request.saa)
        identity: dict[str, Any] = {
            **model_identity(network),
            "data": self.images.digest(),
            "part": request.part,
            "threat": config.threat,
            "attacks": {
                look.name: Member(name=look.name, attack=look.attack).description for look in wanted
            },
            "seed": request.seed,
            "acceleration": str(view.choices) if isinstance(view, View) else OFF,
        }
        changed = store.open(identity)
        if changed is not None:
            self.notes.append(f"an earlier analysis was out of date and was made anew ({changed})")
        earlier = store.finished()
        attacked = attack_images(
            network,
            view,
            self.images,
            wanted,
            store=store,
            threat=build.threat(config.threat),
            seed=request.seed,
            batch_size=request.batch_size,
            device=place,
            progress=self.progress,
        )
        views = {**attacked.columns, **top_sets(attacked.columns, request.top)}
        store.write(VULNERABILITY, views)
        overlap = agreement(attacked.columns, request.top)
        store.write_json(OVERLAP, overlap)
        weights = self._weights(store)
        rankings = self._rankings(store, identity["model"])
        self._note_ties(overlap)
        before = time.perf_counter()
        embedding = self._embedding(store, network, place)
        embedding_seconds = time.perf_counter() - before
        summary = {
            **self._about(attacked.columns, overlap, weights, embedding),
            "identity": identity,
            "environment": environment(place),
            "rankings": [ranking.name for ranking in rankings],
            "notes": self.notes,
        }
        made = Analysis(
            folder=folder,
            summary=summary,
            overlap=overlap,
            views=views,
            weights=weights,
            embedding=embedding,
            rankings=rankings,
        )
        whole = time.perf_counter() - self.began
        if attacked.images or earlier is None:
            summary["seconds"] = {
                "attacks": attacked.seconds,
                "embedding": embedding_seconds,
                "rest": whole - attacked.seconds - embedding_seconds,
                "images_attacked": attacked.images,
            }
        else:  # nothing was attacked: the times are those of the call that did
            summary["seconds"] = earlier.get("seconds")
        store.write_json(SUMMARY, summary)
        return made

    def _about(
        self,
        views: Columns,
        overlap: dict[str, Any],
        weights: Columns | None,
        embedding: Columns | None,
    ) -> dict[str, Any]:
        """What the numbers are of."""
        config, request = self.subject.config, self.request
        n = len(self.images)
        right = wilson(int(views["correct"].sum()), n)
        points = 0 if embedding is None else len(embedding["index"])
        return {
            "method": config.method.name,
            "data": config.data.name,
            "model": config.model.name,
            "threat": config.threat,
            "training_seed": config.seed,
            "checkpoint": request.checkpoint,
            "part": request.part,
            "images": n,
            "of": len(self.subject.images),
            "classes": self.subject.classes,
            "class_names": list(self.images.class_names),
            "seed": request.seed,
            "top": request.top,
            "size": overlap["size"],
            "max_steps": config.attack.steps,
            "right_when_clean": vars(right),
            "margins": margin_distributions(views),
            "weights": self._about_weights(weights),
            "embedding": {
                "points": points,
                "engine": engine_of(points),
                "perplexity": perplexity_of(points) if points >= LEAST else None,
                "of": "last-layer outputs (logits) of clean images",
                "seed": request.seed,
            },
        }

    def _about_weights(self, weights: Columns | None) -> dict[str, Any] | None:
        if weights is None:
            return None
        return {
            "epochs": [int(epoch) for epoch in np.unique(weights["epoch"])],
            "terms": list(dict.fromkeys(str(term) for term in weights["term"])),
            "edges": [float(edge) for edge in EDGES[:-1]],  # the last bin is open
            "low": LOW,
            "floor": _floor(self.subject),
        }

    def _weights(self, store: AnalysisStore) -> Columns | None:
        """The statistics of the recorded epochs; None, and a note, where there are none."""
        recorded = list(read_recorded(self.subject.run / _RECORDED))
        table = weight_statistics(recorded, floor=_floor(self.subject))
        if table:
            store.write(WEIGHTS, table)
            return table
        store.remove(WEIGHTS)
        if recorded:
            self.notes.append(f"{self.subject.config.method.name} gives its images no weights")
        else:
            self.notes.append(
                "no weights were recorded: train a run that does, `lrat train --config "
                f"{self.subject.run}/config.yaml --set training.record_weights="
                f"[{self.subject.config.training.epochs}] --out ANOTHER`"
            )
        return None

    def _rankings(self, store: AnalysisStore, model: str) -> tuple[Ranking, ...]:
        """Of each finished evaluation of these weights; what cannot be ranked is told."""
        found = []
        for path in sorted((self.subject.run / EVALUATIONS).glob("*/summary.json")):
            folder = path.parent
            if evaluated(folder, "model") != model:
                continue
            try:
                found.append(replace(rank_folder(folder), name=folder.name))
            except (ConfigurationError, RunFolderError) as error:
                self.notes.append(f"{folder.name} is not ranked: {error}")
        if found:
            store.write_json(RANKINGS, {each.name: each.record() for each in found})
        else:
            store.remove_file(RANKINGS)
        return tuple(found)

    def _note_ties(self, overlap: dict[str, Any]) -> None:
        cut = overlap["views"]["v_gd"]
        if cut["at"] > cut["taken_at"]:
            self.notes.append(
                f"V_GD's most vulnerable {overlap['size']} rest on ties: {cut['at']} images have "
                f"kappa {cut['value']:g} at its edge and {cut['taken_at']} of them are taken, by "
                "V_PGD, so its overlap with V_PGD is partly the rule's (see 'random ties')"
            )

    def _embedding(
        self, store: AnalysisStore, network: nn.Module, place: torch.device
    ) -> Columns | None:
        """t-SNE of a fixed, stratified part of the images; read back where it is there already."""
        if self.request.points == 0:
            store.remove(EMBEDDING)
            return None
        shown = stratified_subset(self.images, self.request.points, seed=_LIMIT_SEED)
        names = ("index", "label", "x", "y")
        known = store.table(EMBEDDING, names)
        if known is not None and np.array_equal(known["index"], np.sort(shown.index.cpu().numpy())):
            return known
        batches = list(in_order(shown, batch_size=self.request.batch_size, device=place))
        with evaluating(network):
            outputs, index = last_layer(batches, partial(classify, network))
        points = embed(outputs, seed=self.request.seed)
        if points is None:
            store.remove(EMBEDDING)
            self.notes.append(
                f"no t-SNE: {len(shown)} images are too few, it needs {LEAST}"
                if len(shown) < LEAST
                else "no t-SNE: the model gives all images the same outputs"
            )
            return None
        order = np.argsort(index, kind="stable")
        label = shown.labels.cpu().numpy()
        table = dict(zip(names, (index, label, points[:, 0], points[:, 1]), strict=True))
        table = {name: values[order] for name, values in table.items()}
        store.write(EMBEDDING, table)
        return table


def _floor(subject: Analysed) -> float:
    """C of Eq. 7 for methods that have it."""
    method = subject.config.method
    return method.min_weight if "min_weight" in build.METHODS[method.name].uses else 0.0
