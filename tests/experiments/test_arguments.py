"""What the functions of ``lrat`` take as arguments, and what they refuse in one line."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lrat
from builders import seeded
from lrat import methods
from lrat.data import CropAndFlip, InMemory, image_data
from lrat.errors import LratError
from lrat.evaluation import evaluate_suite, masking_panel, quick
from lrat.evaluation.curve import security_curve
from lrat.experiments.analyse.result import AnalysisRequest
from lrat.experiments.curves import CurveRequest
from lrat.experiments.evaluation_request import EvaluationRequest
from lrat.reproduce.presets import Choice
from lrat.reproduce.request import Request
from lrat.threat import Linf
from lrat.training import Optimisation, train
from lrat.types import Batch

IMAGES = torch.linspace(0, 1, 24 * 12).view(24, 3, 2, 2)
LABELS = torch.arange(24) % 3
DATA = (IMAGES, LABELS)
NETWORK = seeded(0, lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 3)))


def copied() -> nn.Module:
    return seeded(0, lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 3)))


COMMON: list[tuple[str, Any]] = [
    ("model", NETWORK.state_dict()),
    ("model", OrderedDict(NETWORK.state_dict())),
    ("model", nn.Flatten),
    ("model", "resnet-18"),
    ("model", None),
    ("model", nn.Linear(12, 3, device="meta")),
    ("data", None),
    ("data", [IMAGES, LABELS]),
    ("data", (IMAGES,)),
    ("data", (IMAGES, None)),
    ("data", ([[0.5, 0.5], [0.5]], [0, 1])),
    ("data", (IMAGES.to_sparse(), LABELS)),
    ("data", (IMAGES.to(torch.complex64), LABELS)),
    ("data", (IMAGES.to("meta"), LABELS)),
    ("data", (IMAGES, [[0, 1], [2]])),
    ("threat", 0.1),
    ("threat", None),
    ("threat", "linf:eight"),
    ("threat", Linf),
    ("seed", "0"),
    ("seed", 1.0),
    ("seed", True),
    ("seed", None),
    ("acceleration", "fast"),
    ("acceleration", True),
    ("device", 3),
    ("device", "gpu"),
    ("device", ""),
    ("device", "meta"),
]
FIT: list[tuple[str, Any]] = [
    *((name, value) for name in ("epochs", "batch_size", "accumulate") for value in ("3", 1.5, 0)),
    ("epochs", True),
    ("batch_size", -1),
    ("lr", None),
    ("lr", "0.1"),
    ("lr", float("nan")),
    ("lr", float("inf")),
    ("weight_decay", -1e-4),
    ("label_smoothing", 1),
    ("ema", "0.999"),
    ("ema", 1.5),
    ("precision", "float16"),
    ("precision", torch.bfloat16),
    ("validation", "x"),
    ("validation", 1.0),
    ("validation", True),
    ("drops", [0.5]),
    ("drops", {"0.5": 0.1}),
    ("schedule", 3),
    ("schedule", "slow"),
    ("schedule", {"final": 0.1}),
    ("augmentation", "flip"),
    ("augmentation", CropAndFlip),
    ("progress", 3),
    ("progress", True),
    ("method", 3),
    ("method", ""),
    ("method", nn.Linear),
    ("out", ""),
    ("out", 3),
]
EVALUATE: list[tuple[str, Any]] = [
    ("limit", "5"),
    ("limit", 0),
    ("limit", 2.5),
    ("batch_size", "8"),
    ("batch_size", -1),
    ("folder", ""),
    ("folder", b"runs"),
    ("suite", ""),
    ("suite", 3),
    ("suite", ["quick"]),
    ("loss", "cross_entropy"),
    ("loss", 3),
    ("seconds", "10"),
    ("seconds", 0),
    ("seconds", float("nan")),
    ("keep_images", "no"),
    ("noise", "none"),
    ("noise", 3),
]
REPRODUCED: dict[str, Any] = {
    "target": "figure2",
    "choice": Choice.of("digits"),
    "out": Path("results/digits"),
}
SUITED: dict[str, Any] = {"model": NETWORK, "batches": [], "suite": quick("linf:0.1")}
CURVED: dict[str, Any] = {
    "model": NETWORK,
    "batches": [],
    "attack": lambda ball: ball,
    "threat": "linf:0.1",
}
CASES = [
    *((lrat.fit, *case) for case in (*COMMON, *FIT)),
    *((lrat.evaluate, *case) for case in (*COMMON, *EVALUATE)),
    *((lrat.check_masking, *case) for case in COMMON),
]


@pytest.mark.parametrize(
    ("function", "name", "value"),
    CASES,
    ids=[
        f"{function.__name__}-{name}-{number}" for number, (function, name, _) in enumerate(CASES)
    ],
)
def test_an_argument_that_is_not_right_is_refused_in_a_line(
    function: Any, name: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    right: dict[str, Any] = {"model": copied(), "data": DATA, "threat": Linf(epsilon=0.1)}
    right |= {"method": "natural", "epochs": 1} if function is lrat.fit else {}
    with pytest.raises(LratError) as caught:
        function(**{**right, name: value})
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    assert not list(tmp_path.iterdir())


BATCHES = InMemory(image_data(IMAGES, LABELS), batch_size=8)
TRAIN: dict[str, Any] = {
    "model": NETWORK,
    "source": BATCHES,
    "objective": methods.natural(),
    "optimisation": Optimisation(epochs=1),
}
PANEL: dict[str, Any] = {
    "model": NETWORK,
    "batch": Batch(images=IMAGES, labels=LABELS, index=LABELS),
    "threat": "linf:0.1",
}
OTHERS: list[tuple[Any, dict[str, Any], str, Any]] = [
    *((train, TRAIN, "model", value) for value in (NETWORK.state_dict(), nn.Flatten, None)),
    *((train, TRAIN, "source", value) for value in (DATA, [IMAGES], None)),
    *((train, TRAIN, "objective", value) for value in ("sat", None, methods.natural)),
    *((train, TRAIN, "optimisation", value) for value in (3, {"epochs": 1}, Optimisation)),
    (train, TRAIN, "watch", [print]),
    (train, TRAIN, "storage", "runs/a"),
    (train, TRAIN, "view", "auto"),
    (train, TRAIN, "device", 3),
    *((train, TRAIN, "max_minutes", value) for value in ("5", True, float("nan"), 0, -1)),
    (train, TRAIN, "group", 2),
    *((masking_panel, PANEL, "model", value) for value in ("resnet-18", nn.Flatten)),
    *((masking_panel, PANEL, "batch", value) for value in (DATA, IMAGES, None)),
    *((masking_panel, PANEL, "threat", value) for value in (0.1, "linf", Linf)),
    (masking_panel, PANEL, "view", print),
    (masking_panel, PANEL, "seed", "0"),
    (masking_panel, PANEL, "result", {"pgd-20": 0.5}),
    (masking_panel, PANEL, "on_progress", "yes"),
    *((EvaluationRequest, {}, *case) for case in EVALUATE if case[0] not in {"folder", "loss"}),
    (EvaluationRequest, {}, "threat", 0.1),
    (EvaluationRequest, {}, "loss", 3),
    (EvaluationRequest, {}, "seed", 1.5),
    (EvaluationRequest, {}, "acceleration", "fast"),
    (EvaluationRequest, {}, "device", 3),
    *((EvaluationRequest, {}, "transfer", value) for value in ("runs/a", [3], 3)),
    *((EvaluationRequest, {}, "gallery", value) for value in (-1, "3", 1.5)),
    *(
        (EvaluationRequest, {}, "part", value)
        for value in (2, (0, 2), (3, 2), ("1", 2), (1, 10**20))
    ),
    *((EvaluationRequest, {}, "devices", value) for value in (0, "2")),
    *((EvaluationRequest, {}, "nodes", value) for value in (0, None)),
    *((CurveRequest, {}, "attack", value) for value in (None, 3, "")),
    *((CurveRequest, {}, "max_epsilon", value) for value in (0, "0.1", float("inf"))),
    *((CurveRequest, {}, "levels", value) for value in (0, 2.0, 10**9)),
    *((CurveRequest, {}, "limit", value) for value in (0, "5")),
    *((CurveRequest, {}, "batch_size", value) for value in (0, None)),
    *((CurveRequest, {}, "checkpoint", value) for value in (None, 3, "")),
    (CurveRequest, {}, "acceleration", "fast"),
    *((AnalysisRequest, {}, "part", value) for value in ("all", None)),
    *((AnalysisRequest, {}, "top", value) for value in (0, 1, "0.2", None)),
    *((AnalysisRequest, {}, "points", value) for value in (-1, 1.5)),
    *((AnalysisRequest, {}, "seed", value) for value in (-1, "0")),
    *((AnalysisRequest, {}, "again", value) for value in ("no", None)),
    *((AnalysisRequest, {}, "limit", value) for value in (0, True)),
    *((Request, REPRODUCED, "target", value) for value in (3, None)),
    (Request, REPRODUCED, "choice", "digits"),
    *((Request, REPRODUCED, "out", value) for value in ("", None)),
    *((Request, REPRODUCED, "rows", value) for value in ("sat", (), (3,))),
    *((Request, REPRODUCED, "seeds", value) for value in (3, (), (0, 0), (-1,), ("0",))),
    *((Request, REPRODUCED, "workers", value) for value in (0, "2")),
    *((Request, REPRODUCED, "limit", value) for value in (0, 1.5)),
    *((Request, REPRODUCED, "also", value) for value in ("results/digits", (3,))),
    (Request, REPRODUCED, "command", 3),
    (evaluate_suite, SUITED, "model", nn.Flatten),
    (evaluate_suite, SUITED, "suite", "quick"),
    (evaluate_suite, SUITED, "view", "auto"),
    (security_curve, CURVED, "model", None),
    (security_curve, CURVED, "attack", "pgd"),
    (InMemory, {"batch_size": 8}, "data", IMAGES),
]


@pytest.mark.parametrize(
    ("function", "right", "name", "value"),
    OTHERS,
    ids=[f"{case[0].__name__}-{case[2]}-{number}" for number, case in enumerate(OTHERS)],
)
def test_an_argument_of_an_engine_or_a_request_is_refused_by_its_name(
    function: Any, right: dict[str, Any], name: str, value: Any
) -> None:
    with pytest.raises(LratError) as caught:
        function(**{**right, name: value})
    message = str(caught.value)
    assert name.replace("max_minutes", "minutes") in message
    assert "\n" not in message
    assert len(message) < 500


@pytest.mark.parametrize("images", [IMAGES[0], IMAGES[:3], IMAGES.tolist()])
def test_a_panel_refuses_a_batch_of_other_shapes(images: Any) -> None:
    batch = Batch(images=images, labels=LABELS, index=LABELS)
    with pytest.raises(LratError, match=r"^batch=[^\n]+\[B C H W\]"):
        masking_panel(copied(), batch, Linf(epsilon=0.1))


def test_requests_hold_plain_values_and_paths(tmp_path: Path) -> None:
    request = EvaluationRequest(limit=np.int64(5), transfer=["runs/a"], part=[np.int64(1), 2])  # type: ignore[arg-type]
    assert (request.limit, request.part) == (5, (1, 2))
    assert request.transfer == (Path("runs/a"),)
    assert type(request.limit) is int
    assert CurveRequest(limit=None).limit is None
    reproduced = Request(**{**REPRODUCED, "out": str(tmp_path), "seeds": [0, 2], "rows": ["sat"]})
    assert (reproduced.out, reproduced.seeds, reproduced.rows) == (tmp_path, (0, 2), ("sat",))


def test_a_request_knows_its_command() -> None:
    plain = EvaluationRequest(suite="quick")
    assert plain.command(Path("a run")) == "lrat evaluate 'a run'"
    chosen = EvaluationRequest(
        suite="tier", limit=9, part=(1, 4), keep_images=True, transfer=(Path("b"), Path("c"))
    )
    command = chosen.command(Path("a"), "last")
    assert command.startswith("lrat evaluate a --checkpoint last --suite tier --limit 9 ")
    for option in ("--part 1/4", "--images", "--transfer b --transfer c"):
        assert f"{option} " in f"{command} "
    analysis = AnalysisRequest(checkpoint="last", points=0, saa=True)
    assert analysis.command(Path("a")) == "lrat analyse a --checkpoint last --points 0 --saa"


def test_the_argument_is_named_with_what_was_given_and_an_example() -> None:
    for name, value in {"epochs": 1.5, "batch_size": -1, "lr": None, "validation": "x"}.items():
        with pytest.raises(LratError, match=rf"^{name}={value!r}: must be .*, as {name}=\d"):
            lrat.fit(copied(), DATA, threat="linf:0.1", **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [int, np.int64, np.uint8, torch.tensor])
def test_numbers_of_numpy_and_torch_are_numbers(kind: Any) -> None:
    lrat.fit(
        copied(),
        DATA,
        threat=Linf(epsilon=0.1),
        method="natural",
        epochs=kind(1),
        batch_size=kind(8),
        seed=kind(3),
        lr=np.float32(0.05),
        validation=np.float64(0),
    )
    found = lrat.evaluate(
        copied(), DATA, threat="linf:0.1", limit=kind(9), seed=kind(3), batch_size=kind(4)
    )
    same = lrat.evaluate(copied(), DATA, threat="linf:0.1", limit=9, seed=3, batch_size=4)
    assert found.identity == same.identity
    assert found.summary() == same.summary()


@pytest.mark.parametrize("model", [NETWORK.state_dict(), nn.Flatten, 3])
def test_accelerate_refuses_what_is_no_model(model: Any) -> None:
    with pytest.raises(LratError, match=r"^model=[^\n]+$"):
        lrat.accelerate(model, IMAGES)


def test_a_folder_that_cannot_be_made_is_not_said_to_be_in_use() -> None:
    with pytest.raises(LratError) as caught:
        lrat.fit(copied(), DATA, threat="linf:0.1", method="natural", epochs=1, out="/proc/no/run")
    assert "in use" not in str(caught.value)


@pytest.mark.parametrize("function", [lrat.fit, lrat.evaluate, lrat.check_masking])
def test_labels_from_1_are_told_to_start_at_0(function: Any) -> None:
    with pytest.raises(LratError, match="number the classes from 0, labels - 1"):
        function(copied(), (IMAGES, LABELS + 1), threat=Linf(epsilon=0.1))
    with pytest.raises(LratError, match="one output per class"):
        function(copied(), (IMAGES, LABELS + 2), threat=Linf(epsilon=0.1))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((6, 8, 8, 2), "channels come last"),
        ((6, 9, 8, 5), "channels come last"),
        ((6, 32, 32, 13), "channels come last"),
        ((6, 4, 8, 8), "alpha"),
        ((6, 8, 8, 4), "alpha"),
        ((6, 2, 8, 8), "2 channels"),
        ((6, 1, 8, 3), "transpose"),
    ],
)
def test_images_whose_channels_do_not_fit_are_told_how_to_turn(shape: Any, words: str) -> None:
    layers = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    convolution = seeded(0, lambda: nn.Sequential(nn.Conv2d(3, 3, 1), *layers))
    data = (np.full(shape, 0.5, dtype=np.float32), np.arange(6) % 3)
    with pytest.raises(LratError, match=words):
        lrat.evaluate(convolution, data, threat="linf:0.1")
