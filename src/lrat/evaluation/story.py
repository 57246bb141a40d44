"""Everything about one image: what each attack saw of the model, forward by forward."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lrat.attacks.base import Attack, Variant
from lrat.attacks.wrappers import Clean, Wrapped
from lrat.errors import DataError
from lrat.evaluation.evaluate import evaluate_suite
from lrat.evaluation.forward import classify
from lrat.evaluation.outcomes import NATURAL, Outcomes
from lrat.evaluation.suites import Suite
from lrat.losses import logit_margin
from lrat.outputs import in_float32, logits_of
from lrat.randomness import NoiseLike
from lrat.threat import Region
from lrat.types import Batch, Images, Labels

Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Path:
    """The way of one row that an attack sent through the model, T forwards long.

    ``forward`` [T]: the numbers of the attack's calls of the model, from 0; ``margin`` [T]: logit
    margin (Eq. 6) after each; ``prediction`` [T]: the class; ``inside`` [T]: whether the image that
    was sent lies in the region (FAB comes from outside). All as the attack saw them, that is
    through the view. Attacks that run several tries at once have a path for each of them; those
    that run them one after the other have them in one path.
    """

    forward: npt.NDArray[np.int64]
    margin: npt.NDArray[np.float32]
    prediction: npt.NDArray[np.int64]
    inside: npt.NDArray[np.bool_]
    label: int

    @property
    def failure(self) -> int | None:
        """The first forward that misclassified an image inside the region; None if none did."""
        wrong = np.flatnonzero((self.prediction != self.label) & self.inside)
        return int(self.forward[wrong[0]]) if len(wrong) else None


@dataclass(frozen=True, kw_only=True, eq=False)
class AttackStory:
    """What one attack did to the image.

    ``row``: its outcome. ``image`` [C H W]: what it returned; None where it did not run, because
    the image was wrong when clean or fooled by an earlier stage of the cascade. ``calls``: 2 where
    a success through the view was not confirmed and the attack ran again without it; ``paths`` are
    those of the last run.
    """

    name: str
    row: Outcomes
    image: Pixels | None
    paths: tuple[Path, ...]
    calls: int

    @property
    def failure(self) -> int | None:
        """The first failure of any path."""
        found = [path.failure for path in self.paths if path.failure is not None]
        return min(found) if found else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Story:
    """One image, its clean logits [K] (float32, the original model), and an entry per attack."""

    index: int
    label: int
    image: Pixels
    logits: npt.NDArray[np.float32]
    natural: Outcomes
    attacks: tuple[AttackStory, ...]

    @property
    def probabilities(self) -> npt.NDArray[np.float64]:
        """[K]: softmax of the clean logits."""
        logits = self.logits.astype(np.float64)
        powers = np.exp(logits - logits.max())
        shares: npt.NDArray[np.float64] = powers / powers.sum()
        return shares


def tell_story(
    model: nn.Module,
    batch: Batch,
    suite: Suite,
    *,
    view: nn.Module | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Story:
    """Run ``suite`` on the one image of ``batch`` as ``evaluate_suite`` does, and watch.

    The noise is the evaluation's: from seed, image and attack alone, so that the verdicts are those
    of an evaluation that held the image among others, up to float32's last bits. Works for any
    attack, also a foreign one; of a model that an attack calls past ``nn.Module.__call__`` nothing
    is seen.
    """
    if len(batch) != 1:
        raise DataError(f"a story is about one image, not {len(batch)}")
    label = int(batch.labels[0])
    watched = {
        step.name: _Watched(
            attack=step.attack, region=suite.threat, center=batch.images.cpu().float()
        )
        for step in suite.steps
    }
    members = tuple(replace(step, attack=watched[step.name]) for step in suite.steps)
    result = evaluate_suite(
        model, [batch], replace(suite, members=members), view=view, seed=seed, device=device
    )
    place = batch if device is None else batch.to(device)
    logits = classify(model, place.images, batch.index.cpu().numpy(), NATURAL)
    return Story(
        index=int(batch.index[0]),
        label=label,
        image=_pixels(batch.images),
        logits=logits[0].cpu().numpy(),
        natural=result.outcomes.under(NATURAL),
        attacks=tuple(
            AttackStory(
                name=name,
                row=result.outcomes.under(name),
                image=_pixels(seen.returned[-1]) if seen.returned else None,
                paths=seen.recorders[-1].paths(label) if seen.recorders else (),
                calls=len(seen.recorders),
            )
            for name, seen in watched.items()
        ),
    )


def _pixels(images: Tensor) -> Pixels:
    return images[0].detach().float().cpu().numpy()


@dataclass(frozen=True, kw_only=True)
class _Watched(Wrapped):
    """An attack as it is, with a record of what it returned and of the model's answers."""

    attack: Attack
    region: Region
    center: Tensor
    returned: list[Tensor] = field(default_factory=list)
    recorders: list["_Recorder"] = field(default_factory=list)

    def __repr__(self) -> str:
        return repr(self.attack)

    def run(
        self, model: nn.Module, images: Images, labels: Labels, noise: NoiseLike, clean: Clean
    ) -> Variant:
        recorder = _Recorder(self.region, self.center)
        self.recorders.append(recorder)
        with recorder.watching(model):
            variant = self.attack(model, images, labels, noise=noise, clean_logits=clean)
        self.returned.append(variant.images.detach())
        return variant


