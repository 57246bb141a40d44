"""A table of a reproduction in Markdown: ours beside the paper's, and what may be concluded."""

from collections.abc import Callable, Iterator, Sequence

from lrat.evaluation import NATURAL
from lrat.evaluation.comparison.groups import IMAGES, NO_TEST, GroupContrast
from lrat.evaluation.comparison.shared import WORST_CASE
from lrat.evaluation.statistics import ALPHA
from lrat.reproduce.evidence import SeededShare
from lrat.reproduce.paper import PAPER_COLUMNS, papers_difference
from lrat.reproduce.presets import BASELINE, LONG_BASELINE, method_of
from lrat.reproduce.tables import Table, TableRow, between_epochs
from lrat.text import DASH, to_markdown, written_p

Lines = list[list[str]]
_MINUS = "−"
_OVER_SEEDS, _OVER_IMAGES = "*", "°"


def scores(table: Table) -> Lines:
    """Accuracy in per cent with its interval, the paper's number beside each of its columns."""
    header = ["", *_beside(table, str, lambda column: "paper"), "seeds"]
    return [header, *(_score_line(table, row) for row in table.rows)]


def _score_line(table: Table, row: TableRow) -> list[str]:
    cells = _beside(table, lambda c: share_cell(row.scores[c]), lambda c: _papers(row, c))
    return [row.name, *cells, " ".join(map(str, row.seeds))]


def _beside(
    table: Table, ours: Callable[[str], str], papers: Callable[[str], str]
) -> Iterator[str]:
    """The cell of every column, and behind it the paper's where the paper has the column."""
    for column in table.columns:
        yield ours(column)
        if _has_paper(table, column):
            yield papers(column)


def in_brief(table: Table) -> dict[str, Lines]:
    """The scores, the paper's, and both differences without intervals: for a narrow terminal."""
    ours, rows = table.columns, table.rows
    paper = [column for column in ours if _has_paper(table, column)]
    known = [row for row in rows if row.paper is not None]
    tables = {
        "ours, % over all seeds": [
            ["", *ours],
            *([row.name, *(share_cell(row.scores[c]) for c in ours)] for row in rows),
        ],
        "paper, % (CIFAR-10)": [
            ["", *paper],
            *([row.name, *(_papers(row, c) for c in paper)] for row in known),
        ],
    }
    compared = [(row, base) for row in rows if (base := table.reference(row.name))]
    if compared:
        tables["ours, differences"] = [
            ["", "minus", *ours],
            *(
                [row.name, base.name, *(_brief(table.contrast(row.name, c)) for c in ours)]
                for row, base in compared
            ),
        ]
        tables["paper, differences"] = [
            ["", "minus", *paper],
            *(
                [row.name, base.name, *(_papers_difference(row, base, c) for c in paper)]
                for row, base in compared
            ),
        ]
    return tables


def _brief(contrast: GroupContrast | None) -> str:
    return DASH if contrast is None else f"{signed(contrast.difference)}{mark(contrast)}"


def share_cell(share: SeededShare) -> str:
    """``45.2 [40.1, 50.4]``."""
    value, low, high = (100 * each for each in (share.value, share.low, share.high))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _has_paper(table: Table, column: str) -> bool:
    return column in PAPER_COLUMNS and any(row.paper is not None for row in table.rows)


def differences(table: Table) -> Lines:
    """Every row minus its reference in points, on the same images and seeds, and the paper's
    difference."""
    lines = [["", "minus", *_beside(table, str, lambda column: "paper")]]
    for row in table.rows:
        base = table.reference(row.name)
        if base is not None:
            lines.append([row.name, base.name, *_difference_cells(table, row, base)])
    return lines


def _difference_cells(table: Table, row: TableRow, base: TableRow) -> Iterator[str]:
    return _beside(
        table,
        lambda column: difference_cell(table.contrast(row.name, column)),
        lambda column: _papers_difference(row, base, column),
    )


