"""Networks of timm, torchvision and transformers, each behind its own normalisation.

What these libraries call the same differs: the number of channels, the size of the images and the
normalisation are passed or read in the way of each. Nothing is downloaded.
"""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lrat.errors import ModelError, SettingError, UnknownNameError
from lrat.models.wrappers import Normalized, Statistics, with_normalization
from lrat.text import in_one_line

_RGB = 3
_SMALL = 64
_RESCALE = 1 / 255
_SAME = 1e-3
_OTHER_STEPS = ("do_flip_channel_order", "rescale_offset", "include_top")
"""What preparations of transformers may do beside what a normalisation does."""
_logger = logging.getLogger(__name__)
_EXTRAS = {"timm": "timm", "transformers": "hf"}


def from_timm(
    name: str,
    *,
    classes: int,
    channels: int = 3,
    size: int | None = None,
    normalize: str | Statistics | None = None,
    **options: Any,
) -> Normalized:
    """timm's network ``name`` without weights, as ``resnet10t`` or ``vit_tiny_patch16_224``.

    ``size`` of square images, for networks that are built for one (as ``vit_*``). ``normalize``:
    None for the mean and std of timm's own configuration of the network, else as for
    ``with_normalization``. ``options`` go to ``timm.create_model``, as ``drop_path_rate=0.1``.
    Raises UnknownNameError (nearest names), SettingError for options that the network does not
    take, ModelError where timm is not installed.
    """
    timm = _library("timm")
    if not timm.is_model(name):
        raise UnknownNameError("network of timm", name, timm.list_models())
    about = _built(f"timm:{name}", lambda: timm.get_pretrained_cfg(name))
    if size is not None and about is not None and about.fixed_input_size:
        options = {"img_size": size, **options}
    network = _built(
        f"timm:{name}",
        lambda: timm.create_model(
            name, pretrained=False, num_classes=classes, in_chans=channels, **options
        ),
    )
    stated = timm.data.resolve_model_data_config(network)
    return _normalized(network, normalize, (stated["mean"], stated["std"]), channels)


def from_torchvision(
    name: str,
    *,
    classes: int,
    channels: int = 3,
    size: int | None = None,
    normalize: str | Statistics | None = None,
    **options: Any,
) -> Normalized:
    """torchvision's network ``name`` without weights, as ``resnet50`` or ``vit_b_16``.

    ``size``: as in ``from_timm``. ``channels`` other than 3 replace the first convolution.
    ``normalize``: None for the mean and std that torchvision's own weights are used with. Raises as
    ``from_timm`` does.
    """
    models = import_module("torchvision.models")
    if name not in models.list_models(module=models):
        raise UnknownNameError("network of torchvision", name, models.list_models(module=models))
    if size is not None and name.startswith("vit_"):
        options = {"image_size": size, **options}
    if name in {"googlenet", "inception_v3"}:  # whose training answers hold further classifiers'
        options = {"aux_logits": False, "init_weights": True, **options}
    network = _built(
        f"torchvision:{name}",
        lambda: models.get_model(name, weights=None, num_classes=classes, **options),
    )
    if channels != _RGB:
        _replace_first_convolution(network, channels)
    stated = models.get_model_weights(name).DEFAULT.transforms()
    return _normalized(network, normalize, (stated.mean, stated.std), channels)


def resnet_50(*, classes: int, channels: int = 3) -> nn.Module:
    """torchvision's ResNet-50 for images of 224x224: 25,557,032 parameters for 1,000 classes."""
    return from_torchvision(
        "resnet50", classes=classes, channels=channels, normalize="none"
    ).network


def vit_tiny(*, classes: int, size: int, channels: int = 3) -> nn.Module:
    """ViT-tiny (Touvron et al. 2021): 12 layers, 3 heads, 192 features, 8 patches a side up to 64
    pixels and 14 above; images are square and ``size`` a multiple of that."""
    vision_transformer = import_module("torchvision.models.vision_transformer")
    patches = 8 if size <= _SMALL else 14
    if size % patches:
        raise SettingError(f"vit-tiny takes images of a multiple of {patches} pixels, not {size}")
    network: nn.Module = vision_transformer.VisionTransformer(
        image_size=size,
        patch_size=size // patches,
        num_layers=12,
        num_heads=3,
        hidden_dim=192,
        mlp_dim=768,
        num_classes=classes,
    )
    if channels != _RGB:
        _replace_first_convolution(network, channels)
    return network


