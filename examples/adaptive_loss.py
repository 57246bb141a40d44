"""An adaptive attack: a loss of one's own shows what a standard attack does not see.

The model below hides its gradients. Its logits are so large that the softmax is 1 for one class and
0 for the others: the gradient of the cross-entropy is 0 in float32, and PGD stays where it starts.
Who knows that attacks the logits instead. Run it, or use the loss from the command line:

    python examples/adaptive_loss.py
    lrat evaluate runs/mine --loss examples/adaptive_loss.py:margin
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import lrat
from lrat.attacks import PGD
from lrat.evaluation import custom
from lrat.models import SmallCNN
from lrat.threat import Linf

THREAT = Linf(epsilon=0.1)


class Hiding(nn.Module):
    """The same classes as ``model``, with logits a million times larger."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return 1e6 * self.model(images)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Per image, by how much the best wrong class is ahead of the label's: attacks ascend it."""
    true = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return others.amax(1) - true


def main() -> None:
    bundled = load_digits()
    images = torch.tensor(bundled.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(bundled.target)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SmallCNN(channels=1, size=8, classes=10, width=8)
    lrat.fit(model, (images[:1500], labels[:1500]), threat=THREAT, method="natural", epochs=6)
    standard = custom(THREAT, {"pgd-20": PGD(threat=THREAT, steps=20, step_size=0.025)})
    result = lrat.evaluate(
        Hiding(model).eval(),
        (images[1500:], labels[1500:]),
        threat=THREAT,
        suite=standard,
        loss=margin,
        limit=100,
    )
    print(result)


if __name__ == "__main__":
    main()
