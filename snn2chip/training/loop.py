"""The training loop of all methods: stages of epochs, checkpoints, exact resume, the best epoch by validation.

A run is a :class:`Plan` of :class:`Stage`s, each of which builds its network from those of the stages before. Random
numbers come from torch's generator alone, and the order of the samples from the seed and the epoch, so that a run that
was interrupted after any batch goes on to the same weights, bit for bit on a CPU.
"""

from __future__ import annotations

import contextlib
import copy
import math
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from snn2chip.errors import InputError, UsageError
from snn2chip.names import suggestion
from snn2chip.training import checkpoint as checkpoints
from snn2chip.training.augment import augmentation
from snn2chip.training.datasets import Samples, TrainingData, fewer_steps
from snn2chip.training.parallel import Group, group
from snn2chip.training.records import LayerRecord, observe, outputs_of

#: Samples that are evaluated at once.
EVALUATED = 256


@dataclass(frozen=True)
class Settings:
    """How to train, whatever the method.

    Attributes:
        batch: samples of an update, over all processes.
        learning_rate: the highest.
        optimiser: adam, adamw or sgd (momentum 0.9).
        weight_decay: of the optimiser.
        schedule: onecycle, cosine or constant.
        seed: of weights, order, augmentation and noise.
        augment: names of :data:`snn2chip.training.augment.AUGMENTATIONS`.
        precision: float32, bfloat16 or float16 (mixed; the neurons stay in float32).
        device: auto, cpu, cuda, cuda:1 ...
        clip: largest norm of the gradient, 0 for no limit.
    """

    batch: int = 64
    learning_rate: float = 3e-3
    optimiser: str = "adam"
    weight_decay: float = 0.0
    schedule: str = "onecycle"
    seed: int = 0
    augment: tuple[str, ...] = ()
    precision: str = "float32"
    device: str = "auto"
    clip: float = 0.0

    def __post_init__(self) -> None:
        for name, known in (
            ("optimiser", ("adam", "adamw", "sgd")),
            ("schedule", ("onecycle", "cosine", "constant")),
            ("precision", ("float32", "bfloat16", "float16")),
        ):
            if getattr(self, name) not in known:
                raise UsageError(f"{name}: {getattr(self, name)!r} is unknown{suggestion(getattr(self, name), known)}")
        if self.batch < 2 or self.learning_rate <= 0 or self.weight_decay < 0 or self.clip < 0:
            raise UsageError(
                "settings: batch is at least 2, learning_rate positive, weight_decay and clip not negative"
            )
        augmentation(self.augment)


@dataclass(frozen=True, eq=False)
class Batch:
    """What a loss is made of.

    Attributes:
        x: ``[N, ...]`` as the network took it.
        classes: ``[N]``.
        outputs: ``[T, N, classes]``.
        layers: what the neurons did, where the objective asks for it.
    """

    x: Tensor
    classes: Tensor
    outputs: Tensor
    layers: list[LayerRecord]


@dataclass(frozen=True)
class Objective:
    """A loss, and what it needs to have recorded.

    Attributes:
        loss: of a batch.
        records: whether it needs the layers' spikes.
        potentials: whether it needs their potentials too.
        local: whether gradients stop between layers.
    """

    loss: Callable[[Batch], Tensor]
    records: bool = False
    potentials: bool = False
    local: bool = False


@dataclass(frozen=True)
class Stage:
    """Epochs of one network with one objective.

    Attributes:
        name: for reports.
        epochs: how many.
        build: makes the network from those of the stages before, on the CPU and without random numbers of its own
            where it copies weights; called again on resume, before the weights are loaded.
        objective: makes the objective from the same, moved to the device.
        time_steps: of the network; data with more of them are joined to as many.
        during: what surrounds each batch.
    """

    name: str
    epochs: int
    build: Callable[[Sequence[nn.Module]], nn.Module]
    objective: Callable[[Sequence[nn.Module]], Objective]
    time_steps: int
    during: Callable[[nn.Module], AbstractContextManager[Any]] = lambda module: nullcontext()


@dataclass(frozen=True)
class Plan:
    """Stages in order, and what becomes of the last network: ``finish`` is given the networks of all stages."""

    stages: tuple[Stage, ...]
    finish: Callable[[Sequence[nn.Module]], nn.Module] = lambda networks: networks[-1]


