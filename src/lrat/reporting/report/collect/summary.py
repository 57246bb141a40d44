"""The report's findings in short sentences, the most important first."""

from collections.abc import Sequence

from lrat.config.catalogue import folds_by_seed
from lrat.evaluation.masking.panel import Panel, Status
from lrat.reporting.report.records import EvaluationRecord, GroupRecord, RunRecord
from lrat.text import listed, percent

_NOTHING = "There is nothing to compare: no run has a finished evaluation (`lrat evaluate RUN`)."
_OTHER_FOLDS = "test images, which follow the training seed"


def summary(
    runs: Sequence[RunRecord], groups: Sequence[GroupRecord], over_seeds: Sequence[str]
) -> list[str]:
    """Best by worst case, which runs do not differ significantly, masking, overfitting, what is not
    comparable and why, what was not evaluated."""
    sentences = list(over_seeds)
    if groups:
        sentences += _of_group(groups[0], alone=len(groups) == 1 and not over_seeds)
    sentences += _masking(runs)
    sentences += _overfitting(runs)
    sentences += _not_comparable(runs, groups, over_seeds=bool(over_seeds))
    sentences += _not_evaluated(runs)
    return sentences or [_NOTHING]


def _of_group(group: GroupRecord, *, alone: bool) -> list[str]:
    where = "" if alone else f"On {group.title}: "
    first, *rest = group.sentences
    return [f"{where}{first}", *rest]


def _masking(runs: Sequence[RunRecord]) -> list[str]:
    panels = {run.name: run.masking for run in runs if run.masking is not None}
    sentences = []
    for name, panel in panels.items():
        if panel.status == "failed":
            sentences.append(
                f"{name} fails {_checks(panel, 'failed')} of the masking panel: its accuracies "
                "under attack may be too high."
            )
    doubtful = [name for name, panel in panels.items() if panel.status == "suspicious"]
    if doubtful:
        sentences.append(
            f"The masking panel of {listed(doubtful)} is suspicious: chance may explain it on so "
            "few images; see the panel."
        )
    without = [run.name for run in runs if run.masking is None and run.evaluations]
    if without and panels:
        sentences.append(f"Nobody checked {listed(without)} for masking.")
    elif without:
        sentences.append("No run was checked for masking (`lrat evaluate RUN --masking`).")
    return sentences


def _checks(panel: Panel, status: Status) -> str:
    names = [check.name for check in panel.checks if check.status == status]
    return f"{'the check' if len(names) == 1 else 'the checks'} {listed(names)}"


def _overfitting(runs: Sequence[RunRecord]) -> list[str]:
    """The run that lost most in full, the others by name."""
    losses = {
        run.name: (run, loss)
        for run in runs
        if (loss := run.overfitting) is not None and loss.marked
    }
    if not losses:
        return []
    worst = max(losses, key=lambda name: losses[name][1].best - losses[name][1].last)
    run, loss = losses[worst]
    size = "" if loss.n is None else f" (n = {loss.n})"
    others = [name for name in losses if name != worst]
    return [
        f"{worst} lost robust accuracy while it trained on: under {loss.on}{size} it fell "
        f"from {percent(loss.best)} (epoch {loss.best_epoch}) to {percent(loss.last)} "
        f"(the last epoch){_kept(run)}.{f' So, less, did {listed(others)}.' if others else ''}"
    ]


def _kept(run: RunRecord) -> str:
    if run.selected_epoch is None or not run.epochs:
        return ""
    is_last = run.selected_epoch == run.epochs[-1]
    return "" if is_last else f"; the reported weights are of epoch {run.selected_epoch}"


def _not_comparable(
    runs: Sequence[RunRecord], groups: Sequence[GroupRecord], *, over_seeds: bool
) -> list[str]:
    """Which runs are not among those of the largest group, and why; ``over_seeds``: runs of other
    folds were compared by their seeds."""
    first = {run.name: run.evaluations[0] for run in runs if run.evaluations}
    if not groups or len(first) < 2:
        return []
    main = groups[0]
    reference = next(each for run in runs for each in run.evaluations if each.group == main.key)
    reasons: dict[str, list[str]] = {}
    for name, other in first.items():
        if name not in main.runs:
            reasons.setdefault(_differing(reference, other), []).append(name)
    return [
        f"{listed(names)} {'is' if len(names) == 1 else 'are'} not compared with the "
        f"{'run' if len(main.runs) == 1 else 'runs'} on {main.title}: other {reason}."
        for reason, names in reasons.items()
        if not (over_seeds and reason == _OTHER_FOLDS)
    ]


def _differing(one: EvaluationRecord, other: EvaluationRecord) -> str:
    """In what two evaluations differ that are not of one group."""
    kinds = {
        "data": (one.data, other.data),
        "threat": (one.threat, other.threat),
        "suite": (one.suite, other.suite),
        "number of images": (one.images, other.images),
    }
    differing = [kind for kind, (ours, theirs) in kinds.items() if ours != theirs]
    folds_alone = not differing or (
        differing == ["number of images"] and abs(one.images - other.images) < 2
    )
    if folds_by_seed(one.data) and folds_alone:
        return _OTHER_FOLDS
    return " and ".join(differing) or "test images, or other settings of the attacks"


def _not_evaluated(runs: Sequence[RunRecord]) -> list[str]:
    without = [run.name for run in runs if not run.evaluations]
    if not without:
        return []
    if len(without) == len(runs):
        return [_NOTHING]
    verb = "has" if len(without) == 1 else "have"
    return [f"{listed(without)} {verb} no finished evaluation and cannot be compared."]
