"""The peers' attacks on a subject, at the same epsilon, step size and steps as ours.

A factory imports its package when called, so that lrat alone can be measured without the others.
"""

from collections.abc import Callable
from importlib.util import find_spec

import torch
import torch.nn.functional as F  # noqa: N812 - the community's name
from torch import Tensor, nn

from measuring import Entry
from subjects import EPSILON, STEP_SIZE, Subject

Factory = Callable[[Subject, int], Entry]
CLASSES = 10
TARGETS = 3
PACKAGES = {
    "torchattacks": "torchattacks",
    "foolbox": "foolbox",
    "art": "adversarial-robustness-toolbox",
    "pyautoattack": "pyautoattack",
}
"""Module to import -> distribution."""


def installed() -> set[str]:
    """The peers that can be imported here, by module."""
    return {name for name in PACKAGES if find_spec(name) is not None}


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """max_{i != y} z_i - z_y [B], what CW ascends; labels as classes [B] or one-hot [B K]."""
    if labels.dim() == 1:
        labels = F.one_hot(labels, logits.shape[1])
    true = labels.bool()
    return logits.masked_fill(true, -torch.inf).amax(1) - logits[true]


def _entry(name: str, subject: Subject, work: Callable[[], object]) -> Entry:
    return Entry(name=name, work=work, watched=(subject.model,), images=len(subject.images))


def torchattacks_pgd(subject: Subject, steps: int) -> Entry:
    import torchattacks

    attack = torchattacks.PGD(subject.model, eps=EPSILON, alpha=STEP_SIZE, steps=steps)
    return _entry("torchattacks", subject, lambda: attack(subject.images, subject.labels))


def torchattacks_apgd(subject: Subject, steps: int) -> Entry:
    import torchattacks

    attack = torchattacks.APGD(subject.model, norm="Linf", eps=EPSILON, steps=steps, loss="ce")
    return _entry("torchattacks", subject, lambda: attack(subject.images, subject.labels))


def torchattacks_apgdt(subject: Subject, steps: int) -> Entry:
    import torchattacks

    # It aims at n_classes - 1 targets.
    attack = torchattacks.APGDT(
        subject.model, norm="Linf", eps=EPSILON, steps=steps, n_classes=TARGETS + 1
    )
    return _entry("torchattacks", subject, lambda: attack(subject.images, subject.labels))


def foolbox_pgd(subject: Subject, steps: int) -> Entry:
    import foolbox

    return _foolbox(subject, foolbox.attacks.LinfPGD(abs_stepsize=STEP_SIZE, steps=steps))


def foolbox_cw(subject: Subject, steps: int) -> Entry:
    """Its L_inf PGD with the loss replaced, as its documentation invites one to."""
    import eagerpy
    import foolbox

    class LinfMargin(foolbox.attacks.LinfPGD):
        def get_loss_fn(self, model, labels):
            def loss(inputs):
                return eagerpy.astensor(margin(model(inputs).raw, labels.raw).sum())

            return loss

    return _foolbox(subject, LinfMargin(abs_stepsize=STEP_SIZE, steps=steps))


def _foolbox(subject: Subject, attack: Callable[..., tuple[Tensor, Tensor, Tensor]]) -> Entry:
    import foolbox

    model = foolbox.PyTorchModel(subject.model, bounds=(0, 1), device="cpu")
    return _entry(
        "foolbox",
        subject,
        lambda: attack(model, subject.images, subject.labels, epsilons=EPSILON)[1],
    )


class MarginLoss(nn.Module):
    """The mean margin, as ART takes losses."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return margin(logits, labels).mean()


def art_pgd(subject: Subject, steps: int) -> Entry:
    return _art_pgd(subject, steps, nn.CrossEntropyLoss())


def art_cw(subject: Subject, steps: int) -> Entry:
    """Its PGD on a classifier whose loss is the margin."""
    return _art_pgd(subject, steps, MarginLoss())


def _art_pgd(subject: Subject, steps: int, loss: nn.Module) -> Entry:
    from art.attacks.evasion import ProjectedGradientDescentPyTorch

    attack = ProjectedGradientDescentPyTorch(
        _classifier(subject, loss),
        eps=EPSILON,
        eps_step=STEP_SIZE,
        max_iter=steps,
        num_random_init=1,
        batch_size=len(subject.images),
        verbose=False,
    )
    return _art(subject, attack)


def art_apgd(subject: Subject, steps: int) -> Entry:
    from art.attacks.evasion import AutoProjectedGradientDescent

    attack = AutoProjectedGradientDescent(
        _classifier(subject, nn.CrossEntropyLoss()),
        eps=EPSILON,
        eps_step=2 * EPSILON,
        max_iter=steps,
        nb_random_init=1,
        batch_size=len(subject.images),
        loss_type="cross_entropy",
        verbose=False,
    )
    return _art(subject, attack)


def _classifier(subject: Subject, loss: nn.Module):
    from art.estimators.classification import PyTorchClassifier

    return PyTorchClassifier(
        model=subject.model,
        loss=loss,
        input_shape=tuple(subject.images.shape[1:]),
        nb_classes=CLASSES,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )


def _art(subject: Subject, attack) -> Entry:
    images, labels = subject.images.numpy(), subject.labels.numpy()
    return _entry("ART", subject, lambda: torch.from_numpy(attack.generate(images, labels)))


def pyautoattack_apgd(subject: Subject, steps: int) -> Entry:
    from pyautoattack.autopgd_base import APGDAttack

    attack = APGDAttack(
        subject.model, n_iter=steps, norm="Linf", eps=EPSILON, loss="ce", device="cpu"
    )
    return _entry("pyautoattack", subject, lambda: attack.perturb(subject.images, subject.labels))


def pyautoattack_apgdt(subject: Subject, steps: int) -> Entry:
    from pyautoattack.autopgd_base import APGDAttack_targeted

    attack = APGDAttack_targeted(
        subject.model,
        n_iter=steps,
        norm="Linf",
        eps=EPSILON,
        n_target_classes=TARGETS,
        device="cpu",
    )
    return _entry("pyautoattack", subject, lambda: attack.perturb(subject.images, subject.labels))


FACTORIES: dict[str, list[tuple[str, Factory]]] = {
    "PGD": [("torchattacks", torchattacks_pgd), ("foolbox", foolbox_pgd), ("art", art_pgd)],
    "CW": [("foolbox", foolbox_cw), ("art", art_cw)],
    "APGD-CE": [
        ("torchattacks", torchattacks_apgd),
        ("art", art_apgd),
        ("pyautoattack", pyautoattack_apgd),
    ],
    "APGD-T": [("torchattacks", torchattacks_apgdt), ("pyautoattack", pyautoattack_apgdt)],
}
"""Attack -> the peers that have it, each with the module that it needs."""

MISSING = {
    "CW": "torchattacks has no L_inf attack on the margin (its CW is the L_2 optimisation), nor "
    "has pyautoattack; foolbox and ART have none by name: their L_inf PGD was given the margin as "
    "its loss",
    "PGD": "pyautoattack has no PGD",
    "APGD-CE": "foolbox has no Auto-PGD",
    "APGD-T": "foolbox has no Auto-PGD, ART no targeted-DLR one",
}
"""Attack -> which peers lack it."""