@dataclass(frozen=True)
class Score:
    """On one set of samples.

    Attributes:
        loss: cross-entropy of the mean output.
        accuracy: of the mean output up to each step, ``T`` numbers.
        spike_rate: spikes per neuron and step.
    """

    loss: float
    accuracy: tuple[float, ...]
    spike_rate: float


@dataclass(frozen=True)
class Epoch:
    """A line of the log."""

    stage: str
    epoch: int
    learning_rate: float
    loss: float
    training_accuracy: tuple[float, ...]
    validation: Score
    seconds: float


@dataclass(frozen=True)
class Update:
    """Where a run stands, after each batch.

    Attributes:
        stage: its name.
        epoch, epochs: of the stage, from 0 on.
        share: of the run that is done.
        loss, accuracy: of this epoch so far, on training samples; accuracy for each step.
        history: all epochs so far, where one has just ended; else empty.
    """

    stage: str
    epoch: int
    epochs: int
    share: float
    loss: float
    accuracy: tuple[float, ...]
    history: tuple[Epoch, ...] = ()


@dataclass(frozen=True, eq=False)
class Trained:
    """What a run gives.

    Attributes:
        network: with the weights of the best epoch, in evaluation, on the CPU, as the plan finished it.
        networks: of all stages, in the same state.
        history: all epochs of all stages.
        best: of the last stage; None where it had no epochs.
        validation, test: of the finished network; ``test`` is None without test samples.
        leads: whether this process is the one that writes files.
    """

    network: nn.Module
    networks: tuple[nn.Module, ...]
    history: tuple[Epoch, ...]
    best: Epoch | None
    validation: Score
    test: Score | None
    leads: bool


class _Steps(nn.Module):
    """Output at each step as a forward pass, which is what data-parallel wrappers take."""

    def __init__(self, module: nn.Module, time_steps: int) -> None:
        super().__init__()
        self.module, self.time_steps = module, time_steps

    def forward(self, x: Tensor) -> Tensor:
        return outputs_of(self.module, x, self.time_steps)


@dataclass
class _Best:
    epoch: int = -1
    accuracy: float = -1.0
    loss: float = math.inf
    state: dict[str, Tensor] = field(default_factory=dict)

    def offer(self, epoch: int, score: Score, module: nn.Module) -> None:
        if (score.accuracy[-1], -score.loss) > (self.accuracy, -self.loss):
            self.epoch, self.accuracy, self.loss = epoch, score.accuracy[-1], score.loss
            self.state = {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}


def evaluate(module: nn.Module, samples: Samples, time_steps: int, together: Group | None = None) -> Score:
    """How a network does, in evaluation; over several processes each takes its share.

    Args:
        module: see :func:`snn2chip.training.records.outputs_of`.
        samples: to evaluate on.
        time_steps: of the network; data with more are joined to as many.
        together: the processes that share the work.
    """
    together = together or Group(0, 1, next((p.device for p in module.parameters()), torch.device("cpu")))
    was_training = module.training
    module.eval()
    right, loss, fired, count = torch.zeros(time_steps), torch.zeros(1), torch.zeros(2), torch.zeros(1)
    with torch.no_grad(), observe(module) as records:
        for index in torch.split(together.share(torch.arange(len(samples))), EVALUATED):
            x, y = _on(together.device, samples.part(index), time_steps)
            outputs = outputs_of(module, x, time_steps).float()
            right += _right(outputs, y).cpu()
            loss += nn.functional.cross_entropy(outputs.mean(0), y, reduction="sum").cpu()
            count += len(y)
            layers = records.take()
            for one in layers:
                fired += torch.tensor([one.spikes.sum().item(), one.spikes.numel()])
    module.train(was_training)
    sums = together.total(torch.cat([right, loss, fired, count]).double())
    samples_seen = float(sums[-1])
    accuracy = tuple((sums[:time_steps] / samples_seen).tolist())
    neurons = float(sums[-2])
    return Score(float(sums[time_steps]) / samples_seen, accuracy, float(sums[-3]) / neurons if neurons else 0.0)


