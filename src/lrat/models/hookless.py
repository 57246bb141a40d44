"""Modules that lack parts of what every ``nn.Module`` does: TorchScript, exported programs."""

from typing import Any

import torch
from torch import Tensor, nn


class Hookable(nn.Module):
    """A module that takes no hooks, or that refuses to switch its modes, inside one that does."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.training = bool(getattr(module, "training", False))

    def train(self, mode: bool = True) -> "Hookable":
        """A module without modes stays as it is."""
        self.training = mode
        try:
            self.module.train(mode)
        except (AttributeError, NotImplementedError, RuntimeError):
            for part in self.module.modules():
                if "training" in vars(part):
                    part.training = mode
        return self

    def forward(self, images: Tensor) -> Any:
        return self.module(images)


def hookable(model: nn.Module) -> nn.Module:
    """``model`` itself, or in a ``Hookable`` where it needs one."""
    is_script = isinstance(model, torch.jit.ScriptModule)
    is_exported = isinstance(model, torch.fx.GraphModule) and "eval" in vars(model)
    return Hookable(model) if is_script or is_exported else model
