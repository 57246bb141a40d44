"""Train the small classifiers of the tests anew: ``python tests/weights/renew.py``.

They are stored, so that what a test asserts of them does not hang on the rounding of the processor
that would have trained them.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from builders import seeded
from lrat.methods import Simulated, gairat, sat
from lrat.objectives import Objective, StepContext
from lrat.randomness import Keyed, keys
from lrat.types import Batch
from trained import NETWORKS, THREAT, WEIGHTS, digits

_EPOCHS = 12


def _train(model: nn.Module, objective: Objective) -> nn.Module:
    images, labels = digits()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=2e-4)
    for epoch in range(_EPOCHS):
        order = Keyed(keys(epoch, torch.arange(1400))).uniform((1400,), "order").argsort()
        for rows in order.split(100):
            batch = Batch(images=images[rows], labels=labels[rows], index=rows)
            noise = Keyed(keys(epoch, rows))
            step = StepContext(epoch=epoch, progress=epoch / _EPOCHS, noise=noise)
            variants = objective.attack(model.eval(), batch, step)
            output = objective.loss(model.train(), batch, variants, step)
            optimiser.zero_grad()
            (output.total / output.normalizer).backward()
            optimiser.step()
    return model.eval()


if __name__ == "__main__":
    torch.set_num_threads(1)
    simulated = Simulated(threat=THREAT, steps=5, step_size=THREAT.epsilon / 4)
    for name, network in NETWORKS.items():
        objective = gairat(simulated, begin=0.5) if name == "gairat" else sat(simulated)
        model = _train(seeded(0, network), objective)
        save_file(model.state_dict(), WEIGHTS / f"{name}.safetensors")
