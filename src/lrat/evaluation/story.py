"""The attacks on one image, forward by forward."""

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
    """The path of one row of an attack through T forwards of the model.

    ``forward`` [T]: the numbers of the attack's calls of the model, from 0; ``margin`` [T]: logit
    margin (Eq. 6) after each; ``prediction`` [T]: the class; ``inside`` [T]: whether the image lies
    in the region (FAB approaches it from outside). All values are those of the attack's view.
    Attacks that run several tries at once have a path for each of them; those that run them one
    after the other have them in one path.
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
    """One attack on the image.

    ``row``: its outcome. ``image`` [C H W]: the returned image; None where the attack did not run,
    because the image was wrong when clean or fooled by an earlier stage of the cascade. ``calls``:
    2 where the model did not confirm a success against the view, so that the attack ran again
    without it; ``paths`` are those of the last run.
    """

    name: str
    row: Outcomes
    image: Pixels | None
    paths: tuple[Path, ...]
    calls: int

    @property
    def failure(self) -> int | None:
        """The first failure of any path."""
        return min((each.failure for each in self.paths if each.failure is not None), default=None)


@dataclass(frozen=True, kw_only=True, eq=False)
class Story:
    """One image, its clean logits [K] (float32, the original model), and its attacks."""

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
    """Run ``suite`` on the one image of ``batch`` as ``evaluate_suite`` does, with a record.

    The noise follows from seed, image and attack alone, so the verdicts are those of an evaluation
    of many images, up to float32's last bits. This works for any attack, also a user's; calls of
    ``model.forward`` instead of the model itself are not recorded.
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
    moved = batch if device is None else batch.to(device)
    logits = classify(model, moved.images, batch.index.cpu().numpy(), NATURAL)
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
                image=_pixels(each.returned[-1]) if each.returned else None,
                paths=each.recorders[-1].paths(label) if each.recorders else (),
                calls=len(each.recorders),
            )
            for name, each in watched.items()
        ),
    )


def _pixels(images: Tensor) -> Pixels:
    return images[0].detach().float().cpu().numpy()


@dataclass(frozen=True, kw_only=True)
class _Watched(Wrapped):
    """An attack with a record of its returned images and of the model's logits."""

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
    """A path so far; ``last``: its latest image, flat."""

    last: Tensor
    forward: list[int]
    logits: list[Tensor]
    inside: list[bool]


class _Recorder:
    """Follows rows through the calls of a module, by hooks.

    Rows keep their positions from call to call. Where their number changes, each row continues the
    path whose last image is nearest to it; a row without a path starts one.
    """

    def __init__(self, region: Region, center: Tensor) -> None:
        self._region = region
        self._center = center
        self._rows: list[_Row] = []
        self._order: list[int] = []
        self._calls = 0
        self._images = center[:0]

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
    def _take(self, module: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        # Before the forward, since a model may write into its images.
        images = positional[0] if positional else next(iter(named.values()))
        self._images = images.detach().float().cpu().clone()

    @torch.no_grad()
    def _note(
        self, module: nn.Module, positional: tuple[Any, ...], named: dict[str, Any], output: object
    ) -> None:
        images = self._images
        # A copy, since a replayed graph writes its next output into the same memory.
        logits = in_float32(logits_of(output, len(images)).detach()).cpu().clone()
        inside = self._inside(images)
        images = images.flatten(1)
        if len(images) != len(self._order):
            self._order = self._matched(images)
        for position, number in enumerate(self._order):
            row = self._rows[number]
            row.last = images[position]
            row.forward.append(self._calls)
            row.logits.append(logits[position])
            row.inside.append(inside[position])
        self._calls += 1

    def _inside(self, images: Tensor) -> list[bool]:
        """Whether each row lies in the region; images of another size do not."""
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
                position, number = divmod(pair, len(known))
                if order[position] < 0 and number not in order:
                    order[position] = number
        for position, number in enumerate(order):
            if number < 0:
                order[position] = len(self._rows)
                self._rows.append(_Row(last=images[position], forward=[], logits=[], inside=[]))
        return order
