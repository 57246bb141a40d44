"""The evaluation of a model by a suite, which decides whether an image is fooled."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, get_args, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lrat.attacks.protection import noting_changes
from lrat.checks import MODULE, checked, instance, one_of
from lrat.errors import DataError, SettingError
from lrat.evaluation.examination import in_train_mode
from lrat.evaluation.outcomes import Outcomes
from lrat.evaluation.result import EvaluationResult
from lrat.evaluation.runner import NoiseKind, SuiteRunner
from lrat.evaluation.storage.gallery import Gallery
from lrat.evaluation.storage.store import Identity, OutcomeStore
from lrat.evaluation.suites import Suite, describe_threat
from lrat.evaluation.time_limit import NothingFinishedError, OutOfTimeError, growing
from lrat.hardware import device_of
from lrat.modes import evaluating, usual_autograd
from lrat.randomness import random_state_kept
from lrat.types import Batch


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The progress of an evaluation: ``done`` images finished under ``attack``, ``robust`` of them.

    ``total``: the number of images, None where the batches have no ``size``.
    """

    attack: str
    done: int
    robust: int
    total: int | None = None


@runtime_checkable
class _Sized(Protocol):
    """Batches with the number of their images, or None."""

    @property
    def size(self) -> int | None: ...


@usual_autograd()
@random_state_kept()
@checked(
    suite=instance(Suite, need="a Suite", example="quick('linf:8/255')"),
    noise=one_of(get_args(NoiseKind)),
    view=MODULE,
)
def evaluate_suite(
    model: nn.Module,
    batches: Iterable[Batch],
    suite: Suite,
    *,
    seed: int = 0,
    view: nn.Module | None = None,
    folder: Path | None = None,
    identity: Mapping[str, str] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    device: torch.device | str | None = None,
    chunk: int | None = None,
    noise: NoiseKind = "keyed",
    seconds: float | None = None,
    keep_images: bool = False,
    gallery: Gallery | None = None,
    is_part: bool = False,
    whole: npt.NDArray[np.int64] | None = None,
    known_notes: tuple[str, ...] | None = None,
) -> EvaluationResult:
    """Attack the images of ``batches`` with every member of ``suite``; the outcome of each image.

    An image that is wrong when clean counts as not robust and is not attacked, since the clean
    image lies in the region. Every member attacks all other images, independently of the other
    members (a cascade's stages attack the images that earlier stages did not fool), with noise from
    (seed, image index, member name) alone, so verdicts do not depend on how the data are split into
    batches. An image counts as fooled only after a float32, eval-mode forward of ``model`` on the
    returned image, which must lie in the suite's region.

    ``view``: the model that attacks use instead of ``model`` (an accelerated one); ``model`` gives
    the verdicts, and an image that fools the view alone is attacked again without it. ``device``:
    that of the images, by default the model's; the model is not moved. ``on_progress`` is called
    after each chunk of each attack, with the number of images if ``batches`` have a ``size``.

    ``chunk``: the number of images that an attack gets at once, by default a batch; with batches of
    several chunks the images that a cascade's stage did not fool fill the chunks of the next.
    ``noise``: ``"sequential"`` draws from one generator, seeded again for each attack and chunk, as
    AutoAttack does; all images are then one block, and results depend on ``chunk``.

    ``seconds``: the time limit; the result covers the images that are done with every attack, so
    batches should be in random order; they are divided so that the first images are done soon (see
    ``time_limit``). ``keep_images``: write the returned images beside the outcomes, as safetensors.
    ``gallery``: a few images to keep in ``folder`` with the results of every attack (see
    ``gallery``), which changes no outcome. ``is_part``: the images are some of those of a larger
    evaluation in the same folder, so no summary is written. ``whole``: the numbers of all images
    that the folder is to hold in the end, by which joining parts knows the missing ones.
    ``known_notes``: the notes of an earlier examination; None examines the model with the first
    batch (see ``examination``). The result's ``notes`` describe its problems.

    With ``folder``, each chunk of each attack is written when done, and the same call continues
    from there, also with other batches. ``identity`` guards that folder: strings that name the
    model (its digest) and under ``data`` the data set (before any limit on the number of images);
    suite, threat, attacks and seed are added here.

    Raises ``RegionViolationError`` (attack, image, excess), ``NonFiniteError`` (attack, image),
    ``ModelError``, ``DataError``, ``SettingError``, and ``RunFolderError`` for a folder of another
    identity. The modes of the model's modules are as before, also after an error.
    """
    if noise == "sequential" and (seconds is not None or is_part):
        raise SettingError(
            "sequential noise depends on all images at once: leave out the part and the time"
        )
    deadline = None if seconds is None else time.monotonic() + seconds
    full_identity, store = begin(
        suite,
        seed=seed,
        folder=folder,
        identity=identity,
        noise=noise,
        chunk=chunk,
        keep_images=keep_images,
        gallery=gallery,
        whole=whole,
    )
    total = batches.size if isinstance(batches, _Sized) else None
    run = SuiteRunner(
        model=model,
        view=model if view is None else view,
        suite=suite,
        seed=seed,
        noise=noise,
        chunk=chunk,
        store=store,
        device=device_of(model) if device is None else torch.device(device),
        deadline=deadline,
        known_notes=known_notes,
        notes=in_train_mode(model) if known_notes is None else (),
        report=_Tally(suite, total, on_progress),
    )
    done: list[Outcomes] = []
    seen: set[int] = set()
    stopped = False
    with evaluating(model), evaluating(run.view), noting_changes() as run.changes:
        blocks = _blocks(batches, noise)
        if seconds is not None:
            blocks = growing(blocks, seconds, lambda: run.attacked)
        for batch in blocks:
            _note_images(batch, seen)
            try:
                done.append(run.block(batch))
            except OutOfTimeError:
                stopped = True
                break
    if not seen:
        raise DataError("there are no images to evaluate: the data source is empty")
    if not done:
        raise NothingFinishedError.within(seconds or 0)
    notes = tuple(dict.fromkeys((*store.notes, *run.notes)))
    result = EvaluationResult(
        outcomes=Outcomes.concatenate(done).arranged(suite.names),
        identity=full_identity,
        notes=notes,
    )
    if stopped:
        count, of = len(result.index), "" if total is None else f" of {total}"
        return replace(
            result,
            notes=(
                *notes,
                f"stopped after {seconds:g} s with {count}{of} images; intervals are "
                "for these, the same command continues",
            ),
        )
    if not is_part:
        store.finish(result.summary(), result.index)
    return result


