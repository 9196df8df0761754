"""What to say where a name was given that nobody knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: Names that are listed; of more, those that are most like the one that was given.
LISTED = 12


def closest(word: str, known: Iterable[str]) -> str | None:
    """The name that was most likely meant, whatever its case; a layer also by its path, ``0`` for ``0 (Conv2d)``."""
    by_key: dict[str, str] = {}
    for name in known:
        for key in (name, name.split(" (")[0]):
            by_key.setdefault(key.casefold(), name)
    found = difflib.get_close_matches(word[:60].casefold(), by_key, 1)
    return by_key[found[0]] if found else None


def meant(word: str, known: Iterable[str]) -> str:
    """``; did you mean ...?`` where a name is close, else nothing."""
    likely = closest(word, known)
    return "" if likely is None else f"; did you mean {likely}?"


def suggestion(word: str, known: Iterable[str], before: str = "; have ") -> str:
    """The end of a message: ``before``, the names, and which of them was most likely meant.

    Args:
        word: what was given.
        known: all names; of many, those that are most like ``word`` are listed.
    """
    names = list(known)
    if not names:
        return "; there are none"
    shown = names
    if len(names) > LISTED:
        near = set(difflib.get_close_matches(word[:60], names, LISTED, 0.0))
        shown = [name for name in names if name in near]
    more = f" ... ({len(names)} in all)" if len(names) > len(shown) else ""
    return f"{before}{', '.join(shown)}{more}{meant(word, names)}"
