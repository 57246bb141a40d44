"""The table that benchmarks/evaluation.py prints, from its records."""

import statistics
from collections import defaultdict
from typing import Any

from measuring import environment, features, processor

PEER = "pyautoattack"
Record = dict[str, Any]


def render(records: list[Record], chunk: int) -> str:
    """Markdown: speed and passes per attack, or verdicts side by side."""
    about = (
        f"{processor()} ({', '.join(features())}), one thread, chunks of {chunk}. "
        f"{environment('pyautoattack', 'numpy')}. Seed 0."
    )
    lines = ["# AutoAttack beside pyautoattack", "", about, ""]
    by_subject: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_subject[record["subject"]].append(record)
    for name, found in by_subject.items():
        lines += [f"## {name}", ""]
        lines += _parity(found) if "what" in found[0] else _speed(found)
    return "\n".join(lines).rstrip() + "\n"


def _parity(records: list[Record]) -> list[str]:
    lines = [
        "| sequential noise | images | standing after pyautoattack | after lrat | verdicts equal |",
        "|---|---|---|---|---|",
    ]
    for record in records:
        theirs, ours = (list(record[who].values())[-1]["stands"] for who in ("theirs", "ours"))
        same = sum(a == b for a, b in zip(theirs, ours, strict=True))
        lines.append(
            f"| {record['what']} | {len(ours)} | {sum(theirs)} | {sum(ours)} "
            f"| {same} ({100 * same / len(ours):.2f} %) |"
        )
    return [*lines, ""]


def _speed(records: list[Record]) -> list[str]:
    blocks: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        blocks[record["who"]].append(record)
    # Only blocks that all contestants did.
    shared = set.intersection(*({each["block"] for each in found} for found in blocks.values()))
    kept = {who: [r for r in found if r["block"] in shared] for who, found in blocks.items()}
    images = sum(record["images"] for record in next(iter(kept.values())))
    head = (
        "| who | after | accuracy % | seconds | pyautoattack / this | forwards | gradients "
        "| share of the floor |"
    )
    lines = [f"{images} images in {len(shared)} blocks, keyed noise.", "", head, "|---" * 8 + "|"]
    for who, found in kept.items():
        per_pass = {
            key: min(record["passes"][key] for record in found) for key in ("forward", "pass")
        }
        totals: dict[str, float] = defaultdict(float)
        for stage in [*found[0]["stages"], "whole"]:
            row = _row(found, kept.get(PEER), stage)
            floor = row["backwards"] * per_pass["pass"]
            floor += (row["forwards"] - row["backwards"]) * per_pass["forward"]
            totals[stage] = row["seconds"]
            ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
            lines.append(
                f"| {who} | {stage} | {100 * row['stands'] / images:.2f} | {row['seconds']:.1f} "
                f"| {ratio} | {row['forwards'] / images:.1f} | {row['backwards'] / images:.1f} "
                f"| {100 * floor / row['seconds'] if row['seconds'] else float('nan'):.0f} % |"
            )
    lines += ["", *_verdicts(kept)]
    return [*lines, ""]


def _stage(record: Record, stage: str, key: str) -> float:
    stages = list(record["stages"].values()) if stage == "whole" else [record["stages"][stage]]
    return float(sum(each[key] for each in stages))


def _row(found: list[Record], peer: list[Record] | None, stage: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        key: sum(_stage(record, stage, key) for record in found)
        for key in ("seconds", "forwards", "backwards")
    }
    last = list(found[0]["stages"])[-1] if stage == "whole" else stage
    row["stands"] = sum(sum(record["stages"][last]["stands"]) for record in found)
    row["ratio"] = None
    if peer is not None and row["seconds"]:
        row["ratio"] = sum(_stage(record, stage, "seconds") for record in peer) / row["seconds"]
    return row


def _verdicts(kept: dict[str, list[Record]]) -> list[str]:
    if PEER not in kept:
        return []

    def flat(found: list[Record]) -> list[bool]:
        ordered = sorted(found, key=lambda record: record["block"])
        return [stands for r in ordered for stands in list(r["stages"].values())[-1]["stands"]]

    theirs = flat(kept[PEER])
    lines = []
    for who, found in kept.items():
        if who == PEER:
            continue
        ours = flat(found)
        only_ours = sum(a and not b for a, b in zip(theirs, ours, strict=True))
        only_theirs = sum(b and not a for a, b in zip(theirs, ours, strict=True))
        per_block = [
            _stage(a, "whole", "seconds") / _stage(b, "whole", "seconds")
            for a, b in zip(kept[PEER], found, strict=True)
        ]
        lines.append(
            f"* {who}: fools {only_ours} images that pyautoattack does not, and misses "
            f"{only_theirs} that it fools; faster by {statistics.median(per_block):.2f} in the "
            f"median block ({min(per_block):.2f} to {max(per_block):.2f})."
        )
    return lines
