"""The training loop and what it needs: settings, watching, storage."""

from lrat.training.checkpoint import Checkpoints
from lrat.training.loop import TrainingResult, train
from lrat.training.metrics import EpochRecord
from lrat.training.optimisation import Optimisation
from lrat.training.storage import Storage
from lrat.training.watch import Progress, StepProgress, Watch

__all__ = [
    "Checkpoints",
    "EpochRecord",
    "Optimisation",
    "Progress",
    "StepProgress",
    "Storage",
    "TrainingResult",
    "Watch",
    "train",
]
