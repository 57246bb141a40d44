"""One flipped byte in a file of a run folder changes no number without a word.

A few bytes of each kind of file in the usual tests, 200 of each in `make soak`.
"""

import json
import logging
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from itertools import cycle
from pathlib import Path

import pytest

from experiments.commands import done
from experiments.reported import report
from lrat.errors import LratError
from lrat.experiments import curves
from lrat.experiments.comparing import compare_places
from lrat.experiments.curves import CurveRequest, measure_curves
from lrat.experiments.evaluating import EvaluationRequest, evaluate_run
from lrat.experiments.folder import read_config
from lrat.experiments.run import load_weights, train_run
from lrat.experiments.weights import weights_digest
from lrat.reporting.figures import Drawn
from lrat.training.metrics import TIMES
from soaking import keep

REQUEST = EvaluationRequest(suite="quick", limit=20, acceleration="off", gallery=4, device="cpu")
CURVE = CurveRequest(
    attack="pgd-20", levels=4, limit=20, max_epsilon=0.4, acceleration="off", device="cpu"
)
TRAIN = (
    *("train", "lrat-saa+cw", "--data", "digits", "--threat", "linf:0.2", "--epochs", "2"),
    *("--set", "model.width=2", "--set", "data.train_limit=60", "--set", "attack.steps=1"),
    *("--set", "attack.saa_steps=1", "--set", "training.validation_steps=1"),
    *("--set", "training.record_weights=[1, 2]"),
)
Told = tuple[str, list[str]]
"""What a command found, and what it said beside it."""


def _evaluate(run: Path, other: Path) -> Told:
    _, result = evaluate_run(run, REQUEST)
    return str(result), []


def _compare(run: Path, other: Path) -> Told:
    return str(compare_places([run, other])), []


def _report(run: Path, other: Path) -> Told:
    record = report(run)
    if not record.runs:
        return "", record.problems
    (found,) = record.runs
    values = {**asdict(found), "problems": []}
    return json.dumps(values, default=lambda each: each.tolist()), [
        *record.problems,
        *found.problems,
    ]


def _train(run: Path, other: Path) -> Told:
    trained = train_run(read_config(other), run)
    records = [
        {key: value for key, value in asdict(each).items() if key not in TIMES}
        for each in trained.result.records
    ]
    return f"{trained}\n{records}\n{weights_digest(trained.result.weights)}", []


def _load(run: Path, other: Path) -> Told:
    names = ("selected", "last", "epoch-1")
    config = read_config(other)
    return str([weights_digest(load_weights(run, config, name)) for name in names]), []


def _curve(run: Path, other: Path) -> Told:
    return str(measure_curves([run], CURVE).measured[0].as_dict()), []


