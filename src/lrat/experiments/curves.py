"""Security curves of runs: measured once, kept in the run's folder, drawn together."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from lrat import hardware
from lrat.checks import ARGUMENTS, TEXT, check_fields, optional
from lrat.config import build
from lrat.data import in_order, stratified_subset
from lrat.errors import SettingError
from lrat.evaluation.curve import CurveProgress, security_curve
from lrat.evaluation.curve_result import Brackets, Curve
from lrat.evaluation.statistics import percent
from lrat.evaluation.suites import Member
from lrat.files.names import CURVE, CURVE_IMAGES, CURVES, FIGURES, IDENTITY
from lrat.files.write import write_table
from lrat.hardware import move
from lrat.randomness import random_state_kept
from lrat.reporting.figures import Drawn, security_curve_figure
from lrat.runs import suites
from lrat.runs.folder import read_config
from lrat.runs.identity import Reading
from lrat.runs.kept import KeptResult
from lrat.runs.sources import LoadedModel, ModelSource, choices_in, evaluated_choices, own_folder
from lrat.text import aligned
from lrat.threat import as_ball
from lrat.threat.norms import Norm, threat_parts

_AGAIN = "remove it and measure again"
_LIMIT_SEED = 0
_BEYOND_TRAINED = 3
_SHOWN_ROWS = 8

ProgressCallback: TypeAlias = Callable[[str, CurveProgress], None]
"""Called with a run's name and how far its search is."""


@dataclass(frozen=True, kw_only=True)
class CurveRequest:
    """What to measure; ``max_epsilon`` None is three times what was trained for, at most all of
    [0, 1]; ``limit`` None all images."""

    attack: str = "apgd-ce"
    max_epsilon: float | None = None
    levels: int = 32
    limit: int | None = 500
    seed: int = 0
    batch_size: int = 256
    checkpoint: str = "selected"
    acceleration: Literal["auto", "off"] = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        check_fields(self, "", attack=TEXT, limit=optional(ARGUMENTS["limit"]))


@dataclass(frozen=True, kw_only=True)
class MeasuredCurve:
    """A run's curve and where it is kept."""

    name: str
    curve: Curve
    folder: Path


@dataclass(frozen=True, kw_only=True)
class CurvesReport:
    """The curves of several runs and the figure that shows them."""

    measured: tuple[MeasuredCurve, ...]
    drawn: Drawn

    def __str__(self) -> str:
        """The curve's own table, or one with a column per run; then where everything lies."""
        curves = {each.name: each.curve for each in self.measured}
        table = str(self.measured[0].curve) if len(curves) == 1 else _side_by_side(curves)
        kept = [f"evidence in {each.folder}" for each in self.measured]
        return "\n".join([table, *kept, f"figure in {self.drawn.pdf} and {self.drawn.png}"])


@random_state_kept()
def measure_curves(
    runs: Sequence[Path],
    request: CurveRequest,
    *,
    data: str | None = None,
    data_root: str | None = None,
    out: Path | None = None,
    progress: ProgressCallback | None = None,
) -> CurvesReport:
    """The security curve of each run under one attack, and all of them in one figure.

    What is finished is read back, what was broken off goes on. ``data`` and ``data_root``: where
    the runs' data lie now, if they were moved. ``out``: the figure's path without ending, by
    default in the first run's folder. Raises the errors of ``lrat.errors``.
    """
    if not runs:
        raise SettingError("no run to measure: name at least one run folder")
    norm, highest = _common_scale(runs, request)
    suites.attack(request.attack, as_ball(f"{norm.text}:{highest!r}"))  # refused before any work
    hardware.device(request.device)
    names = _names(runs)
    measured = []
    for run, name in zip(runs, names, strict=True):
        source = ModelSource(run=run, checkpoint=request.checkpoint, data=data, data_root=data_root)
        measured.append(_measure(source.load(), run, name, request, highest, progress))
    stem = out or runs[0] / FIGURES / ("security-curve" if len(runs) == 1 else "security-curves")
    drawn = security_curve_figure({each.name: each.curve.as_dict() for each in measured}, stem)
    return CurvesReport(measured=tuple(measured), drawn=drawn)


def _common_scale(runs: Sequence[Path], request: CurveRequest) -> tuple[Norm, float]:
    """The norm of all runs, and how far epsilon goes."""
    trained = [threat_parts(read_config(run).threat) for run in runs]
    norms = sorted({norm.text for norm, _ in trained})
    if len(norms) > 1:
        raise SettingError(
            f"the runs were trained in {' and '.join(norms)}, which have no common axis: draw "
            "them apart"
        )
    highest = request.max_epsilon
    if highest is None:
        highest = _BEYOND_TRAINED * max(epsilon for _, epsilon in trained)
        highest = float(f"{min(highest, trained[0][0].largest):.6g}")
    return trained[0][0], highest


