"""Reports made by hand, of any size, for the tests of the page: no run is trained for them."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from lrat.evaluation.comparison.pairs import Contrast
from lrat.evaluation.curve_result import Brackets, Curve
from lrat.evaluation.masking import Check, Panel
from lrat.evaluation.statistics import Difference, Proportion
from lrat.reporting.report.records import (
    Attacked,
    AttackRecord,
    Cost,
    EvaluationRecord,
    GalleryImage,
    GalleryRecord,
    GroupRecord,
    Overfitting,
    OverlapRecord,
    Pair,
    ReportRecord,
    RunRecord,
    TermWeights,
)

ATTACKS = ("natural", "pgd-20", "cw-20", "autoattack")
METHODS = ("sat", "gairat", "lsat-cw", "lsat-saa", "lrat-cw", "lrat-saa", "lrat-saa+cw")
HARMFUL = "<img src=x onerror=alert(1)></script><script>alert('class')</script>"


def share(value: float, n: int = 360) -> Proportion:
    return Proportion(value=value, low=max(0.0, value - 0.04), high=min(1.0, value + 0.04), n=n)


def evaluation(place: int, *, group: str, data: str, attacks: Sequence[str]) -> EvaluationRecord:
    shares = {name: 0.97 - 0.12 * min(k, 3) - 0.01 * place for k, name in enumerate(attacks)}
    stages = {
        "apgd-ce": share(shares[attacks[-1]] + 0.03),
        "square": share(shares[attacks[-1]]),
    }
    return EvaluationRecord(
        folder=f"runs/run-{place}/evaluations/selected-paper-linf-0.2-360",
        group=group,
        data=data,
        suite="paper",
        threat="linf:0.2",
        seed=0,
        images=360,
        checkpoint="selected",
        attacks=[
            AttackRecord(
                name=name,
                share=share(value),
                settings=f"PGD(name={name!r})",
                forwards=1.0 + 20 * k,
                backwards=20.0 * k,
                stages=stages if name == "autoattack" else {},
            )
            for k, (name, value) in enumerate(shares.items())
        ],
        worst_case=share(min(shares.values())),
        notes=["The images are a stratified subset."],
    )


def accuracy(count: int) -> dict[str, dict[int, float]]:
    every = range(1, count + 1)
    measured = {
        "training, clean": {epoch: 1 - 0.5 / epoch for epoch in every},
        "training, under attack": {epoch: 0.8 - 0.5 / epoch for epoch in every},
        "held out, pgd-10": {epoch: 0.75 - 0.45 / epoch for epoch in every},
        "monitored, pgd-20": {epoch: 0.7 - 0.4 / epoch for epoch in every},
        "monitored, cw-20": {epoch: 0.68 - 0.4 / epoch for epoch in every},
    }
    return measured if count else {}


def term_weights(term: str, count: int) -> TermWeights:
    edges = [round(0.1 * k, 1) for k in range(21)]
    counts = [
        [int(1000 * np.exp(-((k - 10 - epoch % 7) ** 2) / 8)) for k in range(20)]
        for epoch in range(count)
    ]
    return TermWeights(
        term=term,
        epochs=list(range(1, count + 1)),
        mean=[1 - 0.01 * epoch for epoch in range(count)],
        effective=[0.95 - 0.02 * epoch for epoch in range(count)],
        below=[0.01 * epoch for epoch in range(count)],
        edges=edges,
        counts=counts,
    )


def probabilities(classes: int, top: int) -> np.ndarray:
    values = np.full(classes, 0.3 / max(classes - 1, 1), dtype=np.float32)
    values[top] = 0.7 if classes > 1 else 1.0
    return values


def gallery_image(
    index: int, classes: int, size: int, channels: int, attacks: Sequence[str]
) -> GalleryImage:
    random = np.random.default_rng(index)
    image = random.random((size, size, channels), dtype=np.float32)
    label, wrong = index % classes, (index + 1) % classes
    clean_wrong = index % 7 == 6 and classes > 1

    def attacked(place: int) -> Attacked:
        fooled = clean_wrong or (index % 3 == 0 and classes > 1)
        noise = random.uniform(-0.1, 0.1, image.shape).astype(np.float32)
        return Attacked(
            image=image if clean_wrong else np.clip(image + noise, 0, 1),
            prediction=wrong if fooled else label,
            probabilities=probabilities(classes, wrong if fooled else label),
            fooled=fooled,
            attacked=not clean_wrong,
            margin=-0.4 if fooled else 0.4 + place,
            distance=0.1,
        )

    top = wrong if clean_wrong else label
    natural = Attacked(
        image=image,
        prediction=top,
        probabilities=probabilities(classes, top),
        fooled=clean_wrong,
        attacked=True,
        margin=0.4,
        distance=0.0,
    )
    return GalleryImage(
        index=index,
        label=label,
        image=image,
        natural=natural,
        attacks={name: attacked(k) for k, name in enumerate(attacks)},
    )


def gallery(
    *, images: int, classes: int, size: int = 8, channels: int = 1, attacks: Sequence[str]
) -> GalleryRecord:
    names = [f"class {k}" for k in range(classes)]
    names[0] = HARMFUL
    return GalleryRecord(
        class_names=names,
        norm="linf",
        epsilon=0.1,
        about=f"{images} of 360 images, drawn by class and outcome.",
        images=[gallery_image(k, classes, size, channels, attacks) for k in range(images)],
    )


def masking(place: int) -> Panel:
    checks = [
        Check(
            name="attack has converged",
            status="passed",
            sentence="More steps no longer help the attack.",
            value=-0.004,
            limit=0.01,
        ),
        Check(
            name="gradients beat noise",
            status="suspicious" if place == 2 else "passed",
            sentence="Gradients fool more images than noise.",
            value=0.13,
            limit=0.5,
        ),
        Check(
            name="PGD, CW, AutoAttack agree",
            status="failed" if place == 1 else "passed",
            sentence="Other attacks find much that PGD does not: report the worst case.",
            value=0.2 if place == 1 else 0.05,
            limit=0.07,
        ),
        Check(
            name="transfer",
            status="not run",
            sentence="Name a run: `lrat evaluate --transfer`.",
            value=None,
            limit=None,
        ),
    ]
    return Panel(checks=tuple(checks), n=256, threat="Linf(epsilon=0.2)")


def overlap(count: int = 3) -> OverlapRecord:
    return OverlapRecord(
        about="The 20 % most vulnerable of 1,437 training images by each view.",
        names=[f"V_{k}" for k in range(count)],
        jaccard=[[1.0 if a == b else 0.55 for b in range(count)] for a in range(count)],
        chance=[[1.0 if a == b else 0.111 for b in range(count)] for a in range(count)],
    )


def run(
    place: int,
    *,
    name: str | None = None,
    group: str = "g",
    data: str = "digits",
    attacks: Sequence[str] = ATTACKS,
    classes: int = 10,
    images: int = 8,
    size: int = 8,
    channels: int = 1,
    trained: int = 6,
) -> RunRecord:
    method = METHODS[place % len(METHODS)]
    name = name or f"{method}-seed-{place // len(METHODS)}"
    return RunRecord(
        name=name,
        folder=f"runs/{name}",
        method=method,
        state="evaluated",
        data=data,
        model="small-cnn",
        threat="linf:0.2",
        training_seed=place // len(METHODS),
        evaluations=[evaluation(place, group=group, data=data, attacks=attacks)],
        curves=[
            Curve(
                attack="apgd-ce",
                settings="APGD(steps=100)",
                norm="linf",
                max_epsilon=0.3,
                levels=3,
                seed=0,
                brackets=brackets(place),
                trained_epsilon=0.2,
            )
        ],
        epochs=range(1, trained + 1),
        accuracy=accuracy(trained),
        notices={2: ["The loss rose tenfold."]} if trained > 1 else {},
        selected_epoch=trained or None,
        overfitting=Overfitting(
            on="pgd-20 on 360 test images",
            best_epoch=max(trained - 2, 1),
            best=0.68,
            last=0.61,
            n=360,
            marked=True,
        )
        if place == 0 and trained
        else None,
        weights=[term_weights("pgd", trained)] if trained else [],
        overlap=[overlap()],
        masking=masking(place),
        gallery=gallery(
            images=images, classes=classes, size=size, channels=channels, attacks=attacks[1:]
        ),
        cost=Cost(
            passes={"attack forwards": 10.0 * (place + 1), "update forwards": 1.0},
            seconds=125.5,
            epochs=trained,
            images=1437,
            parameters=65000,
        ),
        config=f"method:\n  name: {method}\nthreat: linf:0.2\nseed: {place}\n",
        environment={"lrat": "0.1", "python": "3.11", "packages": {"numpy": "2.4"}},
        digests={"model.safetensors": "ab" * 32},
        commands=[f"lrat train {method} --data digits --out runs/{name}"],
        problems=["No transfer attack: `lrat evaluate --transfer` makes one."]
        if place == 1
        else [],
    )


def contrast(attack: str, apart: int) -> Contrast:
    """Of two runs so many ranks apart: from two on, chance does not explain it."""
    return Contrast(
        name=attack,
        a=share(0.6),
        b=share(0.6),
        difference=Difference(value=0.01 * apart, low=-0.02, high=0.05, n=360),
        only_a=10,
        only_b=10,
        p=0.0001 if apart > 1 else 0.31,
    )


def brackets(place: int) -> Brackets:
    """Of 100 images, 3 + ``place`` are wrong when clean, and each level fools 25 more."""
    image = np.arange(100)
    high = np.maximum(image - 3 - place + 25, 0) // 25
    return Brackets(index=image, label=0 * image, low=high - 1, high=high)


def group(
    runs: Sequence[RunRecord], key: str = "g", title: str = "digits, linf:0.2"
) -> GroupRecord:
    names = [each.name for each in runs]
    attacks = ["worst case", *(each.name for each in runs[0].evaluations[0].attacks)]
    pairs = [
        Pair(first, second, contrast(attack, names.index(second) - names.index(first)))
        for attack in attacks
        for first, second in combinations(names, 2)
    ]
    return GroupRecord(
        key=key,
        title=title,
        runs=names,
        pairs=pairs,
        sentences=[f"{names[0]} is best by worst case: 61.0 % of 360 images stand."],
        test="Exact McNemar tests on the same images, Holm over all pairs.",
    )


def report(
    runs: Sequence[RunRecord],
    groups: Sequence[GroupRecord] | None = None,
    *,
    problems: Sequence[str] = (),
    extra: Mapping[str, str] | None = None,
) -> ReportRecord:
    groups = [group(runs)] if groups is None else groups
    return ReportRecord(
        title=(extra or {}).get("title", "Robustness of runs on digits"),
        command="lrat report runs/* --out report.html",
        written="2026-03-01T12:00:00+00:00",
        version="0.1.0",
        summary=[
            "sat-seed-0 has the best worst case.",
            "It does not differ significantly from gairat.",
        ],
        groups=groups,
        runs=runs,
        problems=problems,
    )
