"""How long `lrat report` takes for ten runs of 10,000 images.

    python benchmarks/report.py [--runs 10] [--images 10000] [--rounds 5] [--keep FOLDER]
                                [--epochs 30] [--recorded 10] [--kept 32]

Run folders are made by hand as `lrat train` and `lrat evaluate --suite paper` leave them:
outcomes of natural, PGD, CW and the four stages of AutoAttack in parts of 256 images, 32 images
with what every attack made of them, a masking panel, 30 epochs, weights of 10,000 images and two
terms in ten recorded epochs. Each round is the command in a process of its own, imports included.
Target: 5 seconds. Prints a Markdown table.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
from pyarrow import parquet

from lrat.config.settings import load_config
from lrat.evaluation.outcomes import Outcomes
from lrat.evaluation.result import EvaluationResult
from lrat.evaluation.storage.gallery import Gallery, GalleryStore, gather
from lrat.evaluation.storage.store import OutcomeStore, digest_of

TARGET = 5.0
METHODS = ("sat", "gairat", "lsat-cw", "lsat-saa", "lrat-cw", "lrat-saa", "lrat-saa+cw", "trades")
STAGES = ("apgd-ce", "apgd-t", "fab-t", "square")
CHUNK, EPOCHS, RECORDED, KEPT = 256, 30, 10, 32
THREAT = "Linf(epsilon=8/255)"
CLASSES = 10


def make_run(folder: Path, number: int, images: int) -> None:
    """A run whose outcomes are its own."""
    rng = np.random.default_rng(number)
    method = METHODS[number % len(METHODS)]
    config = load_config(
        {"method": {"name": method}, "data": {"name": "cifar10"}},
        {"seed": number // len(METHODS), "training": {"epochs": EPOCHS}},
    )
    (folder / "weights").mkdir(parents=True)
    (folder / "config.yaml").write_text(config.to_yaml())
    lines = [_epoch(epoch, rng) for epoch in range(1, EPOCHS + 1)]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    about = {"selected_epoch": EPOCHS, "class_names": [f"class {each}" for each in range(CLASSES)]}
    (folder / "model.json").write_text(json.dumps(about))
    (folder / "environment.json").write_text(json.dumps({"python": platform.python_version()}))
    (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    for epoch in range(1, RECORDED + 1):
        _write(folder / "weights" / f"epoch-{epoch:03d}.parquet", _weights(images, rng))
    _evaluate(folder / "evaluations" / f"selected-paper-linf-8-255-{images}", images, rng)


def _epoch(epoch: int, rng: np.random.Generator) -> dict[str, Any]:
    shares = rng.integers(400, 600, 2) / 1000
    return {
        "epoch": epoch,
        "lr": 0.1,
        "loss": 1 / epoch,
        "images": 50_000,
        "terms": {},
        "robust_accuracy": float(shares[0]),
        "clean_accuracy": 0.8,
        "passes": {"attack_forwards": 10.0, "update_forwards": 1.0},
        "monitor": {"natural": 0.8, "pgd-20": float(shares[0]), "cw-20": float(shares[1])},
        "seconds": 100.0,
    }


def _weights(images: int, rng: np.random.Generator) -> dict[str, Any]:
    index = np.repeat(np.arange(images), 2)
    raw = rng.random(2 * images, dtype=np.float32)
    return {
        "index": index,
        "label": index % CLASSES,
        "term": np.tile(["saa", "cw"], images),
        "raw_weight": raw,
        "normalised_weight": raw,
        "loss": raw,
    }


def _evaluate(folder: Path, images: int, rng: np.random.Generator) -> None:
    """Accuracies fall from attack to attack; a cascade's stage keeps what the one before fooled."""
    attacks = ["pgd-20", "cw-20", *(f"autoattack.{stage}" for stage in STAGES)]
    identity = {
        "suite": "paper",
        "threat": THREAT,
        "tolerance": 1e-6,
        "seed": 0,
        "attacks": {name: f"{name}()" for name in attacks},
        "cascades": {"autoattack": [f"autoattack.{stage}" for stage in STAGES]},
        "data": "0" * 64,
    }
    store = OutcomeStore.open(folder, identity)
    store.expect(np.arange(images))
    (folder / "outcomes").mkdir(exist_ok=True)
    fooled = rng.random(images) < 0.16
    parts = [_rows("natural", fooled, rng)]
    clean, before = fooled, fooled
    for name in attacks:
        begin = before if name.startswith("autoattack.") and name != attacks[2] else clean
        before = begin | (rng.random(images) < (0.4 if begin is clean else 0.02))
        parts.append(_rows(name, before, rng))
    for part in parts:
        for start in range(0, images, CHUNK):
            rows = part.select(np.arange(start, min(start + CHUNK, images)))
            stem = f"{part.attack[0]}-{start:08d}-{digest_of(rows.index)}.parquet"
            _write(folder / "outcomes" / stem, rows.columns())
    chosen = np.arange(0, images, max(1, images // KEPT))[:KEPT]
    kept = GalleryStore.open(folder, Gallery(index=chosen, about={"of": images}))
    for part in parts:
        logits = np.zeros((KEPT, CLASSES), np.float32)
        logits[np.arange(KEPT), part.prediction[chosen]] = 1
        pixels = rng.random((KEPT, 3, 32, 32), dtype=np.float32)
        kept.add(str(part.attack[0]), chosen, pixels, logits)
    gather(folder)
    result = EvaluationResult(outcomes=Outcomes.concatenate(parts), identity=identity)
    (folder / "summary.json").write_text(json.dumps(result.summary()))
    check = {"name": "a check", "status": "passed", "value": 0.0, "limit": 1.0, "sentence": "Good."}
    panel = {"n": 256, "threat": THREAT, "checks": [check] * 12}
    (folder / "masking.json").write_text(json.dumps(panel))


def _rows(name: str, fooled: Any, rng: np.random.Generator) -> Outcomes:
    images = len(fooled)
    index = np.arange(images)
    label = index % CLASSES
    numbers = rng.random(images)
    return Outcomes.from_columns(
        {
            "index": index,
            "label": label,
            "attack": np.full(images, name),
            "fooled": fooled,
            "prediction": np.where(fooled, (label + 1) % CLASSES, label),
            **dict.fromkeys(("step", "source"), index % 7),
            **dict.fromkeys(
                ("margin_clean", "margin", "forwards", "backwards", "distance"), numbers
            ),
        }
    )


def _write(path: Path, columns: dict[str, Any]) -> None:
    parquet.write_table(arrow.table(columns), path)


def measured(folder: Path, rounds: int) -> tuple[list[float], list[float], int]:
    """Seconds of each round on the clock and of the processor, and the page's size in bytes."""
    out = folder / "report.html"
    runs = sorted(str(path) for path in folder.iterdir() if path.is_dir())
    command = [sys.executable, "-m", "lrat", "report", *runs, "--out", str(out)]
    seconds, processor = [], []
    for _ in range(rounds):
        started, before = time.perf_counter(), _children()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
        seconds.append(time.perf_counter() - started)
        processor.append(_children() - before)
    return seconds, processor, out.stat().st_size


def _children() -> float:
    """Processor seconds of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="leave the runs and the page here")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--recorded", type=int, default=RECORDED, help="epochs with weights")
    parser.add_argument("--kept", type=int, default=KEPT, help="images that each run keeps")
    chosen = parser.parse_args()
    globals().update(EPOCHS=chosen.epochs, RECORDED=chosen.recorded, KEPT=chosen.kept)
    with tempfile.TemporaryDirectory() as scratch:
        folder = chosen.keep or Path(scratch)
        for number in range(chosen.runs):
            if not (folder / f"run-{number}").exists():
                make_run(folder / f"run-{number}", number, chosen.images)
        seconds, processor, size = measured(folder, chosen.rounds)
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}.\n")
    print("| runs | images each | best s | median s | best processor s | page MB | within 5 s |")
    print("|---:|---:|---:|---:|---:|---:|---|")
    best, median = min(seconds), statistics.median(seconds)
    met = "yes" if best <= TARGET else "no"
    print(
        f"| {chosen.runs} | {chosen.images} | **{best:.2f}** | {median:.2f} "
        f"| {min(processor):.2f} | {size / 1e6:.1f} | {met} |"
    )


if __name__ == "__main__":
    main()