def train(
    plan: Plan,
    data: TrainingData,
    settings: Settings,
    checkpoint: Path | None = None,
    force: bool = False,
    identity: dict[str, Any] | None = None,
    progress: Callable[[Update], None] = lambda update: None,
) -> Trained:
    """Run ``plan``; the same call goes on where an interrupted one stopped.

    Ctrl-C and SIGTERM are answered after the current batch: the checkpoint is written and KeyboardInterrupt raised.
    Under ``torchrun`` all processes call this alike; batch norms use their own process's statistics, and the smallest
    last batch of an epoch is left out where it has fewer than two samples for each process.

    Args:
        plan: stages.
        data: the test part is looked at once, at the end.
        settings: how.
        checkpoint: file that is kept up to date, after each epoch and at an interruption.
        force: start anew although the checkpoint exists.
        identity: what beside ``settings`` the run depends on, plain values; compared on resume.
        progress: called after each batch, by the process that leads.

    Raises:
        UsageError: the checkpoint is of a run with other settings.
        InputError: the checkpoint cannot be read, or the loss is not finite any more.
        KeyboardInterrupt: interrupted; with a checkpoint the same call goes on.
    """
    with group(settings.device) as together:
        run = _Run(plan, data, settings, together, checkpoint, identity or {}, progress)
        if checkpoint is not None and not force and any(together.gathered(checkpoint.exists())):
            run.resume(checkpoints.read(checkpoint))
        return run.go()


