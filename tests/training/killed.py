"""A slow run to be killed: ``python -m training.killed FOLDER``."""

import sys
import time
from pathlib import Path

import torch

from lrat.training import EpochRecord, StepProgress, Watch
from training.toys import run, validate

torch.set_num_threads(1)  # as the process that continues it: sums over threads differ in bits
EPOCHS = 40


class Slow:
    def on_step(self, progress: StepProgress) -> None:
        time.sleep(0.01)

    def on_epoch(self, record: EpochRecord) -> None:
        return


def finish(folder: Path, *, slow: bool = False):  # type: ignore[no-untyped-def]
    progress = {"progress": Slow()} if slow else {}
    watch = Watch(validate=validate, select_by="pgd", **progress)
    return run(folder, watch=watch, epochs=EPOCHS)


if __name__ == "__main__":
    finish(Path(sys.argv[1]), slow=True)