def _names(runs: Sequence[Path]) -> list[str]:
    """The folders' own names, or their paths where two are called the same."""
    short = [run.resolve().name for run in runs]
    twice = {name for name, times in Counter(short).items() if times > 1}
    names = [str(run) if name in twice else name for run, name in zip(runs, short, strict=True)]
    again = [name for name, times in Counter(names).items() if times > 1]
    if again:
        raise SettingError(f"{again[0]} is named twice: name each run once")
    return names


def _measure(
    subject: LoadedModel,
    run: Path,
    name: str,
    request: CurveRequest,
    highest: float,
    progress: ProgressCallback | None,
) -> MeasuredCurve:
    device = hardware.device(request.device)
    images = stratified_subset(subject.images, request.limit, seed=_LIMIT_SEED)
    ball = subject.threat
    name_of_folder = _folder_name(request, ball.norm.text, highest, len(images))
    folder = own_folder(run / CURVES / name_of_folder, subject.identity, subject.program)
    network = move(subject.network, device)
    with subject.threads():
        view = build.view(request.acceleration, network, images, evaluated_choices(folder))
        largest = suites.attack(request.attack, as_ball(f"{ball.norm.text}:{highest!r}"))
        identity = {
            **subject.identity,
            "data": subject.images.digest(),
            "acceleration": choices_in(view),
            "attack": request.attack,
            "settings": Member(name=request.attack, attack=largest).description,
            "norm": ball.norm.name,
            "max_epsilon": highest,
            "levels": request.levels,
            "images": len(images),
            "seed": request.seed,
        }
        kept = KeptResult(folder=folder, identity=identity, what="curve", again=_AGAIN)
        reading = Reading(network, subject.images, device)
        is_new = not (folder / IDENTITY).exists()
        kept.begin()
        (reading.begin if is_new else reading.check)(folder)
        known = kept.table(CURVE_IMAGES, Brackets.from_columns)
        if known is not None:
            columns = known.columns()
            finished = kept.json(CURVE, lambda stored: Curve.from_dict(stored, columns))
            if finished is not None:
                return MeasuredCurve(name=name, curve=finished, folder=folder)

        def note(step: CurveProgress) -> None:
            write_table(folder / CURVE_IMAGES, step.brackets.columns())
            if progress is not None:
                progress(name, step)

        curve = security_curve(
            network,
            in_order(images, batch_size=request.batch_size, device=device),
            lambda smaller: suites.attack(request.attack, smaller),
            ball,
            max_epsilon=highest,
            levels=request.levels,
            name=request.attack,
            view=view,
            seed=request.seed,
            known=known,
            on_progress=note,
            device=device,
        )
    curve = replace(curve, trained_epsilon=ball.epsilon)
    write_table(folder / CURVE_IMAGES, curve.columns())
    kept.finish(CURVE, curve.as_dict())
    return MeasuredCurve(name=name, curve=curve, folder=folder)


def _folder_name(request: CurveRequest, norm: str, highest: float, images: int) -> str:
    """``selected-apgd-ce-linf-0.6-32-500``; the seed follows where it is not 0."""
    parts = (request.checkpoint, request.attack, norm, f"{highest:g}", request.levels, images)
    name = "-".join(map(str, parts))
    return name if request.seed == 0 else f"{name}-seed-{request.seed}"


def _side_by_side(curves: Mapping[str, Curve]) -> str:
    """Accuracy with its interval at some epsilons, a column per run, and what sums them up."""
    first = next(iter(curves.values()))
    stride = max(1, first.levels // _SHOWN_ROWS)
    rows = [("epsilon", *curves)]
    for at in sorted({*range(0, first.levels + 1, stride), first.levels}):
        cells = [" [".join(percent(curve.accuracy[at])) + "]" for curve in curves.values()]
        rows.append((f"{first.epsilons[at]:.4f}", *cells))
    rows.append(("area", *(f"{curve.area:.4f}" for curve in curves.values())))
    rows.append(("mean smallest", *(_mean(curve) for curve in curves.values())))
    rows.append(("median smallest", *(_median(curve) for curve in curves.values())))
    withstand = [f"{100 * curve.censored.value:.1f} %" for curve in curves.values()]
    rows.append((f"withstand {first.max_epsilon:g}", *withstand))
    sizes = sorted({curve.n for curve in curves.values()})
    about = (
        f"accuracy in %, Wilson 95 % intervals; {first.attack}, {first.norm}, "
        f"n {' and '.join(map(str, sizes))}, seed {first.seed}, "
        f"{first.levels} steps of {first.max_epsilon / first.levels:.4g}"
    )
    notes = [f"note: {name}: {note}" for name, curve in curves.items() for note in curve.notes]
    return "\n".join([aligned(rows), about, *notes])


def _mean(curve: Curve) -> str:
    return f"{'>= ' if curve.censored.value else ''}{curve.mean_epsilon:.4f}"


def _median(curve: Curve) -> str:
    median = curve.median_epsilon
    return f"> {curve.max_epsilon:g}" if median is None else f"{median:.4f}"
