"""``snn2chip train``."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from snn2chip.cli import output
from snn2chip.cli.app import common, print_json
from snn2chip.errors import UsageError
from snn2chip.files import check_absent, write_whole
from snn2chip.training import METHODS, Options, Settings, Trained, load, plan_of, train
from snn2chip.training.deploy import save_trained
from snn2chip.training.loop import Epoch, Update

EPILOG = """\b
Data (--data):
  digits, saccades                 bundled images, and synthetic events of them
  torchvision:NAME:ROOT            an image data set that lies in ROOT, e.g. torchvision:CIFAR10:data/
  tonic:NAME:ROOT                  an event data set that lies in ROOT, e.g. tonic:NMNIST:data/
  train.npz, a folder, HDF5        x and y; --test names such a file with test samples

\b
Models (--model):
  mlp[:512-128]  conv[:16-32]  vgg[:0.5]  resnet19[:0.5]  PACKAGE.MODULE:FUNCTION

\b
A run that was interrupted goes on with the same command. Several processes or machines:
  torchrun --nproc-per-node 4 --no-python snn2chip train tet ...

\b
Examples:
  snn2chip train tet --data digits -o model.pt
  snn2chip train str --data saccades --time-steps 10 --model mlp:128 -o model.pt --log run.csv
  snn2chip train ltl --data torchvision:MNIST:data --model conv:16-32 --augment shift -o model.pt
"""

METHODS_HELP = "\n".join(f"{name:<8} {method.about}" for name, method in METHODS.items())


def _configured(ctx: click.Context, _parameter: click.Parameter, path: Path | None) -> Path | None:
    """Values of the file become the options' defaults, so that the command line has the last word."""
    if path is None:
        return None
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise click.UsageError(f"--config: {path}: cannot be read as JSON ({error})") from error
    known = {p.name for p in ctx.command.params if isinstance(p, click.Option)} - {"config", "as_json", "debug"}
    named = {key.replace("-", "_"): value for key, value in values.items()} if isinstance(values, dict) else None
    if named is None or set(named) - known:
        wrong = "not an object" if named is None else f"unknown {', '.join(sorted(set(named) - known))}"
        raise click.UsageError(f"--config: {path}: {wrong}; it holds options by their long names without --")
    ctx.default_map = {**(ctx.default_map or {}), **named}
    return path


