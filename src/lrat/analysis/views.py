"""The vulnerability of an image by each attack: V_GD, V_PGD (Eq. 5) and V_CW (Eq. 6)."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lrat.attacks import Attack
from lrat.errors import RegionViolationError, SettingError
from lrat.files.write import Columns as Columns  # noqa: PLC0414 - exported from here too
from lrat.losses import logit_margin, probability_margin
from lrat.randomness import Keyed, keys
from lrat.threat import Ball
from lrat.types import Batch

Answers: TypeAlias = Callable[[Tensor, npt.NDArray[np.int64], str], Tensor]
"""(images [B C H W], their numbers [B], the name of the attack) -> float32 logits [B K] of the
original model in eval mode, for all measures."""

VIEWS = ("v_gd", "v_pgd", "v_cw")
"""The three views; smaller is more vulnerable in each."""
AGAIN = "_again"
"""The suffix of the columns of attacks from other starts."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """An attack with the name of its columns; ``stream`` names its noise.

    Attacks of one stream start from the same points.
    """

    name: str
    attack: Attack
    stream: str = "view"


def looks(pgd: Attack, cw: Attack, *, again: bool = False, saa: Attack | None = None) -> list[Look]:
    """The attacks of the three views; ``again`` repeats both from other starts.

    The repetition shows how much of a disagreement between views is due to the random starts.
    ``saa`` adds its margins. Raises ``SettingError`` where PGD does not count the steps survived.
    """
    if "steps_survived" not in pgd.provides:
        raise SettingError(f"{pgd!r} does not count the steps that an image survives: use PGD")
    attacks = [Look(name="pgd", attack=pgd), Look(name="cw", attack=cw)]
    if again:
        attacks += [
            Look(name=f"{look.name}{AGAIN}", attack=look.attack, stream="again") for look in attacks
        ]
    if saa is not None:
        attacks.append(Look(name="saa", attack=saa))
    return attacks


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The measures of some images, a row each, and the seconds that the attacks took."""

    columns: Columns
    attack_seconds: float


def look_at(
    batch: Batch,
    attacks: Sequence[Look],
    *,
    view: nn.Module,
    answers: Answers,
    threat: Ball,
    seed: int,
) -> Seen:
    """Attack ``batch`` by all ``attacks`` and measure the results on all images, right or wrong.

    Columns [B]: ``index``, ``label``, ``correct`` (when clean), ``v_gd`` (kappa: PGD's iterates
    x_0 ... x_(K-1) that ``view`` classified correctly, 0..K), ``v_pgd`` (p_y after PGD, Eq. 5),
    ``v_cw`` (logit margin after CW, Eq. 6), the logit margin ``margin_NAME`` (Eq. 6) and the
    probability margin ``t_NAME`` (Eq. 11) of the clean image and after each attack, and the views
    of repeated attacks, ``_again``. ``view``: the attack's view of the model, in eval mode;
    ``answers`` measures. Noise follows from (seed, index, stream). Raises ``RegionViolationError``
    and the exceptions of ``answers``.
    """
    index = batch.index.cpu().numpy()
    labels = batch.labels
    noise = Keyed(keys(seed, batch.index))
    clean = answers(batch.images, index, "natural")
    columns: Columns = {
        "index": index,
        "label": labels.cpu().numpy(),
        "correct": (clean.argmax(1) == labels).cpu().numpy(),
    }
    measured: Columns = _margins("clean", clean, labels)
    seconds = 0.0
    for look in attacks:
        began = time.perf_counter()
        variant = look.attack(
            view, batch.images, labels, noise=noise.child(look.stream), clean_logits=clean
        )
        excess = float(threat.violation(variant.images, batch.images).amax())  # waits for a GPU
        seconds += time.perf_counter() - began
        if not excess <= threat.tolerance:
            raise RegionViolationError(f"{look.name} left {threat} by {excess:.2e}")
        logits = answers(variant.images, index, look.name)
        measured |= _margins(look.name, logits, labels)
        columns |= _views(look.name, logits, labels, variant.steps_survived)
    return Seen(columns=_ordered({**columns, **measured}), attack_seconds=seconds)


def joined(parts: Sequence[Columns]) -> Columns:
    """The rows of all parts in ascending order of the images' numbers; at least one part."""
    names = list(parts[0])
    whole = {name: np.concatenate([part[name] for part in parts]) for name in names}
    order = np.argsort(whole["index"], kind="stable")
    return {name: values[order] for name, values in whole.items()}


def names_of(attacks: Sequence[Look]) -> list[str]:
    """The names of the columns of ``look_at``, in their order."""
    names = ["index", "label", "correct"]
    for look in attacks:
        stem, again, _ = look.name.partition(AGAIN)
        names += {"pgd": [f"v_gd{again}", f"v_pgd{again}"], "cw": [f"v_cw{again}"]}.get(stem, [])
    for kind in ("margin", "t"):
        names += [f"{kind}_{name}" for name in ("clean", *(look.name for look in attacks))]
    return names


def _margins(name: str, logits: Tensor, labels: Tensor) -> Columns:
    return {
        f"margin_{name}": logit_margin(logits, labels).float().cpu().numpy(),
        f"t_{name}": probability_margin(logits, labels).float().cpu().numpy(),
    }


def _views(name: str, logits: Tensor, labels: Tensor, survived: Tensor | None) -> Columns:
    """The views of the attack of this name."""
    stem, again, _ = name.partition(AGAIN)
    if stem == "cw":
        return {f"v_cw{again}": logit_margin(logits, labels).float().cpu().numpy()}
    if stem != "pgd" or survived is None:
        return {}
    probabilities = logits.float().softmax(1).gather(1, labels[:, None]).squeeze(1)
    return {
        f"v_gd{again}": survived.cpu().numpy().astype(np.int64),
        f"v_pgd{again}": probabilities.cpu().numpy(),
    }


def _ordered(columns: Columns) -> Columns:
    """Views first, then logit margins, then probability margins."""

    def rank(name: str) -> int:
        return 1 if name.startswith("margin_") else 2 if name.startswith("t_") else 0

    return {name: columns[name] for name in sorted(columns, key=rank)}


def last_layer(
    batches: Sequence[Batch], answers: Answers
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Logits [N K] of the clean images of ``batches``, for t-SNE, and their numbers [N]."""
    numbers = [batch.index.cpu().numpy() for batch in batches]
    logits = [
        answers(batch.images, index, "natural")
        for batch, index in zip(batches, numbers, strict=True)
    ]
    return torch.cat(logits).float().cpu().numpy(), np.concatenate(numbers)
