"""Which parameters weight decay pulls towards zero."""

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

_NORMALISATION = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)


def split_by_decay(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The trainable parameters that decay, and those that do not; each in the model's order.

    Without decay: the parameters of normalisation layers, everything called ``bias``, and every
    vector or scalar, which in other people's layers is a gain or a shift. Decay there changes no
    function class, but pulls features towards zero (He et al. 2019, section 3.1: "no bias decay").
    """
    apart = {
        id(value)
        for module in model.modules()
        if isinstance(module, _NORMALISATION)
        for value in module.parameters(recurse=False)
    }
    decaying: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, value in model.named_parameters():
        if value.requires_grad:
            bare = value.ndim <= 1 or name.rpartition(".")[2] == "bias" or id(value) in apart
            (others if bare else decaying).append(value)
    return decaying, others
