"""Context managers that restore a model and autograd: modes, gradients, tensors, attributes."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lrat.errors import LratError, ModelError, StopNow
from lrat.text import in_one_line

_Modes = list[tuple[nn.Module, bool]]

_RUNNING = ("running_mean", "running_var")


def evaluating(model: nn.Module) -> AbstractContextManager[None]:
    """Eval mode inside; afterwards, also after an error, each module has the mode it had before.

    A user's override of ``train`` or ``eval`` runs in both directions. A frozen BatchNorm inside a
    training model stays frozen. A model that is in eval mode as a whole is left alone, so entering
    this in a loop costs nothing. ``ModelError`` for an override that raises.
    """
    modes = _modes_of(model)
    return _switched(model, modes, any(training for _, training in modes), to=False)


def training_modes(model: nn.Module) -> AbstractContextManager[None]:
    """Train mode inside; afterwards each module has the mode it had before, as in ``evaluating``.

    A model in train mode is left as it is: a module inside it that the caller put into eval mode (a
    frozen BatchNorm) stays frozen. A model in eval mode is put into train mode as a whole.
    """
    return _switched(model, _modes_of(model), not getattr(model, "training", True), to=True)


@contextmanager
def _switched(model: nn.Module, modes: _Modes, needed: bool, *, to: bool) -> Iterator[None]:
    try:
        if needed:
            _switch(model, to)
        yield
    finally:
        if needed or any(module.training != training for module, training in modes):
            _put_back(model, modes)


def _modes_of(model: nn.Module) -> _Modes:
    # A frozen ScriptModule has no mode.
    return [(part, part.training) for part in model.modules() if hasattr(part, "training")]


def _put_back(model: nn.Module, modes: _Modes) -> None:
    """Restore the modes: first by the overrides, parents before children, then flag by flag."""
    try:
        for module, training in modes:
            if module is model or (module.training != training and _has_override(module)):
                _switch(module, training)
    finally:
        for module, training in modes:
            if module.training != training:
                module.training = training


def _switch(module: nn.Module, training: bool) -> None:
    try:
        if training:
            module.train()
        else:
            module.eval()
    except NotImplementedError:  # an exported program has flags, but no train() and eval()
        for part, _ in _modes_of(module):
            part.training = training
    except (LratError, StopNow, KeyboardInterrupt):
        raise
    except BaseException as error:
        name = "train" if training else "eval"
        raise ModelError(
            f"the model's {name}() fails: {in_one_line(error)}; correct {name}() of "
            f"{type(module).__name__}, which is called as model.{name}()"
        ) from error


def _has_override(module: nn.Module) -> bool:
    """Whether the module or its class overrides ``train`` or ``eval``."""
    return any(
        getattr(getattr(module, name), "__func__", None) is not getattr(nn.Module, name)
        for name in ("train", "eval")
    )


@contextmanager
def usual_autograd() -> Iterator[None]:
    """Inside, autograd records and nothing is cast, whatever the caller switched on around it.

    Afterwards the default type of floats is restored, which a model may have changed.
    """
    with ExitStack() as stack:
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(outside_autocast(kind))
        yield


def outside_autocast(kind: str) -> AbstractContextManager[object]:
    """A caller's autocast switched off for devices of this kind."""
    if not torch.amp.is_autocast_available(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


@contextmanager
def recordable(model: nn.Module) -> Iterator[None]:
    """Inside, copies that autograd may save replace the weights created in ``inference_mode``."""
    replaced = replace_inference_tensors(model)
    try:
        yield
    finally:
        for tensors, name, value in replaced:
            tensors[name] = value


def replace_inference_tensors(model: nn.Module) -> list[tuple[dict[str, Any], str, Tensor]]:
    """Replace a model's inference tensors by ordinary copies; tied tensors stay tied.

    Returns dictionary, name and tensor of each that was replaced. To be called outside of
    ``inference_mode``.
    """
    copies: dict[int, Tensor] = {}
    replaced: list[tuple[dict[str, Any], str, Tensor]] = []
    if not any(value.is_inference() for value in (*model.parameters(), *model.buffers())):
        return replaced
    for module in model.modules():
        for tensors in _tables(module):
            for name, value in tensors.items():
                if value is None or not value.is_inference():
                    continue
                if id(value) not in copies:
                    copies[id(value)] = ordinary(value)
                replaced.append((tensors, name, value))
                tensors[name] = copies[id(value)]
    return replaced


def ordinary(value: Any) -> Any:
    """An ordinary copy of an inference tensor; every other value as it is."""
    if not isinstance(value, Tensor) or not value.is_inference():
        return value
    copy = value.detach().clone()
    if isinstance(value, nn.Parameter):
        return nn.Parameter(copy, requires_grad=value.requires_grad)
    return copy


_WRITING: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
"""Models whose forward in eval mode wrote tensors, and whether it wrote parameters too."""


@contextmanager
def forward_tried(model: nn.Module) -> Iterator[list[str]]:
    """Around a first forward: the tensors that existed before are restored, as in
    ``tensors_kept``; those that the forward creates stay.

    Notes a model that writes its tensors: from then on ``without_traces`` restores its buffers, and
    ``tensors_kept(buffers_only=True)`` also the parameters, if it wrote these.
    """
    with _values_kept(model, buffers_only=False) as changed:
        yield changed
    if changed:
        weights = any(name in changed for name, _ in model.named_parameters())
        _WRITING[model] = _WRITING.get(model, False) or weights


def without_traces(model: nn.Module) -> AbstractContextManager[object]:
    """Afterwards gradients are as before, and so are the buffers of a model of which
    ``forward_tried`` has noted that it writes its tensors in eval mode."""
    if model in _WRITING:
        return tensors_kept(model, buffers_only=True)
    return gradients_kept(model)


@contextmanager
def tensors_kept(model: nn.Module, *, buffers_only: bool = False) -> Iterator[list[str]]:
    """Parameters, buffers, gradients, submodules and hooks, or buffers and gradients alone, are
    afterwards what they were. The list that it yields then names those that were restored."""
    without_weights = buffers_only and not _WRITING.get(model, False)
    with _values_kept(model, buffers_only=without_weights) as changed, ExitStack() as stack:
        if not buffers_only:
            stack.enter_context(_structure_kept(model, changed))
        yield changed


@contextmanager
def gradients_kept(model: nn.Module) -> Iterator[list[str]]:
    """``grad`` and ``requires_grad`` of parameters are afterwards as before; inside, no ``grad``
    is set. The list that it yields then names those whose ``requires_grad`` had changed."""
    kept = [
        (name, value, value.requires_grad, value.grad)
        for name, value in model.named_parameters()
        if not value.is_inference()
    ]
    for _, value, _, _ in kept:
        value.grad = None
    changed: list[str] = []
    try:
        yield changed
    finally:
        for name, value, requires_grad, grad in kept:
            if value.requires_grad != requires_grad:
                changed.append(f"requires_grad of {name}")
                value.requires_grad_(requires_grad)
            value.grad = grad if grad is None else grad.to(value.device)


@contextmanager
def _values_kept(model: nn.Module, *, buffers_only: bool) -> Iterator[list[str]]:
    kept = [
        (f"{path}.{name}".lstrip("."), tensors, name, value, value.detach().clone())
        for path, module in model.named_modules()
        for tensors in _tables(module)[buffers_only:]
        for name, value in tensors.items()
        if value is not None and not value.is_inference()
    ]
    with gradients_kept(model) as changed:
        try:
            yield changed
        finally:
            with torch.inference_mode(False), torch.no_grad():
                same = _all_equal([(value, copy) for *_, value, copy in kept])
                for path, tensors, name, value, copy in kept:
                    if _put_tensor_back(tensors, name, value, copy, is_equal=same):
                        changed.append(path)


@contextmanager
def all_kept(model: nn.Module) -> Iterator[None]:
    """As ``tensors_kept``, with the attributes of all modules too.

    They are noted, not copied: a model that holds a lock or an open file cannot be copied.
    """
    modules = list(model.modules())
    tables = [
        (table, dict(table))
        for part in modules
        for table in (vars(part), part._parameters, part._buffers)
        if isinstance(table, dict)  # not so in a ScriptModule
    ]
    plain = {id(v): v for part in modules for v in vars(part).values() if isinstance(v, Tensor)}
    kept = [(value, value.detach().clone()) for value in plain.values()]
    with tensors_kept(model):
        try:
            yield
        finally:
            for table, before in tables:
                table.clear()
                table.update(before)
            with torch.no_grad():
                for value, copy in kept:
                    if not equal(value, copy):
                        value.copy_(copy)


@contextmanager
def _structure_kept(model: nn.Module, changed: list[str]) -> Iterator[None]:
    """Submodules, hooks and an instance's ``forward`` are afterwards as they were; ``changed`` gets
    the names of what had changed. The submodules of lrat's views, which change them, are left."""
    kept = [
        (f"{path}.{name}".lstrip("."), table, dict(table))
        for path, module in model.named_modules()
        for name, table in vars(module).items()
        if isinstance(table, dict)
        and (name.endswith("_hooks") or (name == "_modules" and not _is_ours(module)))
    ]
    forwards = [(module, vars(module).get("forward")) for module in model.modules()]
    try:
        yield
    finally:
        for path, table, before in kept:
            if table.keys() != before.keys() or any(table[key] is not before[key] for key in table):
                changed.append(path)
                table.clear()
                table.update(before)
        for module, forward in forwards:
            if vars(module).get("forward") is not forward:
                changed.append("forward")
                vars(module).pop("forward", None)
                if forward is not None:
                    vars(module)["forward"] = forward


def _is_ours(module: nn.Module) -> bool:
    return type(module).__module__.startswith("lrat.acceleration")


def _put_tensor_back(
    tensors: dict[str, Any], name: str, value: Tensor, copy: Tensor, *, is_equal: bool
) -> bool:
    """Put ``value`` with the content of ``copy`` back under ``name``; whether anything differed.

    ``is_equal``: ``value`` is known to equal ``copy``. A model that was moved to another device
    meanwhile stays there.
    """
    now = tensors.get(name)
    if isinstance(now, Tensor) and now.device != value.device:
        value, copy, is_equal = now, copy.to(now.device), False
    is_changed = value.dtype != copy.dtype or not (is_equal or equal(value, copy))
    if value.dtype != copy.dtype:  # as model.half() leaves it
        value.data = copy
    elif is_changed:
        value.copy_(copy)
    if now is not value:
        tensors[name] = value
        is_changed = True
    return is_changed


def _tables(module: nn.Module) -> list[dict[str, Any]]:
    """Parameters and buffers by name; of a ScriptModule, which has no dictionaries, as copies."""
    tables: tuple[Any, ...] = (module._parameters, module._buffers)
    return [each if isinstance(each, dict) else dict(each.items()) for each in tables]


def _all_equal(pairs: list[tuple[Tensor, Tensor]]) -> bool:
    """Whether all pairs are equal, with one wait for the device. False also where pairs must be
    compared one by one: NaN, several devices, other layouts."""
    if len({value.device for value, _ in pairs}) != 1:
        return False
    if any(value.layout is not torch.strided or value.is_quantized for value, _ in pairs):
        return False
    return bool(torch.stack([(value == copy).all() for value, copy in pairs]).all())


def equal(value: Tensor, other: Tensor) -> bool:
    """Whether all numbers are the same, NaN included."""
    if value.layout is not torch.strided:
        value, other = value.to_dense(), other.to_dense()
    if torch.equal(value, other):
        return True
    return bool(((value == other) | ((value != value) & (other != other))).all())  # noqa: PLR0124


def is_running_statistic(name: str) -> bool:
    """Whether the buffer of that name is BatchNorm's running mean or variance."""
    return name.rpartition(".")[2] in _RUNNING
