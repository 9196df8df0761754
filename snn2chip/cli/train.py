"""``snn2chip train``."""

from __future__ import annotations

import csv
import inspect
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from snn2chip.cli import options, output
from snn2chip.cli.app import common, print_json
from snn2chip.cli.choices import METHODS
from snn2chip.errors import UsageError
from snn2chip.files import check_absent, check_apart, check_folder, write_whole
from snn2chip.names import meant

if TYPE_CHECKING:
    from snn2chip.training import Trained
    from snn2chip.training.loop import Epoch, Update

EPILOG = """
Data (--data):
  digits, saccades            bundled images, and synthetic events of them
  torchvision:NAME:ROOT       an image data set in the folder ROOT, e.g.
                              torchvision:CIFAR10:data/
  tonic:NAME:ROOT             an event data set in the folder ROOT, e.g.
                              tonic:NMNIST:data/
  train.npz, a folder, HDF5   x and y; --test names such a file with test
                              samples

Models (--model):
  mlp[:512-128]  conv[:16-32]  vgg[:0.5]  resnet19[:0.5]
  PACKAGE.MODULE:FUNCTION

A run that was interrupted goes on with the same command. Several processes
or machines:
  torchrun --nproc-per-node 4 --no-python snn2chip train tet ...

Examples:
  snn2chip train tet --data digits -o model.pt
  snn2chip train str --data saccades --time-steps 10 --model mlp:128 \\
      -o model.pt --log run.csv
  snn2chip train ltl --data torchvision:MNIST:data --model conv:16-32 \\
      --augment shift -o model.pt
"""


#: Generators take 64 bits, and each epoch of each seed has one of its own.
MOST_SEED = (1 << 32) - 1


class _Unreadable(click.ClickException):
    exit_code = 3


def _configured(ctx: click.Context, _parameter: click.Parameter, path: Path | None) -> Path | None:
    """Values of the file become the options' defaults, so that the command line has the last word."""
    if path is None:
        return None
    given = [
        p for p in ctx.command.params if isinstance(p, click.Option) and p.name not in ("config", "as_json", "debug")
    ]
    known = {max(p.opts, key=len).lstrip("-"): p for p in given}
    try:
        values = json.loads(path.read_text(), object_pairs_hook=_once)
        if not isinstance(values, dict):
            raise ValueError("is no object")
        named = {key.replace("_", "-"): value for key, value in values.items()}
        unknown = sorted(set(named) - set(known))
        if unknown:
            raise ValueError(f"unknown {', '.join(unknown)}{meant(unknown[0], known)}")
        defaults = {known[key].name: _default(known[key], key, value) for key, value in named.items()}
    except FileNotFoundError as error:
        raise _Unreadable(f"--config: {path}: no such file") from error
    except (OSError, ValueError, RecursionError) as error:
        text = str(error).splitlines()[0][:200]
        raise _Unreadable(
            f"--config: {path}: {text}; it holds options by their long names without --, as JSON"
        ) from error
    ctx.default_map = {**(ctx.default_map or {}), **{name: value for name, value in defaults.items() if name}}
    return path


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"{twice} is given twice")
    return values


def _default(option: click.Option, key: str, value: Any) -> Any:
    """What would be typed for ``value``, so that the option judges it as if it had been.

    Raises:
        ValueError: it is no value of such an option.
    """
    if option.is_flag:
        if not isinstance(value, bool):
            raise ValueError(f"{key}: {json.dumps(value)[:60]}, expected true or false")
        return value
    if option.multiple and isinstance(value, list):
        return [_default_word(key, one) for one in value]
    word = _default_word(key, value)
    return [word] if option.multiple else word


