"""Write docs/compatibility.md from the tables of the tests: ``python tools/compatibility.py``."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from frontend_cases import CASES, VERSIONS, Case  # noqa: E402 (the tests' folder has to be on the path)
from refusal_cases import REFUSALS, Refusal  # noqa: E402

PAGE = ROOT / "docs" / "compatibility.md"
HEAD = """\
# Compatibility
What is captured from which library, and what of it the chip can do. `python tools/compatibility.py` writes this page
from the tables that the tests run (`tests/frontend_cases.py`, `tests/refusal_cases.py`), and a test keeps it so.

- **exact**: every spike of every neuron at every step is the library's own, in double precision, on trained networks.
- **approximate**: refused unless `--approximate` (`approximate=True`) allows it; the effect is measured and reported.
- **chip**: the lowered network has the same output, and runs on the chip's integers; else what the refusal says.
- What is not listed is refused, with a line that names the module.

The capture runs a module on an example. Loops over time, `nn.Sequential`, all time steps at a call, states that modules
keep or that are passed by hand, and one image for all steps are understood, as is anything of operations that it knows.
"""
#: Order of the sections, and what is special about each library.
LIBRARIES = {
    "snnTorch": (
        "One time step a call. The reset looks at the potential of the step before; `reset_delay=False` resets at once."
    ),
    "SpikingJelly": "`step_mode` 's' and 'm'. Neurons fire at or above the threshold.",
    "Norse": (
        "Cells and sequences. Feed-forward `LIF` sees the current of the step before, which is a delay of its input: a "
        "last `LIF` behind a Linear with a bias is refused, end with `LI` or leave the bias out."
    ),
    "snn2chip": "The modules of `snn2chip.nn`.",
}


def _table(*rows: tuple[str, ...]) -> str:
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def _row(case: Case) -> tuple[str, ...]:
    captured = "approximate" if case.inexact else "exact"
    return case.what, case.reset, captured, f"refused: {case.chip}" if case.chip else "yes"


def _merged(cases: list[Case]) -> list[tuple[str, ...]]:
    """Both step modes in one row, where they agree."""
    rows = [_row(case) for case in cases]
    both = {what[: -len(", step_mode 's'")] for what, *_ in rows if what.endswith(", step_mode 's'")}
    merged: dict[tuple[str, ...], None] = {}
    for what, *rest in rows:
        base = what[: -len(", step_mode 's'")]
        name = base if base in both and what.endswith(("'s'", "'m'")) else what
        merged[(name, *rest)] = None
    return list(merged)


def _refused(refusals: list[Refusal]) -> str:
    rows = [(refusal.what, refusal.says) for refusal in refusals if refusal.what]
    return _table(("refused", "the message says"), *rows)


def page() -> str:
    """The page's text."""
    parts = [HEAD]
    for library, note in LIBRARIES.items():
        cases = [case for case in CASES if case.framework == library]
        refusals = [refusal for refusal in REFUSALS if refusal.framework == library]
        version = VERSIONS.get(library)
        parts.append(f"## {library} {version}\n{note}\n" if version else f"## {library}\n{note}\n")
        neurons = [case for case in cases if case.reset]
        layers = [case for case in cases if not case.reset]
        parts.append(_table(("neurons", "reset", "captured", "chip"), *_merged(neurons)) + "\n")
        if layers:
            rows = [(what, captured, chip) for what, _, captured, chip in _merged(layers)]
            parts.append(_table(("layers and operations", "captured", "chip"), *rows) + "\n")
        if refusals:
            parts.append(_refused(refusals) + "\n")
    parts.append("## Operations of torch, in all libraries\n")
    parts.append(_refused([refusal for refusal in REFUSALS if refusal.framework == "torch"]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