Read = Callable[[Path, Path], Told]
PANEL = "evaluations/*/masking.json"
KINDS: dict[str, tuple[Read, ...]] = {
    "config.yaml": (_evaluate, _report, _compare),
    "environment.json": (_report,),
    "contents.json": (_report, _train),
    "metrics.jsonl": (_report, _train),
    "model.json": (_report, _evaluate),
    "model.safetensors": (_load, _report, _evaluate),
    "checkpoints/epoch-*.pt": (_load, _train),
    "checkpoints/epoch-*.json": (_load, _train),
    "weights/*.parquet": (_report,),
    "evaluations/*/identity.json": (_compare, _report, _evaluate),
    "evaluations/*/summary.json": (_compare, _report, _evaluate),
    "evaluations/*/extent.json": (_report, _evaluate),
    "evaluations/*/fingerprint.json": (_evaluate,),
    PANEL: (_report,),
    "evaluations/*/outcomes/*.parquet": (_compare, _report, _evaluate),
    "evaluations/*/gallery/*.npz": (_report,),
    "evaluations/*/gallery/about.json": (_report,),
    "curves/*/fingerprint.json": (_curve,),
    "curves/*/identity.json": (_curve,),
    "curves/*/curve.json": (_curve, _report),
    "curves/*/images.parquet": (_curve,),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run with all of these files but a panel, and a copy to compare it with."""
    run, other = (tmp_path_factory.mktemp("flips") / name for name in ("run", "other"))
    done(*TRAIN, "--out", run)
    evaluate_run(run, REQUEST)
    shutil.copytree(run, other)
    return run, other


@pytest.fixture
def not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = Drawn(pdf=Path("none"), png=Path("none"), caption="")
    monkeypatch.setattr(curves, "security_curve_figure", lambda *_: nothing)


def _contents(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def _restore(run: Path, stored: dict[Path, bytes]) -> None:
    for path, content in _contents(run).items():
        if path not in stored:
            path.unlink()
        elif content != stored[path]:
            path.write_bytes(stored[path])
    for path in stored.keys() - _contents(run).keys():
        path.write_bytes(stored[path])


class Warnings(logging.Handler):
    """What was logged as a warning."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def _one_line(refusal: str) -> str:
    assert refusal, "a refusal says why"
    assert "\n" not in refusal, refusal
    return refusal


def _told(read: Read, run: Path, other: Path) -> tuple[str, list[str]]:
    """What ``read`` finds, and what it says; a refusal finds nothing."""
    handler = Warnings()
    logger = logging.getLogger("lrat")
    logger.addHandler(handler)
    try:
        found, said = read(run, other)
    except LratError as error:
        return "", [_one_line(str(error))]
    finally:
        logger.removeHandler(handler)
    return found, [*said, *handler.texts]


def _flips(
    runs: tuple[Path, Path], count: int, kinds: Iterable[str] = ()
) -> Iterator[tuple[str, dict[str, int]]]:
    """For each kind of file how often a flip was refused, said, or changed nothing."""
    run, other = runs
    measure_curves([run], CURVE)
    for each in (_evaluate, _train):  # what they write beside their result is there then
        each(run, other)
    stored, chance = _contents(run), random.Random(0)
    expected: dict[Read, tuple[str, list[str]]] = {}
    for pattern in kinds or KINDS:
        readers = KINDS[pattern]
        paths = sorted(run.glob(pattern))
        assert paths or pattern == PANEL, pattern
        if not paths:
            continue
        tally = {"refused": 0, "said": 0, "the same": 0}
        for read in readers:
            if read not in expected:
                expected[read] = _told(read, run, other)
                assert expected[read][0], expected[read]
        turn = cycle(readers)
        for _ in range(count):
            path = chance.choice(paths)
            content = bytearray(stored[path])
            place = chance.randrange(len(content))
            content[place] ^= chance.randrange(1, 256)
            read = next(turn)
            path.write_bytes(content)
            found, said = _told(read, run, other)
            _restore(run, stored)
            before, usual = expected[read]
            new = [text for text in said if text not in usual]
            where = (pattern, place, read.__name__, found, before)
            assert new or found == before, where
            tally["the same" if not new else "said" if found else "refused"] += 1
        yield pattern, tally


def test_a_flipped_byte_is_noticed(runs: tuple[Path, Path], not_drawn: None) -> None:
    for _, tally in _flips(runs, 3):
        assert sum(tally.values()) == 3


@pytest.mark.soak
@pytest.mark.parametrize("of", ["a run", "an evaluation"])
def test_200_flipped_bytes_of_each_kind_are_noticed(
    runs: tuple[Path, Path], not_drawn: None, of: str
) -> None:
    done(
        *("evaluate", runs[0], "--suite", "quick", "--limit", "20", "--acceleration", "off"),
        *("--gallery", "4", "--device", "cpu", "--masking"),
    )
    kinds = [kind for kind in KINDS if kind.startswith("evaluations/") == (of == "an evaluation")]
    rows = [
        f"| `{pattern}` | {tally['refused']} | {tally['said']} | {tally['the same']} | 0 | 0 |"
        for pattern, tally in _flips(runs, 200, kinds)
    ]
    keep(
        f"200 flipped bytes in each kind of file of {of}",
        "A random byte becomes another one; then one of the commands that read such a file reads "
        "it, in turn (train, evaluate, compare, report, curve).\n\n"
        "| file | refused in one line | said, the rest read | the same numbers | silently other "
        "numbers | tracebacks |\n|---|---|---|---|---|---|\n" + "\n".join(rows),
        page="robustness.md",
    )
