"""AutoAttack by lrat beside pyautoattack, on models that lrat trained: verdicts, time, passes.

    python benchmarks/evaluation.py RUN [RUN ...] [--images 1000] [--block 250] [--chunk 128]
                                    [--parity] [--only TEXT] [--skip TEXT] --state FOLDER
                                    [--out FILE.md]

For each run folder (its data where its config.yaml says), block by block and in turns: the whole of
AutoAttack by pyautoattack 0.2.0, and by lrat with keyed noise through the plain model, the float32
view and the bfloat16 view. Seconds are processor seconds of one thread, which other work on the
machine does not count into. ``--parity``: instead, all images at once with sequential noise through
the plain model, each attack alone and the whole, verdict by verdict. What is done is kept in
``--state`` and not done again.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evaluation_table import render
from lrat.acceleration import Choices, FastView
from lrat.attacks import AutoAttack
from lrat.data import stratified_subset
from lrat.evaluation import custom, evaluate_suite
from lrat.files.write import write_json, write_text
from lrat.hooks import PassCounter
from lrat.runs.sources import ModelSource
from lrat.threat import Ball
from lrat.types import Batch
from measuring import say

STAGES = ("apgd-ce", "apgd-t", "fab-t", "square")
VIEWS = {
    "lrat, plain model": None,
    "lrat, float32 view": Choices(channels_last=True),
    "lrat, bfloat16 view": Choices(channels_last=True, precision="bfloat16"),
}
PEER = "pyautoattack"


@dataclass(frozen=True, kw_only=True)
class Subject:
    name: str
    model: nn.Module
    ball: Ball
    batch: Batch


def subject(run: Path, images: int) -> Subject:
    opened = ModelSource(run=run).load()
    config = opened.config
    test = stratified_subset(opened.images, images, seed=0)
    return Subject(
        name=f"{config.model.name} width {config.model.width}, {config.data.name}, "
        f"{config.method.name}, {opened.threat.text}",
        model=opened.network.eval(),
        ball=opened.threat,
        batch=test.batch(torch.arange(len(test))),
    )


def by_peer(
    found: Subject, images: Tensor, labels: Tensor, stages: tuple[str, ...], chunk: int
) -> dict[str, Any]:
    """pyautoattack's stages one after the other on what is left, as its cascade does."""
    from pyautoattack import AutoAttack as Peer

    stands = torch.cat([found.model(part).argmax(1) for part in images.split(chunk)]) == labels
    told: dict[str, Any] = {}
    for stage in stages:
        peer = Peer(
            found.model,
            norm="Linf",
            eps=found.ball.epsilon,
            seed=0,
            version="standard",
            device="cpu",
        )
        peer.attacks_to_run = [stage]
        peer.verbose = False
        left = stands.nonzero().flatten()
        with PassCounter(found.model) as counted, torch.random.fork_rng(devices=[]):
            started = time.process_time()
            if len(left):
                made, _ = peer.run_standard_evaluation(images[left], labels[left], batch_size=chunk)
                after = torch.cat([found.model(part).argmax(1) for part in made.split(chunk)])
                stands[left] = after == labels[left]
            seconds = time.process_time() - started
        told[stage] = {
            "seconds": seconds,
            "forwards": counted.forwards,
            "backwards": counted.backwards,
            "stands": stands.tolist(),
        }
    return told


def by_us(
    found: Subject,
    images: Tensor,
    labels: Tensor,
    stages: tuple[str, ...],
    chunk: int,
    view: nn.Module,
    noise: str,
) -> dict[str, Any]:
    """The same stages as a cascade of lrat's evaluation."""
    whole = AutoAttack(threat=found.ball)
    members = {name: whole.members[name] for name in stages}
    suite = custom(found.ball, {"aa": type(whole)(members=members)})
    seconds = dict.fromkeys(["natural", *stages], 0.0)
    last = time.process_time()

    def clock(progress: Any) -> None:
        nonlocal last
        now = time.process_time()
        seconds[progress.attack.removeprefix("aa.")] += now - last
        last = now

    result = evaluate_suite(
        found.model,
        [Batch(images=images, labels=labels, index=torch.arange(len(labels)))],
        suite,
        view=view,
        chunk=chunk,
        noise=noise,  # type: ignore[arg-type]
        on_progress=clock,
    )
    told = {}
    for stage in stages:
        rows = result.outcomes.under(f"aa.{stage}").at(result.index)
        told[stage] = {
            "seconds": seconds[stage],
            "forwards": float(rows.forwards.sum()),
            "backwards": float(rows.backwards.sum()),
            "stands": (~rows.fooled).tolist(),
        }
    told[stages[0]]["seconds"] += seconds["natural"]
    return told


