"""A small convolutional network for 8x8 digits and 28x28 grey images on one processor core."""

from torch import nn

from lrat.checks import checked
from lrat.errors import SettingError
from lrat.models.wrappers import check_images
from lrat.types import Images, Logits

_SMALLEST = 4


def _block(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class SmallCNN(nn.Module):
    """Three convolution-BatchNorm-ReLU blocks (width, 2 width, 2 width filters), a linear head.

    ``size``: height and width of the images, at least 4. For images above 16 pixels the first block
    (with a 5x5 filter) and the third have stride 2, so that 8x8, 28x28 and 32x32 images all reach
    the head as 4x4 maps at little cost. Raises SettingError for invalid settings, ModelError for
    images of another shape.
    """

    @checked()
    def __init__(
        self, *, channels: int = 1, size: int = 8, classes: int = 10, width: int = 16
    ) -> None:
        super().__init__()
        if size < _SMALLEST:
            raise SettingError(f"SmallCNN(size={size}): images need at least {_SMALLEST}x4 pixels")
        self.channels = channels
        self.size = size
        large = size > 16
        stride = 2 if large else 1
        self.features = nn.Sequential(
            _block(channels, width, 5 if large else 3, stride),
            _block(width, 2 * width, 3, 2),
            _block(2 * width, 2 * width, 3, stride),
        )
        side = -(-size // 8) if large else -(-size // 2)
        self.head = nn.Linear(2 * width * side * side, classes)

    def forward(self, images: Images) -> Logits:
        """[B C H W] in [0, 1] -> logits [B K]."""
        check_images(images, "SmallCNN", self.channels, self.size)
        logits: Logits = self.head(self.features(images).flatten(1))
        return logits