def difference_cell(contrast: GroupContrast | None) -> str:
    """``−8.3 [−10.1, −6.5] *``: significant after Holm's correction; see ``LEGEND``."""
    if contrast is None:
        return DASH
    cell = signed(contrast.difference)
    if contrast.low is not None and contrast.high is not None:
        cell += f" [{signed(contrast.low)}, {signed(contrast.high)}]"
    return f"{cell}{mark(contrast)}"


def mark(contrast: GroupContrast) -> str:
    """``*`` where the rows differ significantly over seeds, ``°`` where only these models do."""
    if contrast.significant and contrast.basis not in {IMAGES, NO_TEST}:
        return f" {_OVER_SEEDS}"
    p = contrast.p_images_adjusted
    return f" {_OVER_IMAGES}" if p is not None and p < ALPHA else ""


LEGEND = (
    f"`{_OVER_SEEDS}`: the rows differ over training seeds (paired t-test on runs of equal seeds, "
    "joined with the error over images where all seeds test the same, corrected where they are "
    "folds); "
    f"`{_OVER_IMAGES}`: these very models differ (exact sign-flip test over the images of all "
    "common seeds, McNemar's for one), which other seeds may not repeat. Both at the 5 % level "
    "after Holm's correction for the whole table. Intervals are 95 %, of the same test, not "
    "adjusted for the number of rows; for a single seed Tango's over images."
)


def signed(difference: float) -> str:
    """``+3.1``, ``−0.4`` in points."""
    points = 100 * difference
    return f"{_MINUS if points < 0 else '+'}{abs(points):.1f}"


def _papers(row: TableRow, column: str) -> str:
    accuracy = None if row.paper is None else row.paper.under(column)
    return DASH if accuracy is None else f"{accuracy:.2f}"


def _papers_difference(row: TableRow, base: TableRow, column: str) -> str:
    difference = papers_difference(row.paper, base.paper, column)
    return DASH if difference is None else signed(difference / 100)


def costs(table: Table) -> Lines:
    """Passes of training and seconds, relative to SAT where it is there, and masking."""
    baselines = (row for row in table.rows if method_of(row.name) == BASELINE)
    base = next((row.cost.forwards for row in baselines), None)
    lines = [
        ["", "forwards", "backwards", f"forwards / {BASELINE}", "training s", "masking", "checks"]
    ]
    for row in table.rows:
        forwards, backwards = row.cost.forwards, row.cost.backwards
        ratio = DASH if not base or forwards is None else f"{forwards / base:.1f}"
        masking, checks = DASH, DASH
        if row.masking is not None:
            of = row.masking.panels
            masking = ", ".join(f"{name} {n}/{of}" for name, n in row.masking.statuses.items())
            checks = ", ".join(f"{name} {n}/{of}" for name, n in row.masking.checks.items())
        lines.append(
            [
                row.name,
                DASH if forwards is None else f"{forwards:.0f}",
                DASH if backwards is None else f"{backwards:.0f}",
                ratio,
                f"{row.cost.seconds:.0f}",
                masking,
                checks or "none",
            ]
        )
    return lines


def per_run(table: Table) -> Lines:
    """Every run by itself: which weights, how many images, the accuracies in per cent."""
    lines = [["run", "epoch", "images", *table.columns]]
    for row in table.rows:
        for number, run in enumerate(row.evidence):
            counts = sorted({len(result.index) for result in run.results}, reverse=True)
            shares = [f"{100 * row.scores[c].values[number]:.2f}" for c in table.columns]
            of = " and ".join(map(str, counts))
            lines.append([run.folder.name, str(run.epoch), of, *shares])
    return lines


