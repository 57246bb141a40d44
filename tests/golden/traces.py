"""Short trainings whose losses may change only on purpose.

The loop, the weights and the order of images are written out here, so that a change of a stored
loss comes from the attacks, weightings, losses or objectives alone. Nothing is random but the keyed
noise. To renew after a change on purpose: ``python tests/golden/renew.py``, and say in the commit
what changed the numbers.
"""

import json
import math
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from builders import seeded
from lrat.methods import Simulated
from lrat.objectives import Objective
from lrat.randomness import Keyed, keys
from lrat.threat import L2
from recipes import recipes
from steps import batch_of, step_of

STORED = Path(__file__).parent / "losses.json"
STEPS, BATCH_SIZE = 10, 64
SIMULATED = Simulated(threat=L2(epsilon=1.0), steps=5, step_size=0.3, saa_steps=10)
"""L2, whose steps are continuous in the gradient: under a sign, weights that differ by 1e-6 gave
losses that differ by 1e-2, here by 1e-4."""
PHASES = {
    "sat": 0.0,
    "gairat": 0.0,
    "gairat-after-bootstrap": 0.5,
    "lsat-saa": 0.0,
    "lrat-saa+cw": 0.0,
    "trades": 0.0,
}
"""The traces, each with the fraction of training at which its steps are taken. GAIRAT's first
must equal SAT's."""


def objective_of(trace: str) -> Objective:
    return recipes(SIMULATED)[trace.removesuffix("-after-bootstrap")]


class _Network(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.BatchNorm2d(8),
            nn.Flatten(),
            nn.Linear(128, 10),
        )


def network() -> nn.Module:
    """Smooth, so that rounding seldom flips the sign of an image's gradient."""
    model = seeded(0, _Network)
    for number, parameter in enumerate(model.parameters()):
        drawn = Keyed(keys(number, torch.zeros(1, dtype=torch.int64)))
        values = drawn.normal((1, parameter.numel()), "weights").reshape(parameter.shape)
        if parameter.dim() > 1:
            with torch.no_grad():
                parameter.copy_(values / math.sqrt(parameter[0].numel()))
    return model


def images_and_labels() -> tuple[Tensor, Tensor]:
    """Digits, lifted off the edges of the box, where clipped pixels would hide the attack."""
    bundled = load_digits()
    images = torch.tensor(bundled.images, dtype=torch.float32)[:, None] / 16
    return 0.1 + 0.8 * images, torch.tensor(bundled.target)


def losses_of(trace: str) -> list[float]:
    """total / normalizer of each step."""
    images, labels = images_and_labels()
    model, objective, losses = network(), objective_of(trace), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for number in range(STEPS):
        first = number * BATCH_SIZE
        rows = slice(first, first + BATCH_SIZE)
        batch = batch_of(images[rows], labels[rows], first)
        step = step_of(batch, progress=PHASES[trace])
        output = objective.loss(model, batch, objective.attack(model, batch, step), step)
        loss = output.total / output.normalizer
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def stored() -> dict[str, list[float]]:
    found: dict[str, list[float]] = json.loads(STORED.read_text())
    return found


def renew() -> None:
    """Write the losses of this code as the ones to compare with."""
    losses = {trace: [round(value, 6) for value in losses_of(trace)] for trace in PHASES}
    STORED.write_text(json.dumps(losses, indent=1) + "\n")