@click.command("train", epilog=EPILOG)
@click.argument("method", type=click.Choice(list(METHODS)))
@click.option("--data", required=True, help="What to train on, see below.")
@click.option("--test", type=click.Path(path_type=Path), help="Test samples of data that come without.")
@click.option("--model", default="conv", show_default=True, help="The network, see below.")
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), required=True, help="Model to write.")
@click.option("--config", type=click.Path(path_type=Path), is_eager=True, callback=_configured, help="Options as JSON.")
@click.option("--epochs", type=click.IntRange(1), default=20, show_default=True)
@click.option("--time-steps", type=click.IntRange(1), help="T; data with a time axis keep theirs [default: METHOD's].")
@click.option("--batch", type=click.IntRange(2), default=64, show_default=True, help="Samples of an update.")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), default=3e-3, show_default=True)
@click.option("--optimiser", type=click.Choice(["adam", "adamw", "sgd"]), default="adam", show_default=True)
@click.option("--weight-decay", type=click.FloatRange(0), default=0.0, show_default=True)
@click.option(
    "--schedule", type=click.Choice(["onecycle", "cosine", "constant"]), default="onecycle", show_default=True
)
@click.option(
    "--clip", type=click.FloatRange(0), default=0.0, show_default=True, help="Largest gradient norm, 0: none."
)
@click.option("--augment", multiple=True, help="shift, crop, roll, flip or cutout; repeatable, in this order.")
@click.option(
    "--validation", type=click.FloatRange(0, 1, True, True), default=0.1, show_default=True, help="Share held out."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--precision", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32", show_default=True
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:0.")
@click.option("--threads", type=click.IntRange(1), help="Processor threads of torch.")
@click.option("--surrogate", help="Another surrogate gradient than the method's.")
@click.option("--lam", type=click.FloatRange(0, 1), help="TET: weight of its regulariser.")
@click.option("--inherit", type=click.IntRange(0), default=0, help="Temporal inheritance from so many steps.")
@click.option("--weight", type=click.FloatRange(0), help="Weight of the regulariser of str and rcs.")
@click.option("--rate-weight", type=click.FloatRange(0), default=0.0, help="Weight of the spike rate.")
@click.option("--rate-target", type=click.FloatRange(0, 1), default=0.0, help="Spike rate that costs nothing.")
@click.option("--sigma", type=click.FloatRange(0), default=0.2, show_default=True, help="noise: its deviation.")
@click.option("--mu", type=float, default=0.0, show_default=True, help="noise: its mean.")
@click.option("--teacher-epochs", type=click.IntRange(1), help="ltl, convert: of the teacher [default: --epochs].")
@click.option("--online", is_flag=True, help="ltl: no gradient crosses time.")
@click.option(
    "--warm-up", type=click.IntRange(0), default=12, show_default=True, help="ltl --online: steps without loss."
)
@click.option("--from-teacher/--from-scratch", default=True, show_default=True, help="ltl: initial weights.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="[default: OUTPUT.ckpt]")
@click.option("--log", type=click.Path(path_type=Path), help="Epochs as .csv or .json.")
@click.option("--force", is_flag=True, help="Start anew, overwrite everything.")
@common
def command(
    method: str,
    data: str,
    test: Path | None,
    target: Path,
    config: Path | None,
    time_steps: int | None,
    validation: float,
    threads: int | None,
    checkpoint: Path | None,
    log: Path | None,
    force: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Train a spiking network by METHOD and write a model that `snn2chip export` takes.

    \b
    METHOD:
    {methods}

    The best epoch is chosen on samples held out from training; test samples are looked at once, at the end.
    """
    check_absent(target, force)
    if log is not None and log.suffix not in (".csv", ".json"):
        raise UsageError(f"--log: {log}: the name has to end in .csv or .json")
    if threads is not None:
        torch.set_num_threads(threads)
    settings = Settings(**_for(Settings, given))
    options = Options(**_for(Options, given), time_steps=time_steps or METHODS[method].time_steps)
    samples = load(data, test, validation, settings.seed, time_steps or 10)
    began = time.perf_counter()
    with _shown(as_json, log) as tell:
        trained = train(
            plan_of(method, samples, options),
            samples,
            settings,
            checkpoint or target.with_suffix(".ckpt"),
            force,
            {"method": method, "samples": data, "test": str(test), "validation": validation, **vars(options)},
            tell,
        )
    seconds = time.perf_counter() - began
    if not trained.leads:
        return
    _write_log(log, trained.history)
    save_trained(trained.network, samples, target, samples.time_steps or options.time_steps, force)
    if as_json:
        print_json(_summary(trained, method, target, checkpoint or target.with_suffix(".ckpt"), seconds))
        return
    _print(trained, target, seconds)


assert command.help is not None
command.help = command.help.replace("{methods}", METHODS_HELP)


def _for(kind: type, given: dict[str, Any]) -> dict[str, Any]:
    """The options that are fields of ``kind``."""
    return {name: value for name, value in given.items() if name in kind.__dataclass_fields__}  # type: ignore[attr-defined]


@contextmanager
def _shown(quiet: bool, log: Path | None) -> Iterator[Callable[[Update], None]]:
    """A bar on a terminal, a line for each epoch elsewhere, and the log."""
    bar = None
    if output.err.is_terminal and not quiet:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("left"))
        bar = Progress(*columns, TimeRemainingColumn(), console=output.err, transient=True)
    task = None if bar is None else bar.add_task("starting", total=1.0)

    def tell(update: Update) -> None:
        if bar is not None and task is not None:
            text = (
                f"{update.stage} {update.epoch + 1}/{update.epochs}  loss {update.loss:.3f}  {_steps(update.accuracy)}"
            )
            bar.update(task, completed=update.share, description=text)
        if not update.history:
            return
        _write_log(log, update.history)
        if not quiet:
            output.err.print(_line(update.history[-1], update.epochs), markup=False, soft_wrap=True)

    if bar is None:
        yield tell
        return
    with bar:
        yield tell


def _line(epoch: Epoch, epochs: int) -> str:
    return (
        f"{epoch.stage} {epoch.epoch + 1}/{epochs}: loss {epoch.loss:.4f}, training {_steps(epoch.training_accuracy)}, "
        f"validation {_steps(epoch.validation.accuracy)}, {epoch.validation.spike_rate:.3f} spikes per neuron and step"
    )


def _steps(accuracy: Sequence[float]) -> str:
    """Accuracy after each step; of many the first, the middle and the last."""
    chosen = range(len(accuracy)) if len(accuracy) <= 6 else (0, (len(accuracy) - 1) // 2, len(accuracy) - 1)
    shown = " / ".join(f"{100 * accuracy[t]:.1f}" for t in chosen)
    steps = f" at steps {', '.join(str(t + 1) for t in chosen)}" if len(accuracy) > 6 else ""
    return f"{shown} %{steps}"


def _row(epoch: Epoch) -> dict[str, Any]:
    return {
        "stage": epoch.stage,
        "epoch": epoch.epoch + 1,
        "learning_rate": epoch.learning_rate,
        "loss": epoch.loss,
        "training_accuracy": epoch.training_accuracy[-1],
        "validation_loss": epoch.validation.loss,
        "validation_accuracy": epoch.validation.accuracy[-1],
        "spike_rate": epoch.validation.spike_rate,
        "seconds": epoch.seconds,
    }


def _write_log(log: Path | None, history: Sequence[Epoch]) -> None:
    """The whole history, each time: a resumed run's log has no gap."""
    if log is None:
        return
    if log.suffix == ".json":
        rows = [{**_row(epoch), "validation_accuracy_by_step": list(epoch.validation.accuracy)} for epoch in history]
        write_whole(log, json.dumps(rows, indent=1).encode(), force=True)
        return
    steps = max(len(epoch.validation.accuracy) for epoch in history)
    text = io.StringIO()
    writer = csv.DictWriter(text, [*_row(history[0]), *(f"validation_accuracy_{t + 1}" for t in range(steps))])
    writer.writeheader()
    for epoch in history:
        by_step = {f"validation_accuracy_{t + 1}": value for t, value in enumerate(epoch.validation.accuracy)}
        writer.writerow({**_row(epoch), **by_step})
    write_whole(log, text.getvalue().encode(), force=True)


def _summary(trained: Trained, method: str, target: Path, checkpoint: Path, seconds: float) -> dict[str, Any]:
    return {
        "file": str(target),
        "checkpoint": str(checkpoint),
        "method": method,
        "epochs": len(trained.history),
        "best_epoch": None if trained.best is None else trained.best.epoch + 1,
        "validation_accuracy": trained.validation.accuracy[-1],
        "validation_accuracy_by_step": list(trained.validation.accuracy),
        "test_accuracy": None if trained.test is None else trained.test.accuracy[-1],
        "test_accuracy_by_step": None if trained.test is None else list(trained.test.accuracy),
        "spike_rate": trained.validation.spike_rate,
        "seconds": seconds,
    }


def _print(trained: Trained, target: Path, seconds: float) -> None:
    console = output.out()
    best = "" if trained.best is None else f", best epoch {trained.best.epoch + 1} of stage {trained.best.stage}"
    console.print(f"trained {len(trained.history)} epochs in {seconds:.0f} s{best}", markup=False)
    console.print(f"validation {_steps(trained.validation.accuracy)}", markup=False)
    if trained.test is not None:
        console.print(f"test       {_steps(trained.test.accuracy)}", markup=False)
    console.print(f"wrote {target}\nNext:  snn2chip export {target}", markup=False)