def conclusion(table: Table) -> str:
    """What the tests show, what they cannot show, and how that agrees with the paper."""
    if not table.contrasts:
        return (
            "No row can be tested: that needs two rows with a seed in common, such as "
            f"`--rows {LONG_BASELINE},lrat-saa+cw`."
        )
    shown = [_in_words(each) for each in table.contrasts if mark(each)]
    attack = table.columns[-2]
    open_ = [
        f"{each.group} and {each.first} (differences below {100 * each.detectable:.1f} points "
        "would not show)"
        for each in table.contrasts
        if each.attack == attack and not mark(each) and each.detectable is not None
    ]
    sentences = [
        f"Shown: {'; '.join(shown)}."
        if shown
        else "No row differs significantly from its reference.",
        f"No significant difference under {attack}: {', '.join(open_)}." if open_ else "",
        _agreement(table),
    ]
    return " ".join(filter(None, sentences))


def _in_words(contrast: GroupContrast) -> str:
    over = "over seeds" if mark(contrast).strip() == _OVER_SEEDS else "these models"
    p = contrast.p_adjusted if over == "over seeds" else contrast.p_images_adjusted
    better = "better" if contrast.difference > 0 else "worse"
    return (
        f"{contrast.group} is {better} than {contrast.first} {_where(contrast.attack)} by "
        f"{100 * abs(contrast.difference):.1f} points ({over}, p {written_p(p or 0.0)})"
    )


def _where(column: str) -> str:
    return {WORST_CASE: "in the worst case", NATURAL: "on clean images"}.get(
        column, f"under {column}"
    )


def _agreement(table: Table) -> str:
    """In how many differences that the paper has too the sign is the same."""
    same = opposite = unclear = 0
    for contrast in table.contrasts:
        row, base = table.row(contrast.group), table.row(contrast.first)
        theirs = papers_difference(row.paper, base.paper, contrast.attack)
        if theirs is None:
            continue
        if not mark(contrast):
            unclear += 1
        elif theirs * contrast.difference > 0:
            same += 1
        else:
            opposite += 1
    total = same + opposite + unclear
    if not total:
        return ""
    return (
        f"Of the paper's {total} differences of these rows (CIFAR-10, one run each, no interval), "
        f"{same} show here with the same sign, {opposite} with the opposite one, {unclear} are "
        "not significant."
    )


def about_intervals(table: Table) -> str:
    """What the intervals of the scores are intervals of."""
    several = any(len(row.seeds) > 1 for row in table.rows)
    single = any(len(row.seeds) == 1 for row in table.rows)
    parts = []
    if several and table.same_images:
        parts.append(
            "of several seeds, Student's t over seeds joined with Wilson's over images (all seeds "
            "test the same images)"
        )
    elif several:
        parts.append(
            "of several seeds, Student's t over seeds, each of which tests other images; the folds "
            "share training images, for which these intervals and t-tests are corrected (Nadeau & "
            "Bengio 2003: the variance of a mean of J folds is s^2 (1/J + 1/4))"
        )
    if single:
        parts.append("of a single seed, Wilson's over images: other seeds may differ by more")
    return f"Accuracy in per cent over all images and seeds; 95 % intervals: {'; '.join(parts)}."


def epochs(table: Table) -> str:
    """``epoch 30``, or several where rows differ."""
    several = "s" * (len(table.epochs) > 1)
    return f"epoch{several} {', '.join(map(str, table.epochs))}"


def other_epoch(table: Table, other: Table) -> list[str]:
    """The same rows at the other epoch, and what each gains or loses from the earlier one on."""
    early, late = sorted((table, other), key=lambda each: each.epochs)
    between = between_epochs(early, late)
    lines = [["", *table.columns]]
    for row in late.rows:
        cells = [between.get((row.name, column)) for column in table.columns]
        if any(cells):
            lines.append([row.name, *map(difference_cell, cells)])
    return [
        to_text(f"The same runs at {epochs(other)}", scores(other)),
        to_markdown(differences(other)),
        conclusion(other),
        "",
        to_text(f"From {epochs(early)} to {epochs(late)}, in points", lines),
        "Differences of the same runs, marked as above; Holm's correction for this table.",
        "",
    ]


def to_text(title: str, lines: Sequence[Sequence[str]]) -> str:
    return f"## {title}\n\n{to_markdown(lines)}"
