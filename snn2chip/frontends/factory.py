"""State dicts: tensors without the module that they belong to, which a factory of the user makes."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from snn2chip import torch_file
from snn2chip.archive import Refused
from snn2chip.errors import InputError, UsageError
from snn2chip.frontends.leaves import make_room, state_loaded

_WRAPPERS = ("state_dict", "model_state_dict")  # of checkpoints that hold more
_NAMED = 4  # keys that an error names


def module_from_state(path: str | os.PathLike[str], factory: str) -> nn.Module:
    """The module that ``factory`` makes, with the tensors of a state dict, in evaluation.

    Args:
        path: a file of ``torch.save(module.state_dict(), path)``, or a checkpoint with such a dict as "state_dict" or
            "model_state_dict"; nothing but tensors and plain containers is read.
        factory: ``package.module:function``, importable also from the working directory, called without arguments.

    Raises:
        InputError: the file is not a state dict, or that of another module; the message names keys and shapes.
        UsageError: the factory cannot be imported, fails, or does not make a module.
    """
    path = Path(path)
    state, module = _state(path), _made(factory)
    _fit(path, factory, state, module)
    module.load_state_dict(state)
    for inner in module.modules():
        state_loaded(inner)
    return module.eval()


def _state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        content = torch_file.read(path)
    except (torch_file.Foreign, Refused) as error:
        raise InputError(
            f"{path}: holds more than tensors, or is damaged; save it with torch.save(module.state_dict(), path)"
        ) from error
    for key in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError(f"{path}: not a state dict; save it with torch.save(module.state_dict(), path)")
    return {str(key): value for key, value in content.items()}


def _made(factory: str) -> nn.Module:
    name, _, function = factory.partition(":")
    if not name or not function:
        raise UsageError(f"factory {factory!r}: expected package.module:function")
    try:
        with _working_directory_importable():
            make: Any = reduce(getattr, function.split("."), importlib.import_module(name))
            module = make()
    except Exception as error:  # whatever the user's code raises
        text = (str(error).strip() or repr(error)).splitlines()[0][:200]
        raise UsageError(
            f"factory {factory}: {type(error).__name__}: {text}; it is imported from here or from what is installed, "
            "and called without arguments"
        ) from error
    if not isinstance(module, nn.Module):
        raise UsageError(f"factory {factory}: makes {type(module).__name__}, expected a torch.nn.Module")
    return module


@contextmanager
def _working_directory_importable() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _fit(path: Path, factory: str, state: dict[str, Tensor], module: nn.Module) -> None:
    """Make room for what is made lazily, and raise :class:`InputError` unless keys and shapes fit then."""
    for prefix, inner in module.named_modules():
        start = f"{prefix}." if prefix else ""
        make_room(inner, {key[len(start) :]: tuple(t.shape) for key, t in state.items() if key.startswith(start)})
    wanted = {key: value for key, value in module.state_dict().items() if isinstance(value, Tensor)}
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in state and state[key].shape != tensor.shape
    ]
    faults = {
        "missing": [key for key in wanted if key not in state],
        "unexpected": [key for key in state if key not in wanted],
        "of another shape": shapes,
    }
    if any(faults.values()):
        found = "; ".join(f"{what}: {_some(keys)}" for what, keys in faults.items() if keys)
        raise InputError(f"{path}: not a state dict of what {factory} makes; {found}")


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return ", ".join(keys[:_NAMED]) + more