@dataclass
class _Row:
    """A path while it grows; ``last``: the image that was sent last, flat."""

    last: Tensor
    forward: list[int]
    logits: list[Tensor]
    inside: list[bool]


class _Recorder:
    """Follows rows through the calls of a module, by a hook: the attack meets the module itself.

    Rows keep their places from call to call. Where their number changes, each takes up the path
    whose last image is nearest to it; a row for which there is none begins one.
    """

    def __init__(self, region: Region, center: Tensor) -> None:
        self._region = region
        self._center = center
        self._rows: list[_Row] = []
        self._order: list[int] = []
        self._calls = 0
        self._sent = center[:0]

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        with (
            model.register_forward_pre_hook(self._take, with_kwargs=True),
            model.register_forward_hook(self._note, with_kwargs=True),
        ):
            yield

    def paths(self, label: int) -> tuple[Path, ...]:
        return tuple(self._path(row, label) for row in self._rows)

    def _path(self, row: _Row, label: int) -> Path:
        logits = torch.stack(row.logits)
        labels = torch.full((len(logits),), label)
        return Path(
            forward=np.array(row.forward, dtype=np.int64),
            margin=logit_margin(logits, labels).numpy(),
            prediction=logits.argmax(1).numpy(),
            inside=np.array(row.inside, dtype=bool),
            label=label,
        )

    @torch.no_grad()
    def _take(self, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        # Before the forward: a model may write into its images.
        sent = given[0] if given else next(iter(named.values()))
        self._sent = sent.detach().float().cpu().clone()

    @torch.no_grad()
    def _note(
        self, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: object
    ) -> None:
        images = self._sent
        # Copies: a replayed graph writes its next answer into the same memory.
        logits = in_float32(logits_of(output, len(images)).detach()).cpu().clone()
        inside = self._inside(images)
        images = images.flatten(1)
        if len(images) != len(self._order):
            self._order = self._matched(images)
        for place, number in enumerate(self._order):
            row = self._rows[number]
            row.last = images[place]
            row.forward.append(self._calls)
            row.logits.append(logits[place])
            row.inside.append(inside[place])
        self._calls += 1

    def _inside(self, images: Tensor) -> list[bool]:
        """For each row; none is where an attack sends images of another size."""
        if images.shape[1:] != self._center.shape[1:]:
            return [False] * len(images)
        excess = self._region.violation(images, self._center.expand_as(images))
        return [bool(each <= self._region.tolerance) for each in excess]

    def _matched(self, images: Tensor) -> list[int]:
        """The path of each row; nearest pairs first, every path once."""
        order = [-1] * len(images)
        if self._rows:
            known = torch.stack([row.last for row in self._rows])
            gaps = torch.cdist(images, known)
            for pair in gaps.flatten().argsort(stable=True).tolist():
                place, number = divmod(pair, len(known))
                if order[place] < 0 and number not in order:
                    order[place] = number
        for place, number in enumerate(order):
            if number < 0:
                order[place] = len(self._rows)
                self._rows.append(_Row(last=images[place], forward=[], logits=[], inside=[]))
        return order
