"""A tracker of one's own: the epochs of a run as a table that any spreadsheet opens.

A tracker is told when training begins, after each epoch, and when it ends. A continued run hands it
the epochs that are done already: here the table is written anew from them, so that an epoch that is
trained again shows once. What a tracker breaks stays its own, the run goes on. Run it, or use it:

    python examples/own_tracker.py
    lrat train sat --track examples/own_tracker.py:Table
"""

import csv
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lrat.config.settings import load_config
from lrat.experiments import scalars
from lrat.experiments.train import train_run
from lrat.training import EpochRecord


class Table:
    """``curves.csv`` in the run's folder: a line per epoch, a column per number."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "curves.csv"

    def begin(self, records: Sequence[EpochRecord]) -> None:
        self.path.unlink(missing_ok=True)
        for record in records:
            self.on_epoch(record)

    def on_epoch(self, record: EpochRecord) -> None:
        row = {"epoch": record.epoch, **scalars(record)}
        is_new = not self.path.exists()
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if is_new:
                writer.writeheader()
            writer.writerow(row)

    def end(self) -> None:
        return


def main() -> None:
    settings = {
        "method": {"name": "sat"},
        "attack": {"steps": 3},
        "model": {"width": 4},
        "training": {"epochs": 3, "trackers": [f"{__file__}:Table"]},
    }
    with tempfile.TemporaryDirectory() as folder:
        train_run(load_config(settings), Path(folder) / "run")
        with open(Path(folder) / "run" / "curves.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    print("epoch  loss/total  accuracy/robust")
    print("----------------------------------")
    for row in rows:
        print(f"{row['epoch']}  {row['loss/total']}  {row['accuracy/robust']}")


if __name__ == "__main__":
    main()
