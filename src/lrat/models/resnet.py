"""ResNet-18 (He et al. 2016) with a 3x3 stem, as usual for CIFAR."""

from torch import Tensor, nn

from lrat.checks import checked
from lrat.models.wrappers import check_images
from lrat.types import Images, Logits


def convolution(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)


class BasicBlock(nn.Module):
    """relu(BN(conv(relu(BN(conv(x))))) + shortcut(x)); a 1x1 shortcut where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            convolution(inputs, outputs, 3, stride),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            convolution(outputs, outputs, 3, 1),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
            )
        self.activation = nn.ReLU()

    def forward(self, features: Tensor) -> Tensor:
        """[B inputs H W] -> [B outputs H/stride W/stride]."""
        activated: Tensor = self.activation(self.residual(features) + self.shortcut(features))
        return activated


class ResNet18(nn.Module):
    """3x3 stem without pooling, four stages of two blocks (width * 1, 2, 4, 8), average, linear.

    At width 64: 11,173,962 parameters for 10 classes and 3 channels, 1.11 GFLOP (2 per
    multiply-add) for one 32x32 image. Takes images of any size. Raises SettingError for invalid
    settings, ModelError for images with another number of channels.
    """

    @checked()
    def __init__(self, *, channels: int = 3, classes: int = 10, width: int = 64) -> None:
        super().__init__()
        self.channels = channels
        self.stem = nn.Sequential(
            convolution(channels, width, 3, 1), nn.BatchNorm2d(width), nn.ReLU()
        )
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    BasicBlock(widths[stage], widths[stage + 1], 1 if stage == 0 else 2),
                    BasicBlock(widths[stage + 1], widths[stage + 1], 1),
                )
                for stage in range(4)
            )
        )
        self.head = nn.Linear(8 * width, classes)

    def forward(self, images: Images) -> Logits:
        """[B C H W] in [0, 1] -> logits [B K]."""
        check_images(images, "ResNet18", self.channels, None)
        logits: Logits = self.head(self.stages(self.stem(images)).mean((2, 3)))
        return logits