def begin(
    suite: Suite,
    *,
    seed: int = 0,
    folder: Path | None = None,
    identity: Mapping[str, str] | None = None,
    noise: NoiseKind = "keyed",
    chunk: int | None = None,
    keep_images: bool = False,
    gallery: Gallery | None = None,
    whole: npt.NDArray[np.int64] | None = None,
) -> tuple[Identity, OutcomeStore]:
    """Begin or continue ``folder`` with its full identity, the first step of ``evaluate_suite``.

    One of several processes calls it before the others start. ``RunFolderError`` as there.
    """
    settings: dict[str, str] = (
        {} if noise == "keyed" else {"noise": f"{noise}, {chunk or 'all'} at once"}
    )
    settings |= {"images": "kept"} if keep_images else {}
    full_identity = _identity(suite, seed, {**(identity or {}), **settings})
    store = OutcomeStore.open(folder, full_identity, keep_images=keep_images, gallery=gallery)
    if whole is not None:
        store.expect(whole)
    return full_identity, store


@dataclass
class _Tally:
    """Adds up the rows of chunks and reports the sums."""

    suite: Suite
    total: int | None
    on_progress: Callable[[Progress], None] | None

    def __post_init__(self) -> None:
        self._sums = {name: [0, 0] for name in self.suite.names}

    def __call__(self, rows: Outcomes) -> None:
        if self.on_progress is None or not len(rows):
            return
        name = str(rows.attack[0])
        sums = self._sums[name]
        sums[0] += len(rows)
        sums[1] += int((~rows.fooled).sum())
        self.on_progress(Progress(attack=name, done=sums[0], robust=sums[1], total=self.total))


def _blocks(batches: Iterable[Batch], noise: NoiseKind) -> Iterator[Batch]:
    """The batches that are not empty; for sequential noise all of them as one."""
    filled = (batch for batch in batches if len(batch))
    if noise == "keyed":
        yield from filled
    elif parts := list(filled):
        yield Batch.concatenate(parts)


def _identity(suite: Suite, seed: int, extra: Mapping[str, str]) -> Identity:
    settings: Identity = {
        "suite": suite.name,
        "threat": describe_threat(suite.threat),
        "tolerance": suite.threat.tolerance,
        "seed": seed,
        "attacks": {step.name: step.description for step in suite.steps},
    }
    if suite.cascades:
        settings["cascades"] = {name: list(stages) for name, stages in suite.cascades.items()}
    taken = sorted(settings.keys() & extra.keys())
    if taken:
        raise SettingError(f"identity holds {', '.join(taken)}, which the evaluation adds itself")
    return {**settings, **extra}


def _note_images(batch: Batch, seen: set[int]) -> None:
    numbers = batch.index.tolist()
    twice = next((number for number in numbers if number in seen), None)
    seen.update(numbers)
    if twice is not None or len(set(numbers)) < len(numbers):
        which = "an image" if twice is None else f"image {twice}"
        raise DataError(f"{which} came twice: every image needs another index")
