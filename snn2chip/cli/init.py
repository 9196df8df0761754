"""``snn2chip init``."""

from __future__ import annotations

from pathlib import Path

import click

from snn2chip.cli import output
from snn2chip.cli.app import common, print_json
from snn2chip.compiler import lowered_graph
from snn2chip.config import template
from snn2chip.errors import UsageError
from snn2chip.files import write_whole
from snn2chip.passes import chip_blocks
from snn2chip.quantise import is_integer
from snn2chip.sources import open_source


@click.command("init")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), help="File to write [default: MODEL.yaml].")
@click.option("--force", is_flag=True, help="Overwrite the output.")
@common
def command(model: Path, target: Path | None, force: bool, as_json: bool) -> None:
    """Write a YAML file with every option of an export of MODEL, for `snn2chip export MODEL --config FILE`."""
    target = target or model.with_suffix(".yaml")
    graph = open_source(model).model.graph
    if is_integer(graph):
        raise UsageError(f"{model}: holds integers already, there is nothing to choose")
    layers = [block.name for block in chip_blocks(lowered_graph(graph))]
    text = template(str(model), layers, graph.input.kind != "spikes")
    write_whole(target, memoryview(text.encode()), force)
    if as_json:
        print_json({"file": str(target), "layers": layers})
    else:
        output.out().print(f"wrote {target}: {len(layers)} layers", markup=False)
