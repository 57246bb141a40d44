"""A run folder with every kind of file, and the commands that read each of them."""

import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any
from unittest import mock

from experiments.commands import done
from lrat.config.settings import RunConfig
from lrat.errors import LratError
from lrat.evaluation.merge import merge
from lrat.evaluation.storage.gallery import read_gallery
from lrat.experiments import curves, why
from lrat.experiments.analyse import analyse
from lrat.experiments.analyse.analyse import analyse_run
from lrat.experiments.analyse.result import AnalysisRequest
from lrat.experiments.compare import compare_places
from lrat.experiments.curves import CurveRequest, measure_curves
from lrat.experiments.evaluate import evaluate_run
from lrat.experiments.evaluation_request import EvaluationRequest
from lrat.experiments.train import train_run
from lrat.files.names import CONFIG, MODEL
from lrat.files.read import read_whole
from lrat.files.write import read_table, write_text
from lrat.reporting.figures import Drawn
from lrat.runs.folder import read_config
from lrat.runs.weights import load_weights, weights_digest
from lrat.training.metrics import TIMES
from reporting.report.reported import report

REQUEST = EvaluationRequest(
    suite="quick",
    limit=20,
    acceleration="off",
    gallery=4,
    keep_images=True,
    device="cpu",
    typed="lrat evaluate run --limit 20",
)
CURVE = CurveRequest(
    attack="pgd-20", levels=4, limit=20, max_epsilon=0.4, acceleration="off", device="cpu"
)
ANALYSIS = AnalysisRequest(limit=20, points=0, acceleration="off", device="cpu")
TRAIN = (
    *("train", "lrat-saa+cw", "--data", "digits", "--threat", "linf:0.2", "--epochs", "2"),
    *("--set", "model.width=2", "--set", "data.train_limit=60", "--set", "attack.steps=1"),
    *("--set", "attack.saa_steps=1", "--set", "training.validation_steps=1"),
    *("--set", "training.record_weights=[1, 2]"),
)
IMAGE = 157
"""A test image of the run that is among the 20."""
PANEL = "evaluations/*/masking.json"


@dataclass(frozen=True)
class Runs:
    """``run``: what is damaged, trained by ``config``; ``others``: copies under other seeds."""

    run: Path
    config: RunConfig
    others: tuple[Path, Path]
    stored: dict[Path, bytes] = field(default_factory=dict)

    @staticmethod
    def begin(folder: Path, *, masking: bool) -> "Runs":
        """A run with all of these files; the panel, which takes long, only if ``masking``."""
        run, *others = (folder / name for name in ("run", "other", "third"))
        done(*TRAIN, "--out", run)
        evaluate_run(run, REQUEST)
        if masking:
            done(
                *("evaluate", run, "--suite", "quick", "--limit", "20", "--acceleration", "off"),
                *("--gallery", "4", "--images", "--device", "cpu", "--masking"),
            )
        config = read_config(run)
        for seed, other in enumerate(others, start=1):
            shutil.copytree(run, other)
            (other / MODEL).unlink()  # it knows the configuration by a digest
            write_text(other / CONFIG, config.model_copy(update={"seed": seed}).to_yaml())
        runs = Runs(run=run, config=config, others=(others[0], others[1]))
        with not_drawn():
            measure_curves([run], CURVE)
            analyse_run(run, ANALYSIS)
            for each in (evaluates, trains):  # what they write beside their result is there then
                each(runs)
        runs.stored.update(contents(run))
        return runs

    def restore(self) -> None:
        """Make the run's folder what it was."""
        now = contents(self.run)
        for path in now.keys() - self.stored.keys():
            path.unlink()
        for path, content in self.stored.items():
            if path.is_symlink() or now.get(path) != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                put(path, content)

    def files(self, pattern: str) -> list[Path]:
        return sorted(self.run.glob(pattern))


Found = tuple[str, list[str]]
"""What a command found, and what it said beside it."""
Read = Callable[[Runs], Found]
Content = bytes | Callable[[Path], object]
"""Of a file, or what puts something else in its place."""
Damage = tuple[str, Mapping[Path, Content]]