def from_hf(
    folder: str | Path, *, classes: int | None = None, normalize: str | Statistics | None = None
) -> Normalized:
    """The image classifier in a local folder of transformers, with the weights there, in float32.

    ``classes``: another number than the folder's gives the network a new, untrained last layer;
    ``fresh`` of what is returned names it. ``normalize``: None for image_mean and image_std in the
    folder's preprocessor_config.json. Raises ModelError for a folder that holds no such model,
    lacks other weights than the last layer's, or prepares images in another way.
    """
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise ModelError(
            f"hf:{folder}: there is no config.json in that folder: save the model there by "
            "save_pretrained (names of the hub are not fetched)"
        )
    transformers = _library("transformers")
    chosen = {} if classes is None else {"num_labels": classes, "ignore_mismatched_sizes": True}
    with silent(transformers):
        network, loading = _built(
            f"hf:{folder}",
            lambda: transformers.AutoModelForImageClassification.from_pretrained(
                path,
                local_files_only=True,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
                **chosen,
            ),
        )
    changed = [each[0] if isinstance(each, tuple) else each for each in loading["mismatched_keys"]]
    fresh, state = (*loading["missing_keys"], *changed), network.state_dict()
    lost = [name for name in fresh if state[name].shape[:1] != (network.config.num_labels,)]
    if lost:
        raise ModelError(
            f"hf:{folder} lacks {len(lost)} weights of {type(network).__name__}, or has them in "
            f"another shape, as {lost[0]}: save the whole model there"
        )
    stated = _preprocessing(path) if normalize is None else None
    channels = getattr(network.config, "num_channels", _RGB)
    model = _normalized(network, normalize, stated, channels)
    model.fresh = tuple(f"network.{each}" for each in fresh)
    return model


@contextmanager
def silent(transformers: Any) -> Iterator[None]:
    """Without progress bars and warnings: what matters is said by lrat, in its own words."""
    logging = transformers.utils.logging
    level, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if has_bars:
            logging.enable_progress_bar()


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ModelError(
            f"{name} is not installed ({error.name}): pip install 'lrat[{_EXTRAS[name]}]'"
        ) from None


def _built(what: str, build: Callable[[], Any]) -> Any:
    """What ``build`` returns; a SettingError in one line for what the library raises."""
    try:
        return build()
    except Exception as error:
        raise SettingError(f"{what} cannot be built: {in_one_line(error)}") from error


def _normalized(
    network: nn.Module,
    normalize: str | Statistics | None,
    stated: Statistics | None,
    channels: int,
) -> Normalized:
    """``network`` behind ``normalize``; None: behind its library's ``stated`` mean and std."""
    return with_normalization(network, stated if normalize is None else normalize, channels)


def _replace_first_convolution(network: nn.Module, channels: int) -> None:
    name, first = next(
        (name, part) for name, part in network.named_modules() if isinstance(part, nn.Conv2d)
    )
    parent, _, key = name.rpartition(".")
    fresh = nn.Conv2d(
        channels,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]
        stride=first.stride,  # type: ignore[arg-type]
        padding=first.padding,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )
    setattr(network.get_submodule(parent), key, fresh)


def _preprocessing(folder: Path) -> Statistics | None:
    """image_mean and image_std of a folder of transformers; None, which is said, where it has none.

    ModelError for what is more than (images - mean) / std of images in [0, 1].
    """
    path = folder / "preprocessor_config.json"
    cure = "pass --normalize where that is all it needs, or wrap it as FILE.py:FUNCTION"
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
        factor = float(stated.get("rescale_factor", _RESCALE))
    except FileNotFoundError:
        _logger.warning("%s is not there: images are not normalised (see --normalize)", path)
        return None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} cannot be read: {in_one_line(error)}; {cure}") from None
    other = [name for name in _OTHER_STEPS if stated.get(name)]
    if not stated.get("do_rescale", True) or abs(factor / _RESCALE - 1) > _SAME:
        other.append("do_rescale" if factor == _RESCALE else "rescale_factor")
    if other:
        raise ModelError(f"{path}: {other[0]} changes images in a way that lrat does not: {cure}")
    if not stated.get("do_normalize", "image_mean" in stated):
        return None
    try:
        values = [stated[name] for name in ("image_mean", "image_std")]
        mean, std = (
            list(map(float, each if isinstance(each, list) else [each])) for each in values
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} has no {in_one_line(error)}: {cure}") from None
    return mean, std
