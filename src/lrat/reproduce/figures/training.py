"""Figures 1 and 6: the weights of a run, and its test accuracy after each epoch."""

from collections.abc import Sequence

import numpy as np

from lrat.reporting.figures import (
    Drawn,
    accuracy_figure,
    accuracy_limits,
    weight_histogram_figure,
)
from lrat.reproduce.figures.captions import sentences
from lrat.reproduce.figures.request import FigureRequest
from lrat.reproduce.figures.runs import FigureRun, accuracy_curves, different_images, marks_of


def extreme_weights(figure: FigureRequest) -> list[Drawn]:
    """Figure 1: GAIRAT's raw weights (a); SAT (b) and GAIRAT (c) on one accuracy axis."""
    drawn = []
    if "a" in figure.parts:
        drawn.append(_weights(figure))
    rows = {"b": "sat", "c": "gairat"}
    curves = {
        part: accuracy_curves(figure.runs(row))
        for part, row in rows.items()
        if part in figure.parts
    }
    every = [curve for each in curves.values() for curve in each]
    limits = accuracy_limits(every) if curves else None
    for part, shown in curves.items():
        runs = figure.runs(rows[part])
        drawn.append(
            accuracy_figure(
                shown,
                figure.stem(part),
                title=f"{rows[part].upper()} on {runs[0].config.data.name}",
                caption=_accuracy_caption(runs),
                marks=marks_of(runs[0], weighted=part == "c"),
                limits=limits,
            )
        )
    return drawn


def _weights(figure: FigureRequest) -> Drawn:
    runs = figure.runs("gairat")
    recorded = [run.last_weights() for run in runs]
    epochs = [epoch for epoch, _ in recorded]
    shares = [100 * float((weights < 0.2).mean()) for _, weights in recorded]
    each = "; ".join(
        f"seed {run.seed}: epoch {epoch}, n = {len(weights):,}, {share:.1f} % below 0.2"
        for run, (epoch, weights), share in zip(runs, recorded, shares, strict=True)
    )
    late = [
        f"the reported epoch {run.epoch} of seed {run.seed} lies before the weighting acts"
        for run, epoch in zip(runs, epochs, strict=True)
        if epoch > run.epoch
    ]
    method = runs[0].numbers
    caption = sentences(
        "raw weights (Eq. 10, before normalisation) that GAIRAT gave its training images in one "
        f"epoch, lambda {method.gairat_lambda:g}, PGD of {runs[0].config.attack.steps} steps",
        "bars: mean over seeds; whiskers: least and most" if len(runs) > 1 else "",
        f"share below 0.2: {np.mean(shares):.1f} % ({each}); the paper: about four fifths",
        *late,
        _trained(runs),
    )
    return weight_histogram_figure(
        [weights for _, weights in recorded], figure.stem("a"), caption=caption
    )


def unseen_weighting(figure: FigureRequest) -> list[Drawn]:
    """Figure 6: GAIRAT's weighting when CW is the attack simulated in training."""
    runs = figure.runs("gairat-cw")
    return [
        accuracy_figure(
            accuracy_curves(runs),
            figure.stem(),
            title=f"GAIRAT with CW on {runs[0].config.data.name}",
            caption=_accuracy_caption(runs),
            marks=marks_of(runs[0], weighted=True),
        )
    ]


def _accuracy_caption(runs: Sequence[FigureRun]) -> str:
    monitor = runs[0].config.training.monitor
    images = sum(run.monitored for run in different_images(runs))
    several = f"lines: mean over {len(runs)} seeds, thin: each seed; " if len(runs) > 1 else ""
    return sentences(
        f"test accuracy under {' and '.join(monitor.attacks)} (steps of epsilon / 4, one uniform "
        "start) after each epoch; no epoch is chosen by it",
        f"{several}bands: Wilson 95 % intervals of n = {images:,} test images, which say "
        "nothing of the spread over seeds; figures in the legend: last epoch",
        _trained(runs),
    )


def _trained(runs: Sequence[FigureRun]) -> str:
    """How the runs of one row were trained."""
    config = runs[0].config
    training = config.training
    step = config.attack.step_size
    return (
        f"{config.method.name.upper()} on {runs[0].data}, {config.threat}, "
        f"{runs[0].network}, {training.epochs} epochs, batch {training.batch_size}, rate "
        f"{training.lr:g}, attack of "
        f"{config.attack.steps} steps of {'epsilon / 10' if step is None else f'{step:g}'}; "
        f"{'seeds' if len(runs) > 1 else 'seed'} {', '.join(str(run.seed) for run in runs)}"
    )