def evaluates(runs: Runs) -> Found:
    _, result = evaluate_run(runs.run, REQUEST)
    return str(result), []


def compares(runs: Runs) -> Found:
    return str(compare_places([runs.run, runs.others[0]])), []


def compares_groups(runs: Runs) -> Found:
    return str(compare_places([runs.run, *runs.others])), []


def reports(runs: Runs) -> Found:
    record = report(runs.run)
    if not record.runs:
        return "", record.problems
    (found,) = record.runs
    values = {**asdict(found), "problems": []}
    return json.dumps(values, default=lambda each: each.tolist()), [
        *record.problems,
        *found.problems,
    ]


def trains(runs: Runs) -> Found:
    trained = train_run(runs.config, runs.run)
    records = [
        {key: value for key, value in asdict(each).items() if key not in TIMES}
        for each in trained.result.records
    ]
    return f"{trained}\n{records}\n{weights_digest(trained.result.weights)}", []


def loads(runs: Runs) -> Found:
    names = ("selected", "last", "epoch-1")
    return str([weights_digest(load_weights(runs.run, runs.config, name)) for name in names]), []


def curve(runs: Runs) -> Found:
    return str(measure_curves([runs.run], CURVE).measured[0].curve.as_dict()), []


def explains(runs: Runs) -> Found:
    found = why.explain(runs.run, IMAGE, acceleration="off", device="cpu")
    return str(found.parts), []


def analyses(runs: Runs) -> Found:
    found = analyse_run(runs.run, ANALYSIS)
    notes = [str(note) for note in found.summary["notes"]]
    summary = dict(found.summary)
    for name in ("seconds", "notes", "environment"):
        del summary[name]
    views = {name: column.tolist() for name, column in found.views.items()}
    weights = {name: column.tolist() for name, column in (found.weights or {}).items()}
    return json.dumps([summary, found.overlap, views, weights], default=str), notes


def tabulates(runs: Runs) -> Found:
    """What ``docs/analysis.md`` tells a reader of the tables to do."""
    path = next(path for path in runs.stored if path.match("analysis/*/weights.*"))
    table = read_whole(path, read_table, "analyse again")
    return str({name: column.tolist() for name, column in table.items()}), []


def merges(runs: Runs) -> Found:
    evaluation = next(path for path in runs.stored if path.name == "extent.json").parent
    out = runs.run.parent / "merged"
    try:
        joined = str(merge([evaluation], out))
        kept = sorted(contents(out / "images").values()) if (out / "images").is_dir() else []
        pictures, damaged = read_gallery(out)
        seen = [] if pictures is None else [pictures.image.tolist(), pictures.logits.tolist()]
        return f"{joined}{kept}{seen}", [f"{path} is damaged" for path in damaged]
    finally:
        shutil.rmtree(out, ignore_errors=True)


KINDS: dict[str, tuple[Read, ...]] = {
    "config.yaml": (evaluates, reports, compares_groups, analyses),
    "command.txt": (reports,),
    "environment.json": (reports,),
    "contents.json": (reports, trains, compares_groups, analyses),
    "metrics.jsonl": (reports, trains),
    "model.json": (reports, evaluates, explains),
    "model.safetensors": (loads, reports, evaluates, explains, analyses),
    "checkpoints/epoch-*.pt": (loads, trains),
    "checkpoints/epoch-*.json": (loads, trains, reports),
    "weights/*.parquet": (reports, analyses),
    "evaluations/*/command.txt": (reports,),
    "evaluations/*/identity.json": (compares, reports, evaluates, explains, merges, analyses),
    "evaluations/*/summary.json": (compares, reports, evaluates, explains, merges),
    "evaluations/*/extent.json": (reports, evaluates, merges),
    "evaluations/*/fingerprint.json": (evaluates, explains, merges),
    PANEL: (reports,),
    "evaluations/*/outcomes/*.parquet": (compares, reports, evaluates, explains, merges),
    "evaluations/*/images/*.safetensors": (merges,),
    "evaluations/*/gallery/*.npz": (reports, merges),
    "evaluations/*/gallery/about.json": (reports,),
    "curves/*/fingerprint.json": (curve,),
    "curves/*/identity.json": (curve,),
    "curves/*/curve.json": (curve, reports),
    "curves/*/images.parquet": (curve, reports),
    "analysis/*/identity.json": (analyses,),
    "analysis/*/summary.json": (analyses, reports),
    "analysis/*/overlap.json": (analyses, reports),
    "analysis/*/vulnerability.parquet": (analyses,),
    "analysis/*/weights.parquet": (analyses, tabulates),
}
"""By the files' pattern."""