def _default_word(key: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{key}: {json.dumps(value)[:60]}, expected a word or a number")
    return str(value)


@options.command(
    "train",
    EPILOG,
    {
        "Data and network": ("data", "test", "time_steps", "validation", "augment", "model"),
        "Output": ("target", "log", "checkpoint", "force"),
        "Optimisation": (
            "epochs",
            "batch",
            "learning_rate",
            "optimiser",
            "weight_decay",
            "schedule",
            "clip",
            "seed",
            "surrogate",
            "rate_weight",
            "rate_target",
        ),
        "Single methods": (
            "lam",
            "inherit",
            "weight",
            "sigma",
            "mu",
            "teacher_epochs",
            "online",
            "warm_up",
            "from_teacher",
        ),
        "Machine": ("device", "precision", "threads"),
    },
)
@options.argument("method", options.Name(list(METHODS)), "How to train: one of those above.")
@click.option(
    "--config",
    type=options.File(".json"),
    metavar="FILE",
    is_eager=True,
    callback=_configured,
    help="Options by their long names, as JSON; options given here win over it.",
)
@click.option("--data", type=options.DataName(), metavar="DATA", required=True, help="What to train on, see below.")
@click.option("--test", type=options.SAMPLES, metavar="DATA", help="Test samples, for data that come without.")
@click.option(
    "--time-steps", type=options.COUNT, metavar="T", help="Time steps; events keep theirs.  [default: METHOD's]"
)
@click.option(
    "--validation",
    type=options.Number(0, 1, True, True),
    metavar="SHARE",
    default=0.1,
    show_default=True,
    help="Share of the training samples that chooses the best epoch.",
)
@click.option(
    "--augment",
    type=options.OneOf("shift", "crop", "roll", "flip", "cutout"),
    metavar="NAME",
    multiple=True,
    help="shift, crop, roll, flip or cutout; repeatable, in this order.",
)
@click.option(
    "--model",
    type=options.OneOf("mlp", "conv", "vgg", "resnet19"),
    metavar="NAME",
    default="conv",
    show_default=True,
    help="The network, see below.",
)
@options.output_option(options.File(".pt"), "Model to write.", required=True)
@click.option("--log", type=options.File(".csv", ".json"), metavar="FILE", help="Write epochs to a .csv or .json.")
@click.option(
    "--checkpoint",
    type=options.File(".ckpt"),
    metavar="FILE",
    help="Where an interrupted run goes on from.  [default: OUTPUT.ckpt]",
)
@options.force_option("Start anew; overwrite everything.")
@click.option("--epochs", type=options.COUNT, metavar="N", default=20, show_default=True, help="Passes over the data.")
@click.option(
    "--batch", type=click.IntRange(2), metavar="N", default=64, show_default=True, help="Samples of an update."
)
@click.option(
    "--learning-rate",
    type=options.Number(0, min_open=True),
    metavar="X",
    default=3e-3,
    show_default=True,
    help="Its largest value.",
)
@click.option(
    "--optimiser",
    type=options.Name(["adam", "adamw", "sgd"]),
    default="adam",
    show_default=True,
    help="Rule of the updates.",
)
@click.option(
    "--weight-decay",
    type=options.Number(0),
    metavar="X",
    default=0.0,
    show_default=True,
    help="Of the optimiser.",
)
@click.option(
    "--schedule",
    type=options.Name(["onecycle", "cosine", "constant"]),
    default="onecycle",
    show_default=True,
    help="How the learning rate changes.",
)
@click.option(
    "--clip",
    type=options.Number(0),
    metavar="X",
    default=0.0,
    show_default=True,
    help="Largest norm of a gradient; 0: any.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, MOST_SEED),
    metavar="N",
    default=0,
    show_default=True,
    help="Of all random numbers.",
)
@click.option(
    "--surrogate",
    type=options.OneOf("triangle", "boxcar", "narrow", "atan", "fast_sigmoid", "s2nn", "straight_through"),
    metavar="NAME",
    help="Surrogate gradient.  [default: METHOD's]",
)
@click.option(
    "--rate-weight",
    type=options.Number(0),
    metavar="X",
    default=0.0,
    show_default=True,
    help="Weight of the spike rate in the loss.",
)
@click.option(
    "--rate-target",
    type=options.Number(0, 1),
    metavar="RATE",
    default=0.0,
    show_default=True,
    help="Spikes per neuron and step that cost nothing.",
)
@click.option(
    "--lam",
    type=options.Number(0, 1),
    metavar="X",
    help="tet, str, rcs: weight of TET's regulariser.  [default: 0.05, for events 0.001]",
)
@click.option(
    "--inherit",
    type=click.IntRange(0),
    metavar="T",
    default=0,
    show_default=True,
    help="sdt, tet: train 5/6 of the epochs with so many steps, the rest with all; 0: not.",
)
@click.option(
    "--weight",
    type=options.Number(0),
    metavar="X",
    help="str, rcs: weight of the regulariser.  [default: METHOD's]",
)
@click.option(
    "--sigma",
    type=options.Number(0),
    metavar="X",
    default=0.2,
    show_default=True,
    help="noise: its standard deviation.",
)
@click.option("--mu", type=options.Number(), metavar="X", default=0.2, show_default=True, help="noise: its mean.")
@click.option(
    "--teacher-epochs",
    type=options.COUNT,
    metavar="N",
    help="ltl, convert: epochs of the teacher.  [default: --epochs]",
)
@click.option("--online", is_flag=True, help="ltl: no gradient crosses time.")
@click.option(
    "--warm-up",
    type=click.IntRange(0),
    metavar="STEPS",
    default=12,
    show_default=True,
    help="ltl --online: steps without loss.",
)
@click.option("--from-teacher/--from-scratch", default=True, show_default=True, help="ltl: initial weights.")
@click.option(
    "--device",
    type=options.OneOf("auto", "cpu", "cuda"),
    metavar="NAME",
    default="auto",
    show_default=True,
    help="auto, cpu, cuda or cuda:0.",
)
@click.option(
    "--precision",
    type=options.Name(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="Of the network's values; less is faster on a GPU.",
)
@click.option(
    "--threads", type=click.IntRange(1, 1024), metavar="N", help="Processor threads of torch.  [default: torch's]"
)
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

    The best epoch is chosen on samples held out from training; test samples are looked at once, at the end.

    \b
    METHOD is one of:
    {methods}
    """
    checkpoint = checkpoint or target.with_suffix(".ckpt")
    if log is not None and log.suffix not in (".csv", ".json"):
        raise UsageError(f"--log: {log}: the name has to end in .csv or .json")
    outputs = [target, checkpoint, *([] if log is None else [log])]
    for i, path in enumerate(outputs):
        check_apart(path, *outputs[:i], Path(data), *([] if test is None else [test]))
        check_folder(path)
    check_absent(target, force)
    if log is not None and not _is_log(log):  # which a run that goes on writes anew
        check_absent(log, force)
    with output.working("Loading torch", as_json):
        import torch

        from snn2chip.training import METHODS, Options, Settings, load, plan_of, train
        from snn2chip.training.deploy import save_trained

    if threads is not None:
        torch.set_num_threads(threads)
    settings = Settings(**_for(Settings, given))
    options = Options(**_for(Options, given), time_steps=time_steps or METHODS[method].time_steps)
    with output.working(f"Loading {data}", as_json):
        samples = load(data, test, validation, settings.seed, time_steps or 10)
    began = time.perf_counter()
    with _shown(as_json, log) as tell:
        trained = train(
            plan_of(method, samples, options),
            samples,
            settings,
            checkpoint,
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
        print_json(_summary(trained, method, target, checkpoint, seconds))
        return
    _print(trained, target, seconds)


assert command.help is not None
command.help = inspect.cleandoc(command.help).replace("{methods}", options.listed(METHODS))


def _for(kind: type, given: dict[str, Any]) -> dict[str, Any]:
    """The options that are fields of ``kind``."""
    return {name: value for name, value in given.items() if name in kind.__dataclass_fields__}  # type: ignore[attr-defined]


@contextmanager
def _shown(quiet: bool, log: Path | None) -> Iterator[Callable[[Update], None]]:
    """A bar on a terminal, a line for each epoch, and the log."""
    with output.working("Training", quiet) as bar:

        def tell(update: Update) -> None:
            text = f"{update.stage}: {update.epoch + 1}/{update.epochs}, loss {update.loss:.3f}"
            bar(f"{text}, {_steps(update.accuracy)}", round(1000 * update.share), 1000)
            if not update.history:
                return
            _write_log(log, update.history)
            if not quiet:
                whole = not output.watched(output.err)  # a log is not 80 columns wide
                output.err.print(_line(update.history[-1], update.epochs), markup=False, soft_wrap=whole)

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


def _is_log(path: Path) -> bool:
    """Whether an earlier run of this command has written it."""
    try:
        with path.open() as file:
            begin = "".join(file.read(100).split())
    except (OSError, ValueError):
        return False
    return begin.startswith(("stage,epoch,", '[{"stage":'))


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
    output.command(f"wrote {target}\nNext:  snn2chip export {target}")
