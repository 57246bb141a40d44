"""Run folders as training and evaluation leave them, made by hand in no time."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lrat.config.settings import RunConfig, load_config
from lrat.evaluation.outcomes import Outcomes
from lrat.evaluation.result import EvaluationResult
from lrat.evaluation.storage.gallery import Gallery, GalleryStore, gather
from lrat.evaluation.storage.store import OutcomeStore
from lrat.files.read import read_json
from lrat.files.write import write_json, write_text
from lrat.reporting.report.records import ReportRecord, RunRecord
from lrat.reporting.report.write import collect_report

STAGES = ("autoattack.apgd-ce", "autoattack.square")


def config_of(method: str = "sat", **settings: Any) -> RunConfig:
    return load_config({"method": {"name": method}, "data": {"name": "digits"}}, settings)


def make_run(
    folder: Path,
    method: str = "sat",
    *,
    monitored: Sequence[float] = (0.4, 0.5, 0.6),
    **settings: Any,
) -> Path:
    """A trained run whose epochs had these accuracies under ``pgd-20`` on 100 test images."""
    config = config_of(method, **{"training": {"epochs": len(monitored)}, **settings})
    write_text(folder / "config.yaml", config.to_yaml())
    lines = [
        {
            "epoch": epoch,
            "lr": 0.1,
            "loss": 1 / epoch,
            "steps": 10,
            "images": 1437,
            "terms": {},
            "robust_accuracy": 0.5,
            "clean_accuracy": 0.9,
            "passes": {"attack_forwards": 10.0, "update_forwards": 1.0},
            "validation": {},
            "monitor": {"natural": 0.9, "pgd-20": share},
            "notices": [],
            "seconds": 2.0,
        }
        for epoch, share in enumerate(monitored, start=1)
    ]
    write_text(folder / "metrics.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines))
    write_json(
        folder / "model.json",
        {
            "selected_epoch": len(monitored),
            "epochs": len(monitored),
            "class_names": [str(each) for each in range(10)],
            "parameters": 1234,
        },
    )
    write_json(folder / "environment.json", {"lrat": "0.1", "torch": "2.8", "device": "cpu"})
    # The header of a safetensors file without tensors.
    write_weights(folder, b"\x02\0\0\0\0\0\0\0{}")
    return folder


def write_weights(run: Path, content: bytes) -> None:
    """The selected weights of ``run``, and their digest."""
    (run / "model.safetensors").write_bytes(content)
    about = {**read_json(run / "model.json"), "sha256": hashlib.sha256(content).hexdigest()}
    write_json(run / "model.json", about)


def make_evaluation(
    run: Path,
    robust: int = 50,
    *,
    images: int = 100,
    clean: int = 90,
    classes: int = 10,
    suite: str = "paper",
    threat: str = "Linf(epsilon=0.2)",
    data: str = "d" * 64,
    seed: int = 0,
    gallery: int = 0,
    names: Sequence[str] | None = None,
    home: Path | None = None,
    **identity: Any,
) -> Path:
    """A finished evaluation: the first ``clean`` images are right, ``robust`` of them under every
    attack, 5 more under PGD, and 2 more than that before the cascade's last stage."""
    cascade = {"autoattack": list(STAGES)} if suite == "paper" else {}
    attacks = {"pgd-20": "PGD(steps=20)"} | {stage: f"{stage}()" for stage in STAGES if cascade}
    told = {
        "suite": suite,
        "threat": threat,
        "tolerance": 1e-6,
        "seed": seed,
        "attacks": attacks,
        **({"cascades": cascade} if cascade else {}),
        "data": data,
        **identity,
    }
    epsilon = threat.partition("=")[2].rstrip(")").replace("/", "-")
    name = f"selected-{suite}-{threat[:2].lower()}{threat[2:4]}-{epsilon}-{images}"
    name += f"-seed-{seed}" if seed else ""
    folder = (run / "evaluations" if home is None else home) / name
    about = {"of": images, "test_images": images, "class_names": list(names or ())}
    chosen = np.arange(0, images, max(1, images // max(gallery, 1)))[:gallery]
    store = OutcomeStore.open(folder, told)
    store.expect(np.arange(images))
    kept = GalleryStore.open(folder, Gallery(index=chosen, about=about))
    counts = {"natural": clean, "pgd-20": min(robust + 5, clean)}
    if cascade:
        counts |= {STAGES[0]: min(robust + 2, clean), STAGES[1]: robust}
    parts = []
    before = clean
    for attack, right in counts.items():
        parts.append(_rows(attack, images, right, classes))
        store.add(parts[-1])
        met = images if attack == "natural" else before if attack == STAGES[1] else clean
        before = right
        some = chosen[chosen < met]
        if len(some):
            kept.add(attack, some, *_pictures(some, right, classes, attack != "natural"))
    result = EvaluationResult(outcomes=Outcomes.concatenate(parts), identity=told)
    store.finish(result.summary(), np.arange(images))
    gather(folder)
    return folder


def _rows(attack: str, images: int, right: int, classes: int) -> Outcomes:
    index = np.arange(images)
    fooled = index >= right
    label = index % classes
    spent = np.full(images, 0.0 if attack == "natural" else 20.0)
    return Outcomes.from_columns(
        {
            "index": index,
            "label": label,
            "attack": np.full(images, attack),
            "fooled": fooled,
            "prediction": np.where(fooled, (label + 1) % max(classes, 2), label),
            "margin_clean": np.ones(images),
            "margin": np.where(fooled, -1.0, 1.0),
            "step": np.full(images, 3),
            "source": np.zeros(images),
            "forwards": spent,
            "backwards": spent,
            "distance": np.full(images, 0.2),
        }
    )


def _pictures(
    index: np.ndarray, right: int, classes: int, attacked: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Grey images, lighter by .2 where they were attacked; logits 2 and 1 for the two likeliest."""
    image = np.full((len(index), 1, 4, 4), 0.7 if attacked else 0.5, np.float32)
    logits = np.zeros((len(index), max(classes, 2)), np.float32)
    label = index % classes
    other = (label + 1) % max(classes, 2)
    rows = np.arange(len(index))
    logits[rows, label] = np.where(index < right, 2, 1)
    logits[rows, other] = np.where(index < right, 1, 2)
    return image, logits


def report(*places: Path, **settings: Any) -> ReportRecord:
    return collect_report(list(places), **settings)


def only(record: ReportRecord) -> RunRecord:
    (run,) = record.runs
    return run
