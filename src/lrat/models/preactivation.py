"""Residual networks with pre-activation (He et al. 2016b), and wide ones (Zagoruyko & Komodakis
2016): the networks of Rice et al. (2020) and of the field's tables on CIFAR-10."""

from collections.abc import Sequence

from torch import Tensor, nn

from lrat.checks import checked
from lrat.models.resnet import convolution
from lrat.models.wrappers import check_images
from lrat.types import Images, Logits


class _Block(nn.Module):
    """conv(relu(BN(conv(a)))) + x with a = relu(BN(x)); a 1x1 convolution of a in place of x where
    the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.activation = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        self.residual = nn.Sequential(
            convolution(inputs, outputs, 3, stride),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            convolution(outputs, outputs, 3, 1),
        )
        self.shortcut: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = convolution(inputs, outputs, 1, stride)

    def forward(self, features: Tensor) -> Tensor:
        """[B inputs H W] -> [B outputs H/stride W/stride]."""
        activated = self.activation(features)
        kept = features if self.shortcut is None else self.shortcut(activated)
        added: Tensor = self.residual(activated) + kept
        return added


class PreActResNet(nn.Module):
    """3x3 stem of ``stem`` filters, stages of ``blocks`` blocks each, BN, ReLU, average, linear.

    ``widths``: filters of each stage; every stage but the first halves the images. Takes images of
    any size. Raises ModelError for images of another channel count.
    """

    def __init__(
        self, *, channels: int, classes: int, stem: int, widths: Sequence[int], blocks: int
    ) -> None:
        super().__init__()
        self.channels = channels
        layers: list[nn.Module] = [convolution(channels, stem, 3, 1)]
        before = stem
        for stage, width in enumerate(widths):
            for block in range(blocks):
                layers.append(_Block(before, width, 2 if stage and not block else 1))
                before = width
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(before), nn.ReLU())
        self.head = nn.Linear(before, classes)

    def forward(self, images: Images) -> Logits:
        """[B C H W] in [0, 1] -> logits [B K]."""
        check_images(images, type(self).__name__, self.channels, None)
        logits: Logits = self.head(self.features(images).mean((2, 3)))
        return logits


@checked()
def preact_resnet_18(*, channels: int = 3, classes: int = 10, width: int = 64) -> PreActResNet:
    """Pre-activation ResNet-18: 11,172,170 parameters for 10 classes, as Rice et al. (2020) use."""
    return PreActResNet(
        channels=channels,
        classes=classes,
        stem=width,
        widths=[width, 2 * width, 4 * width, 8 * width],
        blocks=2,
    )


@checked()
def wide_resnet_28(*, channels: int = 3, classes: int = 10, width: int = 160) -> PreActResNet:
    """WRN-28-k of first width 16 k, by default k = 10: 36,479,194 parameters for 10 classes."""
    return _wide(4, channels, classes, width)


@checked()
def wide_resnet_34(*, channels: int = 3, classes: int = 10, width: int = 160) -> PreActResNet:
    """WRN-34-k of first width 16 k, by default k = 10: 46,160,474 parameters for 10 classes."""
    return _wide(5, channels, classes, width)


def _wide(blocks: int, channels: int, classes: int, width: int) -> PreActResNet:
    widths = [width, 2 * width, 4 * width]
    return PreActResNet(channels=channels, classes=classes, stem=16, widths=widths, blocks=blocks)
