"""The report's findings in short sentences, the most important first."""

from collections.abc import Sequence

from lrat.experiments.report.group_words import listed
from lrat.experiments.report.groups import Grouped
from lrat.reporting.report.records import MaskingRecord, RunRecord


def summary(
    runs: Sequence[RunRecord], groups: Sequence[Grouped], over_seeds: Sequence[str]
) -> list[str]:
    """Best by worst case and who cannot be told apart, masking, overfitting, what is not
    comparable and why, what was not evaluated."""
    sentences = []
    if groups:
        sentences += _of_group(groups[0], alone=len(groups) == 1)
    sentences += over_seeds
    sentences += _masking(runs)
    sentences += _overfitting(runs)
    sentences += _not_comparable(runs, groups)
    sentences += _not_evaluated(runs)
    return sentences or ["There is nothing to compare: no run was evaluated."]


def _of_group(group: Grouped, *, alone: bool) -> list[str]:
    where = "" if alone else f"On {group.findings.title}: "
    first, *rest = group.record.sentences
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


def _checks(panel: MaskingRecord, status: str) -> str:
    names = [check.name for check in panel.checks if check.status == status]
    return f"{'the check' if len(names) == 1 else 'the checks'} {listed(names)}"


def _overfitting(runs: Sequence[RunRecord]) -> list[str]:
    sentences = []
    for run in runs:
        found = run.overfitting
        if found is None or not found.marked:
            continue
        sentences.append(
            f"{run.name} overfits: accuracy under {found.on} fell from {100 * found.best:.1f} % "
            f"(epoch {found.best_epoch}) to {100 * found.last:.1f} % (the last epoch){_kept(run)}."
        )
    return sentences


def _kept(run: RunRecord) -> str:
    if run.selected_epoch is None or not run.epochs:
        return ""
    is_last = run.selected_epoch == run.epochs[-1].epoch
    return "" if is_last else f"; the reported weights are of epoch {run.selected_epoch}"


def _not_comparable(runs: Sequence[RunRecord], groups: Sequence[Grouped]) -> list[str]:
    """Of each run the evaluation that is compared first: which are in groups of their own."""
    first = {run.name: run.evaluations[0] for run in runs if run.evaluations}
    if not groups or len(first) < 2:
        return []
    leading = {group.record.key: group for group in groups}
    main = groups[0].record
    apart = [name for name in first if name not in main.runs]
    if not apart:
        return []
    reference = first[main.runs[0]] if main.runs[0] in first else next(iter(first.values()))
    for evaluation in (each for run in runs for each in run.evaluations):
        if evaluation.group == main.key:
            reference = evaluation
            break
    reasons: dict[str, list[str]] = {}
    for name in apart:
        other = first[name]
        differing = [
            kind
            for kind, ours, theirs in (
                ("data", reference.data, other.data),
                ("threat", reference.threat, other.threat),
                ("suite", reference.suite, other.suite),
                ("number of images", reference.images, other.images),
            )
            if ours != theirs
        ]
        reason = " and ".join(differing) or "images or settings of attacks"
        reasons.setdefault(reason, []).append(name)
    return [
        f"{listed(names)} {'is' if len(names) == 1 else 'are'} not compared with "
        f"{listed(main.runs)}: other {reason}."
        for reason, names in reasons.items()
        if leading
    ]


def _not_evaluated(runs: Sequence[RunRecord]) -> list[str]:
    without = [run.name for run in runs if not run.evaluations]
    if not without or len(without) == len(runs):
        return []
    verb = "has" if len(without) == 1 else "have"
    return [f"{listed(without)} {verb} no finished evaluation and cannot be compared."]
