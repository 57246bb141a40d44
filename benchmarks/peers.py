"""Attacks and training steps of lrat beside those of other libraries, in turns, passes counted.

    python benchmarks/peers.py [--quick] [--threads N] [--rounds N] [--only NAME] [--steps-only]
                               [--out FILE]

``make bench`` installs the peers and runs it. Peers that are not installed are left out and named.
Every attack has the same epsilon, step size and steps and meets a network that it cannot fool, so
that it does all its steps. Prints Markdown; with ``--out`` also writes it.
"""

import argparse
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch

import ours
import rivals
import training_steps
from lrat.files.write import write_text
from measuring import (
    Entry,
    Measured,
    check_images,
    environment,
    features,
    in_turns,
    processor,
    say,
)
from rivals import margin
from subjects import EPSILON, Subject, subjects
from training_steps import Plan, floor

ATTACK_STEPS = 20
HEADINGS = {
    "PGD": "PGD-{steps}",
    "CW": "CW-{steps} (L_inf)",
    "APGD-CE": "APGD-CE, {steps} steps",
    "APGD-T": "APGD-T, {targets} targets x {steps} steps",
}
COLUMNS = (
    "what",
    "who",
    "best",
    "ms per image",
    "times the fastest of lrat",
    "forwards + gradients per image",
    "weight gradients per image",
    "median / best round",
    "mean margin after",
)


@dataclass
class Report:
    """What is printed: one table, and the lines that judge it."""

    rows: list[str] = field(default_factory=list)
    floors: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)

    def target(self, what: str, found: float | None, limit: float, *, least: bool) -> None:
        """A line that says whether ``found`` (None: not measured) keeps the limit."""
        wanted = f"{'at least' if least else 'at most'} {limit:g}"
        verdict, number = "open", "not measured"
        if found is not None:
            met = found >= limit if least else found <= limit
            verdict, number = ("yes" if met else "no"), f"{found:.3f}"
        self.targets.append(f"| {what} | {wanted} | {number} | {verdict} |")


def attack_rows(subject: Subject, steps: int, rounds: int) -> Iterator[tuple[str, list[Measured]]]:
    """Each attack's contestants on this subject, measured."""
    seen = ours.views(subject)
    available = rivals.installed()
    for kind, factories in rivals.FACTORIES.items():
        entries = ours.entries(kind, subject, seen, steps)
        entries += [make(subject, steps) for module, make in factories if module in available]
        say(f"{subject.title}: {kind}, {len(entries)} contestants")
        yield kind, in_turns(entries, rounds)


def strength(found: Measured, subject: Subject) -> str:
    """Mean of z_y - max_{i != y} z_i over the attacked images, on the plain model in float32."""
    result = check_images(found.result, subject.images, EPSILON)
    with torch.no_grad():
        return f"{-float(margin(subject.model(result), subject.labels).mean()):.3f}"


def row(subject: Subject, what: str, who: str, found: Measured, fastest: float, last: str) -> str:
    if found.error is not None:
        cells = [found.error, *["" for _ in range(len(COLUMNS) - 4)]]
        return f"| {subject.title}: {what} | {who} | {' | '.join(cells)} | |"
    per_image = 1000 * found.best / found.entry.images
    return (
        f"| {subject.title}: {what} | {who} | {found.best:.3f} s | {per_image:.3f} "
        f"| {found.best / fastest:.2f} | {found.forwards:.4g} + {found.backwards:.4g} "
        f"| {found.weight_gradients:.4g} | {found.spread:.2f} | {last} |"
    )


def fastest_of_ours(measured: list[Measured]) -> float:
    return min(
        (each.best for each in measured if _is_ours(each.entry) and each.error is None),
        default=float("nan"),
    )


def _is_ours(entry: Entry) -> bool:
    return entry.name.rpartition(" | ")[2].startswith("lrat")


def compare_attacks(report: Report, subject: Subject, steps: int, rounds: int) -> None:
    for kind, measured in attack_rows(subject, steps, rounds):
        heading = HEADINGS[kind].format(steps=steps, targets=rivals.TARGETS)
        fastest = fastest_of_ours(measured)
        for found in measured:
            last = "" if found.error else strength(found, subject)
            report.rows.append(row(subject, heading, found.entry.name, found, fastest, last))
        if kind == "PGD" and subject.name == "resnet-18, width 16":
            pgd_targets(report, subject, measured)


def pgd_targets(report: Report, subject: Subject, measured: list[Measured]) -> None:
    best = {found.entry.name: found.best for found in measured if found.error is None}
    for view, limits in (
        ("bfloat16", {"torchattacks": 2.3, "foolbox": 3.0, "ART": 3.0}),
        ("float32", {"torchattacks": 1.4}),
    ):
        mine = best.get(f"lrat, {view} view")
        for peer, limit in limits.items():
            known = mine is not None and peer in best
            what = f"{subject.title}: PGD-20, {view}: faster than {peer} by the factor"
            report.target(what, best[peer] / mine if known else None, limit, least=True)


def compare_steps(report: Report, subject: Subject, plan: Plan, rounds: int) -> None:
    choices = ours.best_choices(subject)
    with ExitStack() as stack:
        entries = training_steps.our_steps(subject, plan, choices, stack)
        entries.append(training_steps.gairat_by_its_authors(subject, plan))
        if "torchattacks" in rivals.installed():
            entries.append(training_steps.sat_with_torchattacks(subject, plan))
        parts = training_steps.floor_parts(subject, plan, choices)
        say(f"{subject.title}: training steps, {len(entries)} contestants")
        measured = in_turns([*entries, *parts], rounds)
    by_name = {found.entry.name: found for found in measured}
    steps = [by_name[entry.name] for entry in sorted(entries, key=_grouped)]
    for found in steps:
        what, _, who = found.entry.name.partition(" | ")
        group = [each for each in steps if each.entry.name.startswith(f"{what} |")]
        fastest = fastest_of_ours(group)
        report.rows.append(row(subject, f"{what} step", who, found, fastest, ""))
    judge_steps(report, subject, by_name, str(choices))


