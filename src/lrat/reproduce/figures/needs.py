"""What each figure of the paper needs: rows to train, evaluations and analyses of them."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lrat.errors import RunFolderError
from lrat.experiments.analyse.analyse import AnalysisRequest, analyse_run
from lrat.experiments.evaluate import evaluate_run
from lrat.experiments.evaluation_request import EvaluationRequest
from lrat.reproduce.figures.runs import FigureRun, different_images, runs_of
from lrat.reproduce.figures.stored_analysis import StoredAnalysis
from lrat.reproduce.folder import read_preset
from lrat.reproduce.paper import PARTS, whole_and_part

SUITE = Path(__file__).with_name("ranking.yaml")
"""The attacks that Figure 2 ranks."""
RANKING = "ranking"
OUT = "figures"
_ROWS: Mapping[str, tuple[str, ...]] = {
    "figure1": ("sat", "gairat"),
    "figure2": ("sat", "trades"),
    "figure3": ("sat",),
    "figure4": ("sat",),
    "figure5": ("gairat",),
    "figure6": ("gairat-cw",),
}
_ROW_OF_PART = {"figure1a": ("gairat",), "figure1b": ("sat",), "figure1c": ("gairat",)}
_SHOWN_POINTS = 5000
_IDEA_IMAGES = 512


@dataclass(frozen=True, kw_only=True)
class EvaluationNeed:
    """An evaluation of a finished run, as ``evaluate_run(run, request, checkpoint=)`` makes it."""

    run: Path
    checkpoint: str
    request: EvaluationRequest

    @property
    def command(self) -> str:
        limit = f" --limit {self.request.limit}" if self.request.limit else ""
        return (
            f"lrat evaluate {self.run} --checkpoint {self.checkpoint} --suite "
            f"{self.request.suite}{limit}"
        )


@dataclass(frozen=True, kw_only=True)
class AnalysisNeed:
    """An analysis of a finished run, as ``analyse_run(run, request)`` makes it."""

    run: Path
    request: AnalysisRequest

    @property
    def command(self) -> str:
        wanted = self.request
        limit = f" --limit {wanted.limit}" if wanted.limit else ""
        saa = " --saa" if wanted.saa else ""
        return (
            f"lrat analyse {self.run} --checkpoint {wanted.checkpoint} --points "
            f"{wanted.points}{limit}{saa}"
        )


def rows_needed(name: str) -> tuple[str, ...]:
    """The rows (methods) whose runs the figure reads: ``figure1`` or one of its parts."""
    whole, _ = whole_and_part(name)
    return _ROW_OF_PART.get(name, _ROWS[whole])


def analyses_needed(
    name: str, folder: Path, data_root: str | None = None, seeds: Sequence[int] | None = None
) -> tuple[AnalysisNeed, ...]:
    """The analyses that the figure reads of the finished runs in a reproduction's ``folder``.

    Those of the lowest seed (of ``seeds``) alone: t-SNE and histograms are of one model. A row
    without a finished run needs none yet.
    """
    whole, _ = whole_and_part(name)
    if whole not in {"figure3", "figure4", "figure5"}:
        return ()
    return tuple(
        AnalysisNeed(run=run.folder, request=analysis_request(whole, run))
        for row in rows_needed(name)
        for run in runs_of(folder, row, data_root, seeds)[:1]
    )


def analysis_request(whole: str, run: FigureRun) -> AnalysisRequest:
    """All training images with the views of Figures 3 and 5; a sample with SAA for Figure 4."""
    if whole == "figure4":
        return AnalysisRequest(checkpoint=run.checkpoint, limit=_IDEA_IMAGES, points=0, saa=True)
    return AnalysisRequest(checkpoint=run.weighted_checkpoint, points=_SHOWN_POINTS)


def evaluations_needed(
    name: str, folder: Path, data_root: str | None = None
) -> tuple[EvaluationNeed, ...]:
    """The evaluations that the figure reads: of Figure 2's models, final and early-stopped, on as
    many test images as the run monitored."""
    whole, _ = whole_and_part(name)
    if whole != "figure2":
        return ()
    return tuple(
        EvaluationNeed(
            run=run.folder,
            checkpoint=checkpoint,
            request=ranking_request(run),
        )
        for row in rows_needed(name)
        for run in different_images(runs_of(folder, row, data_root))
        for checkpoint in ("last", run.drop)
    )


def ranking_request(run: FigureRun) -> EvaluationRequest:
    """Figure 2's attacks on as many test images as the run monitored."""
    return EvaluationRequest(suite=str(SUITE), limit=run.config.training.monitor.limit)


def prepare_figure(
    name: str,
    folder: Path,
    *,
    seeds: Sequence[int] | None = None,
    data_root: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Make the evaluations and analyses that the figure lacks, of the runs that are finished.

    What is there already is read back; an interrupted call is continued by the next. Raises
    ``RunFolderError`` before anything is made where a row has no finished run.
    """
    for row in rows_needed(name):
        check_row(name, folder, row, seeds)
    for needed in evaluations_needed(name, folder, data_root):
        say(f"{name}: {needed.command}")
        evaluate_run(needed.run, needed.request, checkpoint=needed.checkpoint, data_root=data_root)
    for wanted in analyses_needed(name, folder, data_root, seeds):
        say(f"{name}: {wanted.command}")
        analyse_run(wanted.run, wanted.request, data_root=data_root)


def check_row(name: str, folder: Path, row: str, seeds: Sequence[int] | None = None) -> None:
    """``RunFolderError`` with the command that trains the row where no run of it is finished."""
    if not runs_of(folder, row, seeds=seeds):
        preset = read_preset(folder)
        changed = [f"--set {shlex.quote(str(each))}" for each in preset.get("set", ())]
        chosen = [] if seeds is None else [f"--seeds {','.join(map(str, seeds))},"]
        options = [f"--preset {preset['preset']}", *changed, *chosen, f"--out {folder}"]
        raise RunFolderError(
            f"{name} needs a finished run of {row}, {folder} has none: `lrat reproduce {name} "
            f"{' '.join(options)}` trains it"
        )


@dataclass(frozen=True, kw_only=True)
class FigureRequest:
    """A figure to draw: ``part`` is empty for all of them; ``seeds`` None: of all runs."""

    whole: str
    part: str
    folder: Path
    also: tuple[Path, ...]
    seeds: tuple[int, ...] | None
    root: str | None
    out: Path

    @property
    def name(self) -> str:
        return self.whole + self.part

    @property
    def parts(self) -> str:
        return self.part or PARTS[self.whole]

    def stem(self, part: str = "") -> Path:
        return self.out / f"{self.whole}{part}"

    def runs(self, row: str, folder: Path | None = None) -> list[FigureRun]:
        """The finished runs of a row, at least one; ``RunFolderError`` names the command."""
        place = folder or self.folder
        runs = runs_of(place, row, self.root, self.seeds)
        if not runs:
            check_row(self.name, place, row, self.seeds)
        return runs

    def stored(self, row: str) -> StoredAnalysis:
        """The analysis of a row's first run; ``RunFolderError`` names the command without it."""
        run = self.runs(row)[0]
        request = analysis_request(self.whole, run)
        stored = run.analysis(request)
        if stored is None:
            command = AnalysisNeed(run=run.folder, request=request).command
            raise RunFolderError(
                f"{self.name} needs an analysis of {run.folder}: `{command}` makes it"
            )
        return stored