def pass_seconds(view: nn.Module, images: Tensor) -> dict[str, float]:
    """Processor seconds per image of a forward alone and of a forward with the image's gradient."""
    best = {"forward": float("inf"), "pass": float("inf")}
    for _ in range(4):
        started = time.process_time()
        with torch.no_grad():
            view(images)
        best["forward"] = min(best["forward"], (time.process_time() - started) / len(images))
        leaf = images.clone().requires_grad_()
        started = time.process_time()
        torch.autograd.grad(view(leaf).sum(), leaf)
        best["pass"] = min(best["pass"], (time.process_time() - started) / len(images))
    return best


def speed(found: Subject, block: int, chunk: int, state: Path, skip: str) -> list[Path]:
    """A file per block and contestant; those that are there are not made again."""
    paths = []
    views: dict[str, nn.Module] = {
        name: found.model if choices is None else FastView(found.model, choices)
        for name, choices in VIEWS.items()
    }
    contestants = [name for name in (PEER, *VIEWS) if not skip or skip not in name]
    for number, rows in enumerate(torch.arange(len(found.batch)).split(block)):
        images, labels = found.batch.images[rows], found.batch.labels[rows]
        shift = number % len(contestants)
        for name in contestants[shift:] + contestants[:shift]:
            path = state / f"{slug(found.name)}-{slug(name)}-{number}.json"
            paths.append(path)
            if path.exists():
                continue
            if name == PEER:
                passes = pass_seconds(found.model, images[:chunk])
                told = by_peer(found, images, labels, STAGES, chunk)
            else:
                passes = pass_seconds(views[name], images[:chunk])
                told = by_us(found, images, labels, STAGES, chunk, views[name], "keyed")
            about = {"subject": found.name, "who": name, "block": number, "images": len(rows)}
            write_json(path, {**about, "passes": passes, "stages": told})
            spent = sum(stage["seconds"] for stage in told.values())
            say(f"{found.name}: block {number}, {name}: {spent:.0f} s")
    return paths


def parity(found: Subject, chunk: int, state: Path, only: str) -> list[Path]:
    """Verdicts with sequential noise, each attack alone and the whole."""
    paths = []
    images, labels = found.batch.images, found.batch.labels
    for stages in (*((stage,) for stage in STAGES), STAGES):
        what = stages[0] if len(stages) == 1 else "whole"
        if only not in what:
            continue
        path = state / f"parity-{slug(found.name)}-{what}.json"
        paths.append(path)
        if path.exists():
            continue
        theirs = by_peer(found, images, labels, stages, chunk)
        ours = by_us(found, images, labels, stages, chunk, found.model, "sequential")
        about = {"subject": found.name, "what": what, "images": len(labels)}
        write_json(path, {**about, "theirs": theirs, "ours": ours})
        same = [
            a == b for a, b in zip(*(s[stages[-1]]["stands"] for s in (theirs, ours)), strict=True)
        ]
        say(f"{found.name}: {what}: {sum(same)} of {len(same)} verdicts equal")
    return paths


def slug(text: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in text)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--block", type=int, default=250)
    parser.add_argument("--chunk", type=int, default=128)
    parser.add_argument("--parity", action="store_true")
    parser.add_argument("--only", default="", help="with --parity: attacks with this text alone")
    parser.add_argument("--skip", default="", help="leave out contestants with this text")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.state.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for run in options.runs:
        found = subject(run, options.images)
        if options.parity:
            paths += parity(found, options.chunk, options.state, options.only)
        else:
            paths += speed(found, options.block, options.chunk, options.state, options.skip)
    text = render([json.loads(path.read_text()) for path in paths], options.chunk)
    print(text)
    if options.out is not None:
        write_text(options.out, text)


if __name__ == "__main__":
    main()
