"""What a run measures while it trains, each process its share."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from lrat.acceleration import View
from lrat.config.settings import RunConfig
from lrat.data import ImageData, Splits, in_order, stratified_subset
from lrat.data.scale import SCALE_WORDS
from lrat.distributed.group import Alone, Crew
from lrat.errors import ConfigurationError
from lrat.evaluation import Suite, evaluate_suite
from lrat.runs import suites
from lrat.threat import Ball, as_ball
from lrat.training import Progress, Watch
from lrat.training.guards import Guards, ImageScale, Measured, Probe, probe_size, standard_guards
from lrat.training.watch import Measure, Silent, Tracker

CLEAN_SUBSET = 512
_BATCH = 256


def accuracy_measure(
    data: ImageData,
    suite: Suite,
    *,
    seed: int,
    view: nn.Module,
    device: torch.device,
    crew: Crew | None = None,
) -> Callable[[nn.Module], Mapping[str, float]]:
    """A measure for training to call: accuracy on ``data``, natural and under each attack.

    ``view``: what attacks see, refreshed from the model at each call. Each process of ``crew``
    takes every n-th image; all know the accuracy on all of them. The model is not looked at again:
    that was done before the run.
    """
    crew = Alone() if crew is None else crew
    alone = len(data) < crew.size  # then each takes all
    own = (
        data if alone else data.select(torch.arange(crew.rank, len(data), crew.size, device="cpu"))
    )

    def measure(model: nn.Module) -> Mapping[str, float]:
        if isinstance(view, View):
            view.refresh()
        batches = in_order(own, batch_size=_BATCH, device=device)
        result = evaluate_suite(
            model, batches, suite, seed=seed, view=view, device=device, known_notes=()
        )
        found = {name: share.value for name, share in result.accuracy.items()}
        if alone or crew.size == 1:
            return found
        right = [round(value * len(own)) for value in found.values()]
        counts = torch.tensor(right, dtype=torch.float64, device=device)
        total = crew.gather(counts).sum(0) / len(data)
        return dict(zip(found, total.tolist(), strict=True))

    return measure


def selection_key(config: RunConfig) -> str:
    """The name of the attack by whose accuracy on held-out images an epoch is selected."""
    return f"pgd-{config.training.validation_steps}"


def guards(
    *,
    validation: Measured | None,
    selects: bool,
    images: ImageData,
    threat: Ball,
    view: nn.Module,
    device: torch.device,
    seed: int,
    clean: ImageData,
    notes: Sequence[str],
) -> tuple[Guards, Measure | None]:
    """What looks after a run, and the probe that it needs where no held-out images are attacked.

    ``images``: those that are trained on; ``view``: what attacks see; ``clean``: the images whose
    clean accuracy is recorded; ``notes``: what was said before the run.
    """
    probe = None
    if validation is None:
        some = stratified_subset(images, probe_size(len(images)), seed=0)
        probe = Probe(
            batches=tuple(in_order(some, batch_size=_BATCH, device=device)),
            threat=threat,
            view=view,
            seed=seed,
        )
    measured = None if probe is None else probe.measured
    found = standard_guards(
        validation=validation,
        selects=selects,
        probe=measured,
        largest_class=float(clean.labels.bincount().max()) / len(clean),
        clean_images=len(clean),
        said=[ImageScale.name] if any(SCALE_WORDS in note for note in notes) else [],
    )
    return found, probe


def watch(
    config: RunConfig,
    splits: Splits,
    view: nn.Module,
    device: torch.device,
    *,
    crew: Crew,
    progress: Progress | None,
    trackers: Sequence[Tracker] = (),
    notes: tuple[str, ...] = (),
) -> Watch:
    """What the run looks at while it trains, and what looks after it.

    ``notes``: what a look at the model found before the run.
    """
    ball = as_ball(config.threat)
    training, validation = config.training, splits.validation
    if training.selection == "robust" and validation is None:
        raise ConfigurationError(
            "training.selection=robust needs held-out images: set data.validation above 0, or "
            "training.selection=last"
        )
    subset = stratified_subset(splits.training(), CLEAN_SUBSET, seed=0)

    def accuracy(data: ImageData, *attacks: str) -> Callable[[nn.Module], Mapping[str, float]]:
        suite = suites.attacks_as_suite(attacks, ball)
        seed = config.seed
        return accuracy_measure(data, suite, seed=seed, view=view, device=device, crew=crew)

    validate = None if validation is None else accuracy(validation, selection_key(config))
    monitor = None
    if training.monitor.attacks:
        watched = splits.test if training.monitor.split == "test" else validation
        if watched is None:
            raise ConfigurationError("training.monitor.split=validation: data.validation is 0")
        watched = stratified_subset(watched, training.monitor.limit, seed=0)
        monitor = accuracy(watched, *training.monitor.attacks)
    watching, probe = None, None
    if training.guards:
        held = None if validation is None else len(validation)
        watching, probe = guards(
            validation=None if held is None else Measured(name=selection_key(config), images=held),
            selects=training.selection == "robust",
            images=splits.training(),
            threat=ball,
            view=view,
            device=device,
            seed=config.seed,
            clean=subset,
            notes=notes,
        )
    return Watch(
        clean=tuple(in_order(subset, batch_size=_BATCH, device=device)),
        validate=validate,
        select_by=selection_key(config) if training.selection == "robust" else None,
        monitor=monitor,
        monitor_every=training.monitor.every,
        probe=probe,
        guards=watching,
        trackers=trackers,
        progress=progress or Silent(),
        notes=notes,
    )
