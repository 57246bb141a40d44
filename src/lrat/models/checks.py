"""Refusals shared by the models: settings when built, image shapes when called."""

from torch import Tensor

from lrat.errors import ModelError, SettingError


def check_settings(name: str, *, channels: int, classes: int, width: int) -> None:
    """SettingError unless channels >= 1, classes >= 2 and width >= 1."""
    if channels < 1:
        raise SettingError(f"{name}(channels={channels}): images have at least 1 channel")
    if classes < 2:
        raise SettingError(f"{name}(classes={classes}): a classifier needs at least 2 classes")
    if width < 1:
        raise SettingError(f"{name}(width={width}): width counts filters and must be >= 1")


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
