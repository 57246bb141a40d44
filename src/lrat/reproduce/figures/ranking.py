"""Figure 2: which attack is strongest, over data sets and methods."""

from collections.abc import Sequence

from lrat.evaluation import EvaluationResult, Outcomes
from lrat.experiments.analyse.ranking import rank
from lrat.reporting.figures import Drawn, RankedModel, ranking_figure
from lrat.reproduce.figures.captions import sentences
from lrat.reproduce.figures.request import FigureRequest, rows_needed
from lrat.reproduce.figures.runs import FigureRun, different_images
from lrat.reproduce.folder import read_preset

_LABELS = {"sat": "AT", "trades": "TRADES"}


def attack_rankings(figure: FigureRequest) -> list[Drawn]:
    """The attacks of ``ranking.yaml`` on each data set's models."""
    models, words = [], []
    for folder in (figure.folder, *figure.also):
        for row in rows_needed(figure.whole):
            runs = different_images(figure.runs(row, folder))
            for checkpoint, label in (("last", _LABELS[row]), (None, f"{_LABELS[row]}-60")):
                pooled = _pooled(figure, runs, checkpoint)
                models.append(
                    RankedModel(
                        data=str(read_preset(folder)["preset"]),
                        method=label,
                        accuracy={name: pooled.accuracy[name].value for name in pooled.names[1:]},
                        tied=frozenset(map(frozenset, rank(pooled, name=label).ties)),
                    )
                )
                words.append(_about(len(pooled.index), label, runs, checkpoint or runs[0].drop))
    caption = sentences(
        "attacks from the strongest (1) to the weakest on each model; in the boxes the accuracy "
        "(%) that each leaves; lines that cross are rankings that change, but where a grey bar "
        "joins them",
        "grey bars: neighbours that the images do not tell apart (exact McNemar tests, Holm "
        "over all pairs of a model, 5 % level)",
        "AT is sat; -60: the weights of the first epoch at the lower learning rate",
        *words,
    )
    return [ranking_figure(models, figure.stem(), caption=caption)]


def _pooled(
    figure: FigureRequest, runs: Sequence[FigureRun], epoch: str | None
) -> EvaluationResult:
    """Over all test images of several folds, each by the model that did not train on it."""
    results = [figure.evaluation(run, epoch or run.drop) for run in runs]
    return EvaluationResult(
        outcomes=Outcomes.concatenate(result.outcomes for result in results),
        identity=results[0].identity,
    )


def _about(images: int, label: str, runs: Sequence[FigureRun], checkpoint: str) -> str:
    seeds = ", ".join(str(run.seed) for run in runs)
    config = runs[0].config
    return (
        f"{label} on {config.data.name}: {config.threat}, {runs[0].network}, "
        f"{checkpoint} of {config.training.epochs} epochs, n = {images:,} test images, seed {seeds}"
    )
