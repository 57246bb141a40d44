"""Figure 4 from real images: attacked again, with the weights that they would have."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lrat import hardware
from lrat.analysis.views import Columns
from lrat.evaluation.forward import classify
from lrat.experiments.analyse.result import Analysis
from lrat.experiments.analyse.views import looks_of
from lrat.hardware import move
from lrat.losses import probability_margin
from lrat.modes import evaluating
from lrat.randomness import Keyed, keys
from lrat.reporting.figures import Instance, Pair
from lrat.reproduce.figures.captions import sentences
from lrat.reproduce.figures.runs import FigureRun
from lrat.runs.sources import LoadedModel, ModelSource, check_images
from lrat.weighting import Evidence, GeometryTanh, MarginPower

ATTACKS = ("pgd", "cw", "saa")
_QUANTILES = (1.0, 0.9, 0.5)
"""Of the spread of margins between attacks: the images that are shown."""


@dataclass(frozen=True, kw_only=True)
class Idea:
    """The images to draw, and how they were chosen and weighed, for the caption."""

    instances: list[Instance]
    words: str


def idea_of(run: FigureRun, analysis: Analysis) -> Idea:
    """Three of the analysed images with their variants under PGD, CW and SAA.

    Local weights are Eq. 12 of each variant's margin over their mean over all analysed images and
    attacks; the one global weight is Eq. 10 of the PGD steps survived over its mean.
    """
    views = analysis.views
    source = ModelSource(run=run.folder, checkpoint=run.checkpoint, data_root=run.root)
    loaded = source.load(part="train")
    check_images(run.folder, "train", loaded.images)
    rows = chosen_rows(views)
    variants = _variants(run, loaded, views["index"][rows], int(analysis.summary["seed"]))
    local = _local_mean(views, _margin_power(run))
    steps = torch.tensor(views["v_gd"])
    worldwide = _geometry(run, steps)
    mean = float(worldwide.mean())
    names = analysis.summary["class_names"]
    instances = [
        Instance(
            image=variants.clean[number],
            label=_named(names, int(views["label"][row])),
            pairs=[
                Pair(
                    attack=attack,
                    image=variants.images[attack][number],
                    prediction=_named(names, int(variants.predictions[attack][number])),
                    margin=float(variants.margins[attack][number]),
                    weight=float(variants.weights[attack][number]) / local,
                )
                for attack in ATTACKS
            ],
            global_weight=float(worldwide[row]) / mean if mean > 0 else 0.0,
        )
        for number, row in enumerate(rows.tolist())
    ]
    return Idea(instances=instances, words=_words(run, analysis, len(rows)))


def chosen_rows(views: Columns) -> npt.NDArray[np.int64]:
    """Rows of the images with the largest spread of margins between attacks, with that at its 90 %
    quantile and the median one, among those right when clean (all where none is); each once."""
    margins = np.stack([views[f"t_{attack}"] for attack in ATTACKS])
    spread = np.ptp(margins, axis=0)
    right = np.flatnonzero(views["correct"])
    rows = right if len(right) else np.arange(len(spread))
    order = rows[np.argsort(spread[rows], kind="stable")]
    ranks = dict.fromkeys(round(quantile * (len(order) - 1)) for quantile in _QUANTILES)
    return np.asarray([order[rank] for rank in ranks], dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class _Variants:
    """Clean images [n C H W]; per attack images, predictions, margins t and weights [n]."""

    clean: npt.NDArray[np.float32]
    images: dict[str, npt.NDArray[np.float32]]
    predictions: dict[str, npt.NDArray[Any]]
    margins: dict[str, npt.NDArray[Any]]
    weights: dict[str, npt.NDArray[Any]]


def _variants(
    run: FigureRun, loaded: LoadedModel, index: npt.NDArray[np.int64], seed: int
) -> _Variants:
    """Attacked again with the noise of the analysis; margins are those of the images shown."""
    device = hardware.device(loaded.config.device)
    network = move(loaded.network, device)
    numbers = loaded.images.index.cpu().numpy()
    order = np.argsort(numbers, kind="stable")
    rows = order[np.searchsorted(numbers, index, sorter=order)]
    batch = loaded.images.batch(torch.from_numpy(rows)).to(device)
    noise = Keyed(keys(seed, batch.index))
    images, logits = {}, {}
    with loaded.threads(), evaluating(network):
        clean = classify(network, batch.images, index, "natural")
        for look in looks_of(loaded.config, again=False, saa=True):
            variant = look.attack(
                network,
                batch.images,
                batch.labels,
                noise=noise.child(look.stream),
                clean_logits=clean,
            )
            images[look.name] = _array(variant.images)
            logits[look.name] = classify(network, variant.images, index, look.name)
    weighting = _margin_power(run)
    labels = batch.labels
    return _Variants(
        clean=_array(batch.images),
        images=images,
        predictions={name: _array(each.argmax(1)) for name, each in logits.items()},
        margins={name: _array(probability_margin(each, labels)) for name, each in logits.items()},
        weights={
            name: _array(weighting(Evidence(logits=each, labels=labels)))
            for name, each in logits.items()
        },
    )


def _margin_power(run: FigureRun) -> MarginPower:
    """Eq. 12 with the run's own numbers, the paper's where its method does not use them."""
    return MarginPower(alpha=run.numbers.alpha, beta=run.numbers.beta)


def _local_mean(views: Columns, weighting: MarginPower) -> float:
    """Mean of Eq. 12 over all analysed pairs of image and attack."""
    margins = np.stack([views[f"t_{attack}"] for attack in ATTACKS]).astype(np.float64)
    return float(weighting.of_margin(torch.from_numpy(margins)).mean()) or 1.0


def _geometry(run: FigureRun, steps: Tensor) -> npt.NDArray[np.float64]:
    """Eq. 10 of the steps survived [n]."""
    weighting = GeometryTanh(lambda_=run.numbers.gairat_lambda)
    nothing = torch.zeros(len(steps), 2)
    weights = weighting(
        Evidence(
            logits=nothing,
            labels=torch.zeros(len(steps), dtype=torch.long),
            steps_survived=steps,
            max_steps=run.config.attack.steps,
        )
    )
    return weights.double().numpy()


def _words(run: FigureRun, analysis: Analysis, shown: int) -> str:
    method, summary = _margin_power(run), analysis.summary
    which = "with the largest, the 90 % and the median spread of t between attacks"
    return sentences(
        "each pair of image and attack has its own margin t (Eq. 11) and so its own weight w(t) = "
        f"{method.alpha:g}(1 - t)^{method.beta:g} (Eq. 12), red above and blue below the image's "
        "mean; grey: the one weight that GAIRAT (Eq. 10, PGD steps survived, lambda "
        f"{run.numbers.gairat_lambda:g}) gives the image under all attacks",
        f"all relative to the mean over {summary['images']:,} {summary['part']}ing images "
        "(dotted); above each variant: the class that the model predicts",
        f"shown: the {shown} image(s) {which}, among those right when clean",
        f"model: {summary['method']} (training seed {run.seed}, weights "
        f"{run.checkpoint}) on {summary['data']}, {summary['threat']}; attacks as in "
        f"training, noise seed {summary['seed']}",
    )


def _named(names: Any, label: int) -> str:
    return str(names[label]) if label < len(names) else str(label)


def _array(values: Tensor) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = values.detach().float().cpu().numpy()
    return array