class _Run:
    """The state of a run, as the checkpoint has it."""

    def __init__(
        self,
        plan: Plan,
        data: TrainingData,
        settings: Settings,
        together: Group,
        checkpoint: Path | None,
        identity: dict[str, Any],
        progress: Callable[[Update], None],
    ) -> None:
        self.plan, self.data, self.settings, self.together = plan, data, settings, together
        self.checkpoint, self.progress = checkpoint, progress
        self.identity = {
            **{name: _plain(value) for name, value in vars(settings).items() if name != "device"},
            **{name: _plain(value) for name, value in identity.items()},
            "processes": together.size,
            "stages": [[stage.name, stage.epochs, stage.time_steps] for stage in plan.stages],
            "data": [*data.training.x.shape, _digest(data.training), len(data.validation), _digest(data.validation)],
        }
        self.augment = augmentation(settings.augment)
        self.finished: list[dict[str, Tensor]] = []
        self.networks: list[nn.Module] = []
        self.history: list[Epoch] = []
        self.kept: dict[str, Any] | None = None  # of the stage that was interrupted

    def resume(self, content: dict[str, Any]) -> None:
        assert self.checkpoint is not None
        checkpoints.check_settings(self.checkpoint, content["settings"], self.identity)
        self.finished = content["finished"]
        self.history = [_epoch(entry) for entry in content["history"]]
        self.kept = content["stage"]

    def go(self) -> Trained:
        torch.manual_seed(self.settings.seed + 1000 * self.together.rank)
        best: Epoch | None = None
        with _interruptible() as interrupted:
            for number, stage in enumerate(self.plan.stages):
                self._stage(number, stage, interrupted)
                mine = [epoch for epoch in self.history if epoch.stage == stage.name]
                best = min(mine, key=lambda e: (-e.validation.accuracy[-1], e.validation.loss), default=None)
        self._save(None)
        network = self.plan.finish(self.networks).eval()
        steps = getattr(network, "time_steps", self.plan.stages[-1].time_steps)
        network.to(self.together.device)
        test = None if self.data.test is None else evaluate(network, self.data.test, steps, self.together)
        validation = evaluate(network, self.data.validation, steps, self.together)
        network.cpu()
        return Trained(network, tuple(self.networks), tuple(self.history), best, validation, test, self.together.leads)

    def _stage(self, number: int, stage: Stage, interrupted: threading.Event) -> None:
        with torch.random.fork_rng([]):  # the same on every process
            torch.manual_seed(self.settings.seed + number)
            module = stage.build(self.networks)
        if number < len(self.finished):
            module.load_state_dict(self.finished[number])
            self.networks.append(module.eval())
            return
        device = self.together.device
        module.to(device)
        objective = stage.objective([network.to(device) for network in self.networks])
        optimiser = _optimiser(self.settings, module)
        scaler = GradScaler(device.type, enabled=self.settings.precision == "float16")
        wrapped = self.together.wrapped(_Steps(module, stage.time_steps))
        best, epoch, done, sums = _Best(), 0, 0, torch.zeros(stage.time_steps + 2, dtype=torch.float64)
        if self.kept is not None:
            kept, self.kept = self.kept, None
            module.load_state_dict(kept["model"])
            optimiser.load_state_dict(kept["optimiser"])
            scaler.load_state_dict(kept["scaler"])
            best, epoch, done, sums = _Best(**kept["best"]), kept["epoch"], kept["batch"], kept["sums"]
            _set_random(kept["random"][self.together.rank], device)
        while epoch < stage.epochs:
            began = time.perf_counter()
            batches = self._batches(epoch)
            module.train()
            with ExitStack() as stack:
                records = (
                    stack.enter_context(observe(module, objective.potentials, objective.local))
                    if objective.records
                    else None
                )
                stack.enter_context(stage.during(module))
                while done < len(batches):
                    rate = learning_rate(self.settings, epoch * len(batches) + done, stage.epochs * len(batches))
                    for parameters in optimiser.param_groups:
                        parameters["lr"] = rate
                    x, y = _on(device, self.data.training.part(self.together.share(batches[done])), stage.time_steps)
                    x = self.augment(x)
                    with self._precision():
                        outputs = wrapped(x)
                    batch = Batch(x, y, outputs.float(), records.take() if records is not None else [])
                    loss = objective.loss(batch)
                    self._update(module, optimiser, scaler, loss)
                    done += 1
                    sums += torch.cat(
                        [
                            _right(batch.outputs.detach(), y).cpu(),
                            loss.detach().cpu()[None] * len(y),
                            torch.tensor([len(y)]),
                        ]
                    )
                    self._tell(stage, epoch, done / len(batches), sums)
                    if self._asked(interrupted):
                        self._save(self._state(module, optimiser, scaler, best, epoch, done, sums))
                        raise KeyboardInterrupt
            totals = self.together.total(sums)
            seen = float(totals[-1])
            if not math.isfinite(float(totals[-2])):
                raise InputError(f"training: the loss of epoch {epoch + 1} is not finite; use a lower learning rate")
            score = evaluate(module, self.data.validation, stage.time_steps, self.together)
            best.offer(epoch, score, module)
            line = Epoch(
                stage.name,
                epoch,
                learning_rate(self.settings, (epoch + 1) * len(batches) - 1, stage.epochs * len(batches)),
                float(totals[-2]) / seen,
                tuple((totals[:-2] / seen).tolist()),
                score,
                time.perf_counter() - began,
            )
            self.history.append(line)
            self._tell(stage, epoch, 1.0, sums, ended=True)
            epoch, done, sums = epoch + 1, 0, torch.zeros_like(sums)
            self._save(self._state(module, optimiser, scaler, best, epoch, done, sums))
        module.cpu().eval()
        if best.state:
            module.load_state_dict(best.state)
        self.networks = [network.cpu() for network in self.networks] + [module]
        self.finished.append({name: value.clone() for name, value in module.state_dict().items()})

    def _batches(self, epoch: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(1_000_003 * self.settings.seed + epoch)
        order = torch.randperm(len(self.data.training), generator=generator)
        batches = [part for part in torch.split(order, self.settings.batch) if len(part) >= 2 * self.together.size]
        if not batches:
            raise UsageError(
                f"training: {len(order)} samples in batches of {self.settings.batch} are fewer than two for each of "
                f"{self.together.size} processes"
            )
        return batches

    def _precision(self) -> AbstractContextManager[Any]:
        if self.settings.precision == "float32":
            return nullcontext()
        return torch.autocast(self.together.device.type, getattr(torch, self.settings.precision))

    def _update(self, module: nn.Module, optimiser: Any, scaler: Any, loss: Tensor) -> None:
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(scaler.scale(loss))
        if self.settings.clip:
            scaler.unscale_(optimiser)
            nn.utils.clip_grad_norm_(module.parameters(), self.settings.clip)
        scaler.step(optimiser)
        scaler.update()

    def _tell(self, stage: Stage, epoch: int, done: float, sums: Tensor, ended: bool = False) -> None:
        """``done``: share of the epoch."""
        if not self.together.leads:
            return
        seen = float(sums[-1])
        before = sum(one.epochs for one in self.plan.stages[: len(self.networks)])
        share = (before + epoch + done) / max(1, sum(one.epochs for one in self.plan.stages))
        accuracy = tuple((sums[:-2] / seen).tolist())
        history = tuple(self.history) if ended else ()
        self.progress(Update(stage.name, epoch, stage.epochs, share, float(sums[-2]) / seen, accuracy, history))

    def _asked(self, interrupted: threading.Event) -> bool:
        if self.together.size == 1:
            return interrupted.is_set()
        return bool(self.together.total(torch.tensor([float(interrupted.is_set())]))[0])

    def _state(
        self, module: nn.Module, optimiser: Any, scaler: Any, best: _Best, epoch: int, done: int, sums: Tensor
    ) -> dict[str, Any]:
        return {
            "model": module.state_dict(),
            "optimiser": optimiser.state_dict(),
            "scaler": scaler.state_dict(),
            "best": vars(best),
            "epoch": epoch,
            "batch": done,
            "sums": sums,
        }

    def _save(self, stage: dict[str, Any] | None) -> None:
        """All processes call it, since each has random numbers of its own; one writes."""
        if self.checkpoint is None:
            return
        random = self.together.gathered(_random(self.together.device))
        if self.together.size > 1 and stage is not None:  # each process has its share of the sums
            stage = {**stage, "sums": _own_sums(stage["sums"], self.together)}
        if self.together.leads:
            checkpoints.write(
                self.checkpoint,
                {
                    "settings": self.identity,
                    "finished": self.finished,
                    "history": [_entry(epoch) for epoch in self.history],
                    "stage": None if stage is None else {**stage, "random": random},
                },
            )


def _own_sums(sums: Tensor, together: Group) -> Tensor:
    """The total, spread evenly, so that each process goes on with its part of the same whole."""
    return together.total(sums) / together.size


def learning_rate(settings: Settings, update: int, updates: int) -> float:
    """Of update 0, 1 ... ``updates - 1``: a function, so that a schedule has no state of its own.

    ``onecycle`` rises from 1/25 to the highest over the first 30 % and falls to nothing, both along a cosine.
    """
    highest = settings.learning_rate
    if settings.schedule == "constant":
        return highest
    share = update / max(1, updates)
    if settings.schedule == "cosine":
        return highest * (1 + math.cos(math.pi * share)) / 2
    if share < 0.3:
        return highest / 25 + (highest - highest / 25) * (1 - math.cos(math.pi * share / 0.3)) / 2
    return highest * (1 + math.cos(math.pi * (share - 0.3) / 0.7)) / 2


def _optimiser(settings: Settings, module: nn.Module) -> torch.optim.Optimizer:
    parameters, rate, decay = list(module.parameters()), settings.learning_rate, settings.weight_decay
    if settings.optimiser == "sgd":
        return torch.optim.SGD(parameters, rate, momentum=0.9, weight_decay=decay)
    kind = torch.optim.AdamW if settings.optimiser == "adamw" else torch.optim.Adam
    return kind(parameters, rate, weight_decay=decay)


def _on(device: torch.device, samples: Samples, time_steps: int) -> tuple[Tensor, Tensor]:
    x = samples.x.to(device)
    if x.ndim in (3, 5) and x.shape[1] != time_steps:
        x = fewer_steps(x, time_steps)
    return x.float(), samples.y.to(device)


def _right(outputs: Tensor, classes: Tensor) -> Tensor:
    """Right answers of the mean up to each step, ``[T]``."""
    return (outputs.cumsum(0).argmax(2) == classes).sum(1).float()


def _random(device: torch.device) -> dict[str, Tensor]:
    found = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found


def _set_random(state: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set; a second one ends the process as usual."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _frame: FrameType | None) -> None:
        asked.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, ask)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _digest(samples: Samples) -> int:
    return zlib.crc32(samples.y.numpy(), zlib.crc32(samples.x.contiguous().numpy()))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _entry(epoch: Epoch) -> dict[str, Any]:
    entry = copy.copy(vars(epoch))
    return {**entry, "validation": dict(vars(epoch.validation))}


def _epoch(entry: dict[str, Any]) -> Epoch:
    return Epoch(**{**entry, "validation": Score(**entry["validation"])})
