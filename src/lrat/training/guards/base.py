"""Guards: rules that tell the owner of a run, once and in words, what goes wrong in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from lrat.training.guards.readings import Examination, Examined, Measured, Reading
from lrat.training.metrics import EpochRecord

_KEPT = 16
"""Readings in a checkpoint: those before are read from the records again, but for what the
training attacks did, of which guards look at the latest alone."""


@dataclass(frozen=True, kw_only=True)
class Notice:
    """What ``guard`` has to say after ``epoch`` (from 1): cause and cure in one line."""

    guard: str
    epoch: int
    text: str


@runtime_checkable
class Guard(Protocol):
    """A rule: the readings of all epochs so far, the latest last, to a line of words or None.

    ``name`` is its name in records. It is called after each epoch until it returns a line, or until
    one of ``implied_by`` has, whose line explains this one as well.
    """

    @property
    def name(self) -> str: ...

    @property
    def implied_by(self) -> frozenset[str]: ...

    def __call__(self, readings: Sequence[Reading]) -> str | None: ...


class Guards:
    """Asks guards after each epoch and remembers what was said; never changes a weight.

    ``validation``: the accuracy on held-out images that is watched (and that epochs are selected
    by); ``probe``: that of ``Watch.probe``; ``said``: guards whose words were given before the run,
    which they do not repeat. The loop calls ``examination`` with the variants of each epoch's
    first batch, before the update, and ``after_epoch`` with each record. Several processes come to
    the same words. Nothing waits for the device before the end of an epoch.
    ``state_dict`` holds plain values: a continued run neither repeats nor forgets.
    """

    def __init__(
        self,
        guards: Sequence[Guard],
        *,
        validation: Measured | None = None,
        probe: Measured | None = None,
        said: Sequence[str] = (),
    ) -> None:
        self._guards = tuple(guards)
        self._validation = validation
        self._probe = probe
        self.examination = Examination()
        self._readings: list[Reading] = []
        self._said: list[str] = list(said)

    def after_epoch(self, record: EpochRecord) -> tuple[Notice, ...]:
        """The notices that follow from this epoch."""
        self._readings.append(self._read(record, self.examination.read()))
        notices = []
        for guard in self._guards:
            if guard.name in self._said or guard.implied_by.intersection(self._said):
                continue
            text = guard(self._readings)
            if text is not None:
                self._said.append(guard.name)
                notices.append(Notice(guard=guard.name, epoch=record.epoch, text=text))
        return tuple(notices)

    def _read(self, record: EpochRecord, examined: Mapping[str, Examined]) -> Reading:
        return Reading.of(record, examined, validation=self._validation, probe=self._probe)

    def state_dict(self) -> dict[str, Any]:
        return {
            "said": list(self._said),
            "readings": [reading.plain() for reading in self._readings[-_KEPT:]],
            "examined": self.examination.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], records: Sequence[EpochRecord]) -> None:
        """``records``: of all epochs so far, from which the readings that ``state`` lacks come."""
        self._said = list(state["said"])
        kept = [Reading.from_plain(values) for values in state["readings"]]
        older = records[: max(0, len(records) - len(kept))]
        self._readings = [*(self._read(record, {}) for record in older), *kept]
        self.examination.load_state_dict(state["examined"])
