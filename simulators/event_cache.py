"""Compiled kernels on disk, where there is a place for them; without one, or where it is damaged, they are compiled.

numba's own cache raises what a folder that cannot be written, a full disk or a damaged file provokes. None of these is
a reason not to simulate.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import numba
from numba.core.caching import FunctionCache

Function = TypeVar("Function", bound=Callable[..., Any])


class _Cache(FunctionCache):
    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """What is stored for these types; None where nothing is, or it cannot be read."""
        try:
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        except Exception:  # a damaged pickle can raise anything
            with contextlib.suppress(Exception):
                self.flush()  # type: ignore[no-untyped-call]  # so that the next store is not refused
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Store it, or do without."""
        with contextlib.suppress(OSError):
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]


def njit(function: Function, **options: Any) -> Function:
    """``numba.njit`` without the interpreter's lock, with its type kept, and cached."""
    compiled: Any = numba.njit(nogil=True, **options)(function)
    with contextlib.suppress(RuntimeError):  # no folder that could be written
        compiled._cache = _Cache(function)  # type: ignore[no-untyped-call]
    found: Function = compiled
    return found
