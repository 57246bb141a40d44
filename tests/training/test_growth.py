"""What a run of many epochs keeps is as large as what a short one keeps, but for its records."""

import io
from pathlib import Path

import pytest
import torch
from torch import nn

from builders import seeded
from lrat.training import Watch
from lrat.training.guards import standard_guards
from soaking import keep
from training.toys import ToySource, data, run, validate

EARLY, EPOCHS = 20, 10_000


@pytest.mark.soak
def test_checkpoints_of_10_000_epochs_are_as_large_as_those_of_20(tmp_path: Path) -> None:
    model = seeded(
        0, lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 128), nn.ReLU(), nn.Linear(128, 3))
    )
    watch = Watch(clean=[data(1)], validate=validate, guards=standard_guards())
    run(
        tmp_path,
        epochs=EPOCHS,
        model=model,
        source=ToySource(data(1)),
        watch=watch,
        storage={"keep_epochs": [EARLY]},
        lr=1e-4,
    )
    checkpoints = tmp_path / "checkpoints"
    early, last = (
        (checkpoints / f"epoch-{epoch:03d}.pt").stat().st_size for epoch in (EARLY, EPOCHS)
    )
    state = torch.load(checkpoints / f"epoch-{EARLY:03d}.pt", weights_only=True)
    alone = io.BytesIO()
    torch.save({name: state[name] for name in ("model", "optimizer")}, alone)
    kept = [path.stat().st_size for path in checkpoints.iterdir()]
    assert last <= 2 * alone.tell()
    assert last <= 1.05 * early
    assert len(kept) <= 2 * 4  # the last two, the selected one, the one that was asked for
    keep(
        f"Checkpoints of a run of {EPOCHS:,} epochs",
        "A small network (2,563 weights, SGD with momentum) is trained on one image for "
        f"{EPOCHS:,} real epochs, with validation and guards; each epoch writes a checkpoint.\n\n"
        "| what | bytes |\n|---|---|\n"
        f"| weights and optimiser after epoch {EARLY}, written alone | {alone.tell():,} |\n"
        f"| the checkpoint of epoch {EARLY} | {early:,} |\n"
        f"| the checkpoint of epoch {EPOCHS:,} | {last:,} |\n"
        f"| all {len(kept)} files in `checkpoints/` | {sum(kept):,} |\n"
        f"| `metrics.jsonl`, a line per epoch | {(tmp_path / 'metrics.jsonl').stat().st_size:,} |",
        page="robustness.md",
    )
