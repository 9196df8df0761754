"""``snn2chip report``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from snn2chip.cli import options, output
from snn2chip.cli.app import common, print_json
from snn2chip.errors import CheckFailed, UsageError
from snn2chip.files import check_absent, check_apart, write_whole
from snn2chip.formats import read

EPILOG = """
Examples:
  snn2chip report model.net test.npz -o report.html --source model.pt
  snn2chip report exit.net test.npz -o report.html --samples 10000
  snn2chip report model.net test.npz -o report.html --neuron L3:7 \\
      --neuron "0 (Conv2d):3,5,5"

Exit codes: 0 fine, 1 the simulators differ (the page is written and says
where), 5 Lava failed
"""


def _neurons(asked: tuple[str, ...]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    found = []
    for words in asked:
        layer, _, index = words.rpartition(":")
        numbers = [number.strip() for number in index.split(",")]
        if not layer or not all(number.isascii() and number.isdigit() and len(number) < 19 for number in numbers):
            raise UsageError(f"--neuron: {words!r}, expected LAYER:INDEX, such as 'L1:7' or 'features.0:3,5,5'")
        found.append((layer, tuple(map(int, numbers))))
    return tuple(found)


@options.command("report", EPILOG)
@options.net_argument()
@options.data_argument("Samples x and, for the accuracy, classes y.")
@options.output_option(options.File(".html"), "Page to write.", required=True)
@click.option(
    "--source",
    type=options.MODEL,
    metavar="MODEL",
    help="The model.pt (or .nir) that NET was made of: adds the trained model beside the chip.",
)
@options.samples_option("Use only the first N samples.", default=1000)
@click.option(
    "--neuron",
    "neurons",
    multiple=True,
    metavar="LAYER:INDEX",
    help="Neuron whose membrane potential is shown, by the layer's name or number; repeatable.  "
    "[default: one of each layer]",
)
@click.option(
    "--against",
    type=options.Name(("lava", "reference")),
    metavar="NAME",
    help="The simulator that is right: lava or reference.  [default: lava, or reference where Lava is not installed]",
)
@click.option(
    "--compare",
    type=options.COUNT,
    metavar="N",
    default=16,
    show_default=True,
    help="Samples that are compared bit for bit.",
)
@options.timeout_option(600.0)
@options.force_option()
@common
def command(
    net: Path,
    data: Path,
    target: Path,
    source: Path | None,
    samples: int,
    neurons: tuple[str, ...],
    against: str | None,
    compare: int,
    timeout: float,
    force: bool,
    as_json: bool,
) -> None:
    """Write one HTML page about NET on DATA: is it right on the chip, what does it cost, where does it lose accuracy.

    The page opens offline, on a phone as on a desk.
    """

    from snn2chip.data import open_data
    from snn2chip.exporters.netx import read_measured
    from snn2chip.report import Names, Options, collect, page, summary
    from snn2chip.sources import SourceOptions, open_source

    check_apart(target, net, data, *([] if source is None else [source]))
    check_absent(target, force)
    wanted = Options(samples, compare, against, timeout, _neurons(neurons))
    network, rows = read(net), open_data(data)
    graph = None
    notes: tuple[str, ...] = ()
    if source is not None:
        steps = network.time_steps if source.suffix.lower() == ".nir" else None
        opened = open_source(source, options=SourceOptions(time_steps=steps))
        graph, notes = opened.model.graph, opened.notes
    with output.working("Report", as_json) as tell:
        content = collect(network, rows, graph, notes, wanted, Names.of(net, data, source), read_measured(net), tell)
        html = page(content).encode()
    write_whole(target, html, force)
    found = summary(content)
    if as_json:
        print_json({"file": str(target), "bytes": len(html), **found})
    else:
        if content.proof.note:
            output.out().print(content.proof.note, style="yellow", markup=False)
        output.print_verification(content.proof.result, content.proof.against, content.proof.backend)
        output.out().print(f"wrote {target} ({len(html) / 1024:,.0f} KiB)", markup=False)
    if not found["equal"]:
        sys.exit(CheckFailed.exit_code)
