"""The settings of an evaluation, and the name of its folder."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from lrat.checks import PATHS, TEXT, Rule, check_fields, one_of, whole
from lrat.config.catalogue import check_suite, names_a_file, names_users_code, run_name, slug
from lrat.data import ImageData
from lrat.distributed.launch import check_devices
from lrat.errors import ConfigurationError
from lrat.evaluation import Suite
from lrat.evaluation.runner import NoiseKind
from lrat.runs.folder import threat_slug
from lrat.text import as_command, changed_fields

_DIGITS = 8


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """What to attack with; ``threat`` None is the one trained for, ``limit`` None all images.

    ``suite``: a name or a YAML file. ``loss`` (``FILE.py:NAME``) adds adaptive attacks on it,
    ``transfer`` (run folders) adds attacks computed on those models. ``seconds``: a time limit.
    ``part`` = (i, n): only every n-th image, from the i-th of 1 ... n, as one of several processes
    or machines. ``noise``: ``sequential`` draws as AutoAttack's original does. ``gallery``: the
    number of images kept for reports with their adversarial images, 0 for none; None is 32 of
    those that are attacked anyway. ``devices``: the number of processes on each of ``nodes``
    machines (``evaluate_parallel``), None for this process alone.
    ``typed``: the command that the user typed, kept in the folder of an evaluation that is begun.
    """

    suite: str = "quick"
    threat: str | None = None
    limit: int | None = None
    seed: int = 0
    batch_size: int = 256
    acceleration: Literal["auto", "off"] = "auto"
    device: str = "auto"
    loss: str | None = None
    transfer: tuple[Path, ...] = ()
    seconds: float | None = None
    keep_images: bool = False
    gallery: int | None = None
    noise: NoiseKind = "keyed"
    part: tuple[int, int] | None = None
    devices: int | None = None
    nodes: int = 1
    typed: str | None = None

    def __post_init__(self) -> None:
        check_fields(
            self,
            "",
            suite=TEXT,
            threat=TEXT,
            loss=TEXT,
            transfer=PATHS,
            gallery=whole(0, example=32),
            noise=one_of(get_args(NoiseKind)),
            part=Rule(_part, "a pair (i, n) with i from 1 to n", (2, 4)),
        )

    def check(self) -> None:
        """Refuse what cannot be meant before anything is loaded."""
        check_suite(self.suite)
        check_devices(self.device, self.devices, self.nodes, others_expected=self.part is not None)
        if self.part is not None and self.devices is not None:
            raise ConfigurationError(
                "part and devices both divide the images: give each machine a part, or spread all "
                "over processes"
            )
        if self.noise == "sequential" and (self.part or self.seconds or self.devices):
            raise ConfigurationError(
                "sequential noise depends on all images at once: leave out the part, the devices "
                "and the time"
            )

    def command(self, run: Path, checkpoint: str = "selected") -> str:
        """``lrat evaluate RUN --suite tier``: the command that makes this evaluation of a run."""
        named = {"seconds": "time", "keep_images": "images"}
        options = {named.get(name, name): value for name, value in changed_fields(self).items()}
        options.pop("typed", None)
        if self.part is not None:
            options["part"] = "{}/{}".format(*self.part)
        chosen = None if checkpoint == "selected" else checkpoint
        return as_command("lrat", "evaluate", run, checkpoint=chosen, **options)

    def folder_name(self, checkpoint: str, threat: str, test: ImageData, attacks: Suite) -> str:
        """``selected-quick-linf-8-255-10000``; settings that are not the usual ones follow.

        Attacks that the user brings (a suite file, a loss, other runs' models) are worked on: their
        digest is in the name, so that each version has a folder of its own.
        """
        images = len(test) if self.limit is None else min(self.limit, len(test))
        name = f"{checkpoint}-{slug(self.suite)}-{threat_slug(threat)}-{images}"
        name += f"-seed-{self.seed}" if self.seed else ""
        name += f"-adaptive-{self.loss.rpartition(':')[2]}" if self.loss else ""
        name += "".join(f"-from-{run_name(run)}" for run in self.transfer)
        name += "-images" if self.keep_images else ""
        name += "" if self.noise == "keyed" else f"-{self.noise}"
        own_loss = self.loss is not None and names_users_code(self.loss)
        if names_a_file(self.suite) or own_loss or self.transfer:
            name += f"-{digest_of_attacks(attacks)}"
        return name


def _part(value: Any) -> tuple[int, int]:
    number, count = map(whole(1, example=1).take, value)
    if number > count:
        raise ValueError
    return number, count


def descriptions(attacks: Suite) -> dict[str, str]:
    """Each attack as it prints: its settings, and for a user's own the digest of its code."""
    return {step.name: step.description for step in attacks.steps}


def digest_of_attacks(attacks: Suite) -> str:
    """A digest of a suite's name and ``descriptions``, for the names of folders."""
    text = json.dumps([attacks.name, descriptions(attacks)])
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
