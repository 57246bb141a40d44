"""A saved state is taken over whole, or refused in one line."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lrat.errors import CheckpointError, NonFiniteError, UnknownNameError
from lrat.files.read import NOT_AS_WRITTEN
from lrat.training.metrics import EpochRecord, MetricsFile
from lrat.training.recorder import WeightRecorder
from lrat.training.state import RunState
from lrat.training.watch import Best, choose


def take_over(
    state: RunState,
    recorder: WeightRecorder,
    metrics: MetricsFile,
    saved: Mapping[str, Any],
    folder: Path,
) -> None:
    """Bring ``state`` to where ``saved`` is, with the records of ``metrics``, and ``recorder`` to
    the entry of its name.

    Where ``saved`` has no optimiser, momentum starts afresh.

    ``folder`` of the checkpoint, for errors: ``CheckpointError`` for a state of another version of
    lrat, of another model, or of something else.
    """
    ours = state.state_dict()
    unknown = sorted(map(str, saved.keys() - ours.keys() - {"recorder", "records"}))
    if unknown:
        raise CheckpointError(
            f"the newest checkpoint in {folder} holds {', '.join(unknown)}, which this version of "
            "lrat does not know: continue with the version that wrote it, or in another folder"
        )
    optimizer = saved.get("optimizer")
    try:
        check_fit(state.model, saved["model"], f"the newest checkpoint in {folder}")
        lines = saved["records"]  # themselves in checkpoints of format 1 and 2
        lines = lines if isinstance(lines, list) else metrics.lines(lines)
        state.load_state_dict(
            {**saved, "optimizer": ours["optimizer"] if optimizer is None else optimizer},
            [EpochRecord.from_json(line) for line in lines],
        )
        recorder.load_state_dict(saved["recorder"])
    except (RuntimeError, *NOT_AS_WRITTEN) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise CheckpointError(
            f"the newest checkpoint in {folder} is no state of a run that this version of lrat "
            f"knows ({reason}): continue with the version that wrote it, or remove it to continue "
            "from the one before"
        ) from error


def best_of(records: Sequence[EpochRecord], epochs: Collection[int], lost: Best) -> Best | None:
    """The best of ``epochs`` by the measure that chose ``lost``; None without any."""
    known = [record for record in records if record.epoch == lost.epoch]
    for key in known[0].validation if known else ():
        try:
            if _chosen(records, key) == lost:
                return _chosen([record for record in records if record.epoch in epochs], key)
        except (NonFiniteError, UnknownNameError):
            continue  # no measure that a run could have selected by
    return None


def _chosen(records: Sequence[EpochRecord], key: str) -> Best | None:
    best: Best | None = None
    for record in records:
        best = choose(best, record, key)
    return best


def check_fit(model: nn.Module, weights: Mapping[str, Any], origin: str) -> None:
    """Refuse the weights of another architecture or number of classes; ``CheckpointError``."""
    reason = misfit(model, weights)
    if reason is not None:
        raise CheckpointError(
            f"{origin} does not fit this model: {reason}; train the same architecture with the "
            "same number of classes, or choose another folder"
        )


def misfit(model: nn.Module, weights: Mapping[str, Any]) -> str | None:
    """Why ``weights`` are none of this model, in words; None if they are."""
    own: Mapping[str, Any] = model.state_dict()
    for what, names in (
        ("lacks", [name for name in own if name not in weights]),
        ("holds unknown", [name for name in weights if name not in own]),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            return f"it {what} {names[0]}{more}"
    for name, value in own.items():
        other = weights[name]
        if isinstance(value, Tensor) != isinstance(other, Tensor):
            return f"{name} is a {type(other).__name__} there and a {type(value).__name__} here"
        if isinstance(value, Tensor) and value.shape != other.shape:
            return f"{name} is {list(other.shape)} there and {list(value.shape)} in the model"
    return None
