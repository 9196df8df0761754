"""Results as rows, and rows as CSV or Parquet: the same bytes for the same rows."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from snn2chip.errors import EnvironmentFailure
from snn2chip.ladder import wilson
from snn2chip.sweep.config import AIMS, AXES, REST, Configuration

FORMATS = ("csv", "parquet")

#: Columns and the type of their values; any may be empty (None) but the first three. Of one sample where they count:
#: energy in J, time in s, steps of time; all but accuracies, steps and spikes are modelled (:mod:`snn2chip.hardware`).
COLUMNS: dict[str, type] = {
    "configuration": int,
    "status": str,
    "reason": str,
    "bits": str,
    "scales": str,
    "rounding": str,
    "per_neuron": bool,
    "thresholds": str,
    "time_steps": int,
    "resets": str,
    "analog": str,
    "window": int,
    "policy": str,
    "form": str,
    "aim": str,
    "exit_threshold": str,
    "level": str,
    "samples": int,
    "right": int,
    "accuracy": float,
    "accuracy_low": float,
    "accuracy_high": float,
    "accuracy_full": float,
    "mean_steps": float,
    "mean_latency_steps": float,
    "exited": float,
    "spikes": float,
    "synaptic_operations": float,
    "energy": float,
    "dynamic_energy": float,
    "sample_time": float,
    "cores": int,
    "chips": int,
    "synaptic_memory_bytes": int,
    "net": str,
    "pareto": bool,
    "pareto_energy": bool,
    "pareto_cores": bool,
}


def row_of(
    number: int, options: Configuration, axes: Sequence[str], net: str | None, found: Mapping[str, Any]
) -> dict[str, Any]:
    """A row without its place on the fronts.

    Args:
        axes: options that the network has; the others' columns stay empty.
        net: the file of the network, as it is to be shown.
        found: what :func:`snn2chip.sweep.measuring.measure_task` returned for it, or a ``reason``.
    """
    cutoff = options.cutoff
    aim = next((name for name in AIMS if getattr(cutoff, name) is not None), None)
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= {
        "configuration": number,
        "status": "failed" if "reason" in found else "ok",
        "reason": " ".join(str(found.get("reason", "")).split()),
        **{name: _option(getattr(options, name)) for name in AXES if name in axes and name != "cutoff"},
        "policy": cutoff.policy or "none",
        "form": cutoff.form,
        "aim": None if aim is None else f"{aim} {getattr(cutoff, aim):g}",
        "level": None if cutoff.policy is None else cutoff.level,
        "net": net,
    }
    if "reason" in found:
        return row
    samples, right, cost = found["samples"], found["right"], found["cost"]
    low, high = wilson(right, samples)
    return row | {
        "time_steps": found["time_steps"],
        "form": found["form"],
        "exit_threshold": " ".join(map(str, found["thresholds"])) or None,
        "samples": samples,
        "right": right,
        "accuracy": right / samples,
        "accuracy_low": low,
        "accuracy_high": high,
        "accuracy_full": found["right_full"] / samples,
        "mean_steps": found["steps"] / samples,
        "mean_latency_steps": found["latency"] / samples,
        "exited": found["exited"] / samples,
        "spikes": cost["spikes"],
        "synaptic_operations": cost["operations"],
        "energy": cost["energy"],
        "dynamic_energy": cost["dynamic"],
        "sample_time": cost["seconds"],
        "cores": cost["cores"],
        "chips": found["chips"],
        "synaptic_memory_bytes": found["synaptic_memory_bytes"],
    }


def _option(value: Any) -> Any:
    """A value for all layers, or JSON where they differ."""
    if not isinstance(value, tuple):
        return value
    layers = dict(value)
    if set(layers) == {REST}:
        return f"{layers[REST]:g}" if isinstance(layers[REST], float) else str(layers[REST])
    return json.dumps(layers)


def check_format(form: str) -> None:
    """Raise :class:`EnvironmentFailure` where Parquet is asked for and cannot be written."""
    if form == "parquet":
        _pyarrow()


def encoded(rows: Sequence[Mapping[str, Any]], form: str) -> bytes:
    """All rows in one of :data:`FORMATS`.

    Raises:
        EnvironmentFailure: pyarrow is not installed.
    """
    return _csv(rows) if form == "csv" else _parquet(rows)


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        cells = (row[name] for name in COLUMNS)
        writer.writerow(str(cell).lower() if isinstance(cell, bool) else cell for cell in cells)
    return text.getvalue().encode()


def _parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    arrow, parquet = _pyarrow()
    types = {int: arrow.int64(), float: arrow.float64(), bool: arrow.bool_(), str: arrow.string()}
    schema = arrow.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
    buffer = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist([dict(row) for row in rows], schema), buffer)
    return buffer.getvalue()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise EnvironmentFailure(
            "--format parquet: pyarrow is not installed; pip install 'snn2chip[cluster]', or take csv"
        ) from error
    return pyarrow, pyarrow.parquet
