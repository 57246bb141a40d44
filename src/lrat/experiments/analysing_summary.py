"""What an analysis' numbers are of: the plain values of its ``summary.json``."""

from typing import Any

import numpy as np

from lrat.analysis import margin_distributions
from lrat.analysis.embedding import LEAST, engine_of, perplexity_of
from lrat.analysis.views import Columns
from lrat.analysis.weights import EDGES, LOW
from lrat.config import build
from lrat.data import ImageData
from lrat.evaluation.statistics import wilson
from lrat.experiments.analyse.result import AnalysisRequest
from lrat.experiments.analysing_subject import Analysed


def about(
    subject: Analysed, request: AnalysisRequest, images: ImageData, views: Columns
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


def about_weights(subject: Analysed, weights: Columns | None) -> dict[str, Any] | None:
    """The recorded epochs and terms, and the histograms' edges, of which the last bin is open."""
    if weights is None:
        return None
    return {
        "epochs": [int(epoch) for epoch in np.unique(weights["epoch"])],
        "terms": list(dict.fromkeys(str(term) for term in weights["term"])),
        "edges": [float(edge) for edge in EDGES[:-1]],
        "low": LOW,
        "floor": floor_of(subject),
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


def floor_of(subject: Analysed) -> float:
    """C of Eq. 7 for methods that have it, else 0."""
    method = subject.config.method
    return method.min_weight if "min_weight" in build.METHODS[method.name].uses else 0.0