@contextmanager
def not_drawn() -> Iterator[None]:
    """Inside, figures are not drawn: they take longer than all that is read for them."""
    nothing = Drawn(pdf=Path("none"), png=Path("none"), caption="")
    with (
        mock.patch.object(curves, "security_curve_figure", return_value=nothing),
        mock.patch.object(why, "why_figure", return_value=nothing),
        mock.patch.object(analyse, "draw", return_value=[]),
    ):
        yield


def put(path: Path, content: Content) -> None:
    """Let ``path`` hold this, whatever it was."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    path.unlink(missing_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class _Warnings(logging.Handler):
    """What was logged as a warning."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def asked(read: Read, runs: Runs) -> Found:
    """What ``read`` finds, and what it says; a refusal, one line, finds nothing. Every other error
    gets out, as it would be a traceback."""
    handler = _Warnings()
    logger = logging.getLogger("lrat")
    logger.addHandler(handler)
    try:
        found, said = read(runs)
    except LratError as error:
        line = str(error)
        if not line or "\n" in line:
            raise AssertionError(f"no single line: {line!r}") from error
        return "", [line]
    finally:
        logger.removeHandler(handler)
    return found, [*said, *handler.texts]


class Tally:
    """How often damage was refused, said, or changed nothing; and what must not be."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(
            ("refused", "said", "the same", "other numbers", "tracebacks"), 0
        )
        self.wrong: list[str] = []

    def row(self, name: str) -> str:
        return f"| `{name}` | {' | '.join(map(str, self.counts.values()))} |"


HEAD = (
    "| file | refused in one line | said, the rest read | the same numbers | silently other "
    "numbers | tracebacks |\n|---|---|---|---|---|---|\n"
)


class Trial:
    """Reads damaged files of ``runs`` and compares with what is read of whole ones."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._whole: dict[Read, Found] = {}

    def tallied(
        self,
        pattern: str,
        damages: Iterable[Damage],
        *,
        same_numbers: bool = True,
    ) -> Tally:
        """``damages``: what was done, and what files then hold.

        ``same_numbers``: what is found in silence must be what was found before.
        """
        tally, turn = Tally(), cycle(KINDS[pattern])
        for read in KINDS[pattern]:
            if read not in self._whole:
                self._whole[read] = asked(read, self._runs)
                self._runs.restore()
                assert self._whole[read][0], self._whole[read]
        for what, files in damages:
            read = next(turn)
            for path, content in files.items():
                put(path, content)
            kind = self._read(read, f"{pattern}, {what}, {read.__name__}", tally, same_numbers)
            tally.counts[kind] += 1
            self._runs.restore()
        return tally

    def _read(self, read: Read, where: str, tally: Tally, same_numbers: bool) -> str:
        try:
            found, said = asked(read, self._runs)
        except Exception as error:
            tally.wrong.append(f"{where}: {type(error).__name__}: {error}")
            return "tracebacks"
        before, usual = self._whole[read]
        if [text for text in said if text not in usual]:
            return "said" if found else "refused"
        if found == before or not same_numbers:
            return "the same"
        tally.wrong.append(f"{where}: silently {_difference(found, before)}")
        return "other numbers"


def _difference(found: Any, before: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(found, before, strict=False)) if a != b), 0)
    return f"{found[max(0, at - 60) : at + 60]!r} instead of {before[max(0, at - 60) : at + 60]!r}"
