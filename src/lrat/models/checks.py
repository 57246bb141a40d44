"""The refusal of images that a model was not built for."""

from torch import Tensor

from lrat.errors import ModelError


def check_images(images: Tensor, name: str, channels: int, size: int | None) -> None:
    """ModelError unless ``images`` is [B channels size size]; looks at shapes only.

    ``size`` None allows any height and width.
    """
    shape = tuple(images.shape)
    if len(shape) == 4 and shape[1] == channels and (size is None or shape[2:] == (size, size)):
        return
    wanted = f"[B {channels} {size or 'H'} {size or 'W'}]"
    found = f"[{' '.join(map(str, shape))}]"
    cure = "channels come before height and width"
    if len(shape) == 4 and shape[-1] != channels:
        if shape[1] != channels:
            cure = f"build it with channels={shape[1]}"
        elif shape[2] == shape[3]:
            cure = f"build it with size={shape[2]}"
        else:
            cure = "images must be square"
    raise ModelError(f"{name} takes images {wanted}, but got {found}: {cure}")
