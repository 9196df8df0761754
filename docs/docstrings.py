"""Docstrings as Markdown: what reStructuredText and the project's own habits have beyond Google's style."""

import re
from typing import Any

import griffe

_ROLE = re.compile(r":\w+:`~?(?:[\w.]+\.)?(\w+)`")
_LITERAL = re.compile(r"(?m)^ *::\n|(?<=\S):(?=:$)")
_SEVERAL = re.compile(r"(?m)^( +)((?:\w+, )+\w+): (.*(?:\n\1 +.*)*)")


class AsMarkdown(griffe.Extension):
    """``:class:`Name``` becomes code, ``::`` goes, and ``a, b: text`` is said of each."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of an object, once it is loaded."""
        if obj.docstring is not None:
            text = _LITERAL.sub("", _ROLE.sub(r"`\1`", obj.docstring.value))
            obj.docstring.value = _SEVERAL.sub(_each, text)


def _each(found: re.Match[str]) -> str:
    indent, names, text = found.groups()
    return "\n".join(f"{indent}{name}: {text}" for name in names.split(", "))
