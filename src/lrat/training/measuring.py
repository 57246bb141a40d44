"""Everything that is measured at the end of an epoch, as one record."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from lrat.training.metrics import EpochRecord
from lrat.training.optimisation import Optimisation
from lrat.training.state import RunState
from lrat.training.step import step_randomness
from lrat.training.watch import Watch, clean_accuracy, measure

_AFTER_ALL_STEPS = 2**32 - 1


def measured(state: RunState, watch: Watch, optimisation: Optimisation) -> EpochRecord:
    """The record of the epoch whose steps are done; the weights are as they were before."""
    epoch = state.epoch
    started = time.perf_counter()
    is_last = epoch + 1 == optimisation.epochs
    due = is_last or (epoch + 1) % watch.monitor_every == 0
    with step_randomness(optimisation.seed, epoch, _AFTER_ALL_STEPS):
        found = _numbers(state, watch, monitors=due)
        probe = {} if watch.probe is None else measure(state.model, watch.probe)
        average: Mapping[str, float | None] = {}
        if state.average is not None:
            with state.average.applied(state.model):
                average = _numbers(state, watch, monitors=due).flat()
    return state.sums.record(
        epoch=epoch,
        lr=state.rate,
        clean_accuracy=found.clean_accuracy,
        validation=found.validation,
        monitor=found.monitor,
        probe=probe,
        average=average,
        evaluation_seconds=time.perf_counter() - started,
    )


@dataclass(frozen=True, kw_only=True)
class _Numbers:
    """What is measured of one set of weights."""

    clean_accuracy: float | None
    validation: Mapping[str, float]
    monitor: Mapping[str, float]

    def flat(self) -> dict[str, float | None]:
        found: dict[str, float | None] = {"clean_accuracy": self.clean_accuracy}
        for kind, numbers in (("validation", self.validation), ("monitor", self.monitor)):
            found |= {f"{kind}/{name}": value for name, value in numbers.items()}
        return found


def _numbers(state: RunState, watch: Watch, *, monitors: bool) -> _Numbers:
    """Of the model as it is now."""
    model, place = state.model, state.device
    return _Numbers(
        clean_accuracy=clean_accuracy(model, [batch.to(place) for batch in watch.clean]),
        validation={} if watch.validate is None else measure(model, watch.validate),
        monitor={} if watch.monitor is None or not monitors else measure(model, watch.monitor),
    )
