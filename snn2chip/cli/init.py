"""``snn2chip init``."""

from __future__ import annotations

from pathlib import Path

from snn2chip.cli import options, output
from snn2chip.cli.app import common, print_json
from snn2chip.errors import UsageError
from snn2chip.files import check_apart, write_whole
from snn2chip.passes import chip_blocks

EPILOG = """
Examples:
  snn2chip init model.pt
  snn2chip export model.pt --config model.yaml
"""


@options.command("init", EPILOG)
@options.argument("model", options.MODEL, "The trained model, as `snn2chip export` takes it.")
@options.output_option(options.File(".yaml"), "File to write.  [default: MODEL.yaml]")
@options.force_option()
@common
def command(model: Path, target: Path | None, force: bool, as_json: bool) -> None:
    """Write a YAML file with every option of an export of MODEL, for `snn2chip export MODEL --config FILE`."""

    from snn2chip.compiler import lowered_graph
    from snn2chip.config import template
    from snn2chip.quantise import is_integer
    from snn2chip.sources import open_source

    target = target or model.with_suffix(".yaml")
    check_apart(target, model)
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
