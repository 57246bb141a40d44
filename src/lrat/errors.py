"""The error tree. Every message a user can cause says the cause and the cure in one line.

LratError
├── SettingError (ValueError)      a value that an object refuses
│   └── UnknownNameError           a name that is not in a catalogue; carries the nearest names
├── ConfigurationError (ValueError) a run's configuration as a whole
├── DataError (ValueError)         images, labels or files that are not what they must be
├── ModelError                     a classifier that does not fit its data or cannot be attacked
│   └── NoGradientError            no gradient reaches its images: Square needs none
├── NonFiniteError                 a loss or logits that became NaN or infinite
├── RegionViolationError           an attack's result outside its region
├── CheckpointError                a damaged or foreign checkpoint
├── MemoryShortError               a batch that does not fit; names the largest that does
├── RunFolderError                 a run folder that the command cannot use
└── Interrupted                    a run that was stopped and has saved its state
    └── Paused                     a run that has reached the time limit which its user set

``StopNow`` is none of these: it ends a measurement and passes through the user's code.
"""

import difflib
from collections.abc import Iterable

_MOST_LISTED = 100


class StopNow(BaseException):
    """Ends a measurement that ``training.watch.noticing`` watches.

    It is no ``Exception``, so that a measure which catches its model's exceptions lets it pass.
    """


class LratError(Exception):
    """Base of every error that lrat raises on purpose."""


class SettingError(LratError, ValueError):
    """A value that an attack, threat, weighting, objective or model refuses."""


class UnknownNameError(SettingError):
    """A name that is not in a catalogue.

    >>> str(UnknownNameError("method", "lrat-sa", ["lrat-saa", "sat"]))
    "unknown method 'lrat-sa': did you mean 'lrat-saa'? Known: lrat-saa, sat"
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        self._arguments = (kind, name, tuple(names))
        near = difflib.get_close_matches(name.lower(), names, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        listed = ", ".join(names) if len(names) <= _MOST_LISTED else f"{len(names)} names"
        super().__init__(f"unknown {kind} {name!r}: {hint}Known: {listed}")

    def __reduce__(self) -> tuple[type["UnknownNameError"], tuple[str, str, tuple[str, ...]]]:
        """Child processes send their errors back pickled."""
        return type(self), self._arguments


class ConfigurationError(LratError, ValueError):
    """A configuration that is refused as a whole: unknown keys, values that contradict."""


class DataError(LratError, ValueError):
    """Images, labels or data files that are not what they must be."""


class ModelError(LratError):
    """A classifier that does not fit its data, or whose output attacks cannot differentiate."""


class NoGradientError(ModelError):
    """A classifier whose logits have no gradient that reaches the images."""


class NonFiniteError(LratError):
    """A loss or logits that became NaN or infinite; names epoch, step and term."""


class RegionViolationError(LratError):
    """An attack's result that lies outside its region or outside [0, 1]."""


class CheckpointError(LratError):
    """A checkpoint that is damaged or belongs to something else."""


class MemoryShortError(LratError):
    """A batch that does not fit into memory; names the largest that does."""


class RunFolderError(LratError):
    """A run folder that the command cannot use."""


class Interrupted(LratError):  # noqa: N818 - a control signal, not a fault
    """A run that was stopped and has saved its state; the same command continues it."""


class Paused(Interrupted):
    """A run that has reached its time limit and has saved its state."""
