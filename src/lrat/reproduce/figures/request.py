"""A figure of the paper to draw: the runs that it shows, their evaluations and their analyses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lrat.errors import RunFolderError
from lrat.evaluation import EvaluationResult
from lrat.experiments.analyse.analyse import analyse_run
from lrat.experiments.analyse.result import Analysis, AnalysisRequest
from lrat.experiments.evaluate import evaluate_run
from lrat.experiments.evaluation_request import EvaluationRequest
from lrat.reproduce.figures.runs import FigureRun, runs_of
from lrat.reproduce.folder import read_preset
from lrat.reproduce.paper import PARTS, whole_and_part
from lrat.text import as_command

SUITE = Path(__file__).with_name("ranking.yaml")
"""The attacks that Figure 2 ranks."""
_ROWS: Mapping[str, tuple[str, ...]] = {
    "figure1": ("sat", "gairat"),
    "figure1a": ("gairat",),
    "figure1b": ("sat",),
    "figure1c": ("gairat",),
    "figure2": ("sat", "trades"),
    "figure3": ("sat",),
    "figure4": ("sat",),
    "figure5": ("gairat",),
    "figure6": ("gairat-cw",),
}
_POINTS = 5000
_IDEA_IMAGES = 512


def rows_needed(name: str) -> tuple[str, ...]:
    """The rows (methods) whose runs the figure reads: ``figure1`` or one of its parts."""
    whole, _ = whole_and_part(name)
    return _ROWS.get(name, _ROWS[whole])


@dataclass(frozen=True, kw_only=True)
class FigureRequest:
    """The figure called ``name``, of a reproduction's ``folder``, to draw into ``out``.

    ``also``: reproductions of other presets whose models stand beside in Figure 2. ``seeds``: only
    runs of these are shown, None: of all. ``data_root``: where the data lie now, if they were
    moved. ``say`` is called with the command of each evaluation and analysis that the figure shows.
    ``UnknownNameError`` for a figure that the paper has not.
    """

    name: str
    folder: Path
    out: Path
    also: tuple[Path, ...] = ()
    seeds: tuple[int, ...] | None = None
    data_root: str | None = None
    say: Callable[[str], None] = lambda line: None

    def __post_init__(self) -> None:
        whole_and_part(self.name)

    @property
    def whole(self) -> str:
        return whole_and_part(self.name)[0]

    @property
    def part(self) -> str:
        """Empty for all of them."""
        return whole_and_part(self.name)[1]

    @property
    def parts(self) -> str:
        return self.part or PARTS[self.whole]

    def stem(self, part: str = "") -> Path:
        return self.out / f"{self.whole}{part}"

    def runs(self, row: str, folder: Path | None = None) -> list[FigureRun]:
        """The finished runs of a row, at least one; ``RunFolderError`` names the command that
        trains it."""
        folder = folder or self.folder
        runs = runs_of(folder, row, self.data_root, self.seeds)
        if not runs:
            preset = read_preset(folder)
            command = as_command(
                *("lrat", "reproduce", self.name),
                preset=preset["preset"],
                set=preset["set"],
                seeds=None if self.seeds is None else f"{','.join(map(str, self.seeds))},",
                out=folder,
            )
            raise RunFolderError(
                f"{self.name} needs a finished run of {row}, {folder} has none: `{command}` "
                "trains it"
            )
        return runs

    def evaluation(self, run: FigureRun, checkpoint: str) -> EvaluationResult:
        """Figure 2's attacks on as many test images as the run monitored, new or read back."""
        request = EvaluationRequest(suite=str(SUITE), limit=run.config.training.monitor.limit)
        self.say(f"{self.name}: {request.command(run.folder, checkpoint)}")
        root = self.data_root
        return evaluate_run(run.folder, request, checkpoint=checkpoint, data_root=root)[1]

    def analysis(self, row: str) -> Analysis:
        """The analysis of the row's first run, new or read back: all training images with the
        views of Figures 3 and 5, a sample with SAA for Figure 4."""
        run = self.runs(row)[0]
        request = AnalysisRequest(checkpoint=run.weighted_checkpoint, points=_POINTS)
        if self.whole == "figure4":
            request = AnalysisRequest(
                checkpoint=run.checkpoint, limit=_IDEA_IMAGES, points=0, saa=True
            )
        self.say(f"{self.name}: {request.command(run.folder)}")
        return analyse_run(run.folder, request, data_root=self.data_root)