def _grouped(entry: Entry) -> int:
    return ["SAT", "GAIRAT", "LRAT-SAA"].index(entry.name.partition(" | ")[0])


def judge_steps(
    report: Report, subject: Subject, by_name: dict[str, Measured], choices: str
) -> None:
    """The floors, and what the steps may cost above them."""
    steps = {name: by_name[f"{name} | lrat, view"] for name in ("SAT", "LRAT-SAA")}
    if any(by_name[name].error for name in by_name):
        report.floors.append(f"\n{subject.title}: no floor, as a part of it raised an error.")
        return
    floors = {}
    milliseconds = {
        name: 1000 * found.best / found.entry.images
        for name, found in by_name.items()
        if "|" not in name
    }
    report.floors.append(
        f"\n{subject.title}, view in {choices}: one pass takes {milliseconds['pass, one']:.3f} ms "
        f"per image ({milliseconds['pass, stacked']:.3f} at {rivals.TARGETS} times the batch), one "
        f"forward {milliseconds['forward, one']:.3f} ({milliseconds['forward, stacked']:.3f}), one "
        f"update {milliseconds['update']:.3f}.\n"
    )
    for name, size in (("SAT", "one"), ("LRAT-SAA", "stacked")):
        step = steps[name]
        floors[name] = floor(step, by_name, size)
        report.floors.append(
            f"* {name}: {step.forwards:.4g} forwards + {step.backwards:.4g} gradients per image; "
            f"floor {floors[name]:.3f} s, step {step.best:.3f} s, {step.best / floors[name]:.3f} "
            "times the floor"
        )
        what = f"{subject.title}: {name} step, times its floor"
        report.target(what, step.best / floors[name], 1.10, least=False)
    times = steps["LRAT-SAA"].best / steps["SAT"].best
    counts = steps["LRAT-SAA"].cost / steps["SAT"].cost
    report.floors.append(
        f"* LRAT-SAA / SAT: {times:.3f} in time, {counts:.3f} in passes (forward, gradient and "
        f"weight gradient as one unit each), {floors['LRAT-SAA'] / floors['SAT']:.3f} in floors"
    )
    what = f"{subject.title}: LRAT-SAA / SAT in time, over the ratio of passes"
    report.target(what, times / counts, 1.05, least=False)


def render(report: Report, chosen: argparse.Namespace, plan: Plan, rounds: str) -> str:
    names = ["torchvision", *rivals.PACKAGES.values(), "numpy"]
    missing = sorted(set(rivals.PACKAGES) - rivals.installed())
    lines = [
        "# Attacks and training steps beside other libraries",
        "",
        f"`{shlex.join(['python', 'benchmarks/peers.py', *sys.argv[1:]])}`",
        "",
        f"{processor()} ({', '.join(features()) or 'instruction sets unknown'}), "
        f"{chosen.threads} threads. "
        f"{environment(*names)}. Best of {rounds}, in turns"
        f"{', processor seconds' if chosen.threads == 1 else ''}. Epsilon 8/255, step 2/255 "
        "(training: "
        f"epsilon / 10, {plan.steps} steps; SAA {rivals.TARGETS} targets x {plan.saa_steps} steps),"
        " random start, float32 images. Times include everything that a call of the library does; "
        "views are made before, and refreshed in each training step.",
        "",
    ]
    if missing:
        lines += [f"Not installed, so not measured: {', '.join(missing)}.", ""]
    lines += [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}", *report.rows, ""]
    lines += [
        "*Forwards and gradients* are counted by hooks on the network, *weight gradients* by the "
        "convolutions that form one. *Mean margin after*: how far the right class is still ahead, "
        "in logits, on the attacked images; smaller is stronger. torchattacks and pyautoattack "
        "return the clean image where Auto-PGD does not fool the network, so theirs is the clean "
        "margin there.",
        "",
        *[f"{kind}: {note}." for kind, note in rivals.MISSING.items()],
        "",
        "## Floors of the training steps",
        *report.floors,
        "",
    ]
    if not chosen.quick:
        lines += ["## Targets", "", "| what | wanted | found | met |", "|---|---|---|---|"]
        lines += report.targets
    return "\n".join(lines).rstrip() + "\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny settings, to see that it runs")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, help="rounds of every network (default: its own)")
    parser.add_argument("--only", help="networks whose name holds this text")
    parser.add_argument("--steps-only", action="store_true", help="the training steps alone")
    parser.add_argument("--out", type=Path, help="Markdown file to write too")
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    torch.set_num_threads(chosen.threads)
    steps, plan = (2, Plan(steps=2, saa_steps=2)) if chosen.quick else (ATTACK_STEPS, Plan())
    report = Report()
    found = [each for each in subjects(quick=chosen.quick) if (chosen.only or "") in each.name]
    rounds = {each.name: chosen.rounds or each.rounds for each in found}
    for each in found:
        if not chosen.steps_only:
            compare_attacks(report, each, steps, rounds[each.name])
        compare_steps(report, each, plan, rounds[each.name])
    text = ", ".join(f"{count} rounds ({name})" for name, count in rounds.items())
    result = render(report, chosen, plan, text)
    print(result, end="")
    if chosen.out is not None:
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(chosen.out, result)


if __name__ == "__main__":
    main()
