"""The training methods: what each trains, in which stages, with which neurons and loss.

==========  ===============================================================================================
``sdt``     standard direct training, the baseline: cross-entropy of the mean output
``tet``     temporal efficient training (arXiv 2202.11946), with temporal inheritance where asked for
``str``     TET with regulated spike strength to residual potential (arXiv 2405.00699; reconstruction)
``rcs``     TET with cosine similarity to the last steps (arXiv 2301.09522)
``noise``   a single step with noise for the past, converted to T steps (arXiv 2211.05453; reconstruction)
``s2nn``    single-step stateless networks (arXiv 2201.10879)
``ltl``     local tandem learning with an ordinary network as teacher (arXiv 2210.04532)
``convert`` classical conversion of an ordinary network, the baseline: rate coding, reset by subtraction
==========  ===============================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from snn2chip.errors import UsageError
from snn2chip.names import suggestion
from snn2chip.nn import LIF, Network, SpikingNeuron
from snn2chip.training import losses
from snn2chip.training.datasets import TrainingData
from snn2chip.training.loop import Batch, Objective, Plan, Stage
from snn2chip.training.models import builder, is_own, own_model
from snn2chip.training.single_step import potential_noise, with_own_statistics, with_time_steps
from snn2chip.training.teacher import (
    activation_scales,
    activations,
    fold_batch_norm,
    normalised,
    rate_coded,
    spiking_from_teacher,
)

#: Training samples that a teacher's activations, or the batch norms of a converted network, are scaled on.
SCALED_ON = 2048


@dataclass(frozen=True)
class Options:
    """What a method can be told; None takes the paper's value for the kind of data.

    Attributes:
        model: see :func:`snn2chip.training.models.builder`, or PACKAGE.MODULE:FUNCTION of a module of one's own.
        epochs: of all stages together, but for the teacher.
        time_steps: T of static input; data with a time axis keep theirs.
        surrogate: another surrogate than the method's.
        lam: of TET; 0.05 for static input, 0.001 for events.
        inherit: train 5/6 of the epochs with so many steps, the rest with all of them (TET); 0 for not.
        weight: of the regulariser of ``str`` (0.1 static, 0.5 events) and ``rcs`` (0.003).
        rate_weight, rate_target: spikes per neuron and step above the target are punished.
        sigma, mu: of the noise.
        teacher_epochs: of ``ltl``'s teacher; None for as many as ``epochs``.
        online: whether ``ltl`` lets no gradient cross time.
        warm_up: steps that the online losses leave out.
        from_teacher: whether ``ltl`` starts with the teacher's weights.
    """

    model: str = "conv"
    epochs: int = 20
    time_steps: int = 4
    surrogate: str | None = None
    lam: float | None = None
    inherit: int = 0
    weight: float | None = None
    rate_weight: float = 0.0
    rate_target: float = 0.0
    sigma: float = 0.2
    mu: float = 0.2
    teacher_epochs: int | None = None
    online: bool = False
    warm_up: int = 12
    from_teacher: bool = True


@dataclass(frozen=True)
class Method:
    """A way to train.

    Attributes:
        about: one line.
        plan: stages for data and options.
        time_steps: where the options say nothing.
    """

    about: str
    plan: Callable[[TrainingData, Options], Plan]
    time_steps: int = 4


def plan_of(method: str, data: TrainingData, options: Options) -> Plan:
    """The stages of a method.

    Raises:
        UsageError: no such method, or it does not go with the data or the model.
    """
    if method not in METHODS:
        raise UsageError(f"method: {method!r} is unknown{suggestion(method, METHODS)}")
    if options.epochs < 1 or options.time_steps < 1:
        raise UsageError(f"{method}: {options.epochs} epochs of {options.time_steps} time steps; both are at least 1")
    return METHODS[method].plan(data, options)


def _network(
    data: TrainingData, options: Options, time_steps: int, neurons: Callable[[], nn.Module], norm: bool = True
) -> Network:
    if is_own(options.model):
        raise UsageError(f"model: {options.model}: this method builds its networks itself; use mlp, conv or vgg")
    return builder(options.model)(data.input_shape, data.classes, time_steps, neurons, norm)


def _lif(options: Options, surrogate: str = "triangle", beta: float = 0.5, threshold: float = 1.0) -> LIF:
    return LIF(beta, threshold, surrogate=options.surrogate or surrogate)


def _steps(data: TrainingData, options: Options) -> int:
    return data.time_steps or options.time_steps


def _with_rate(options: Options, loss: Callable[[Batch], Tensor], **needs: bool) -> Objective:
    """The method's loss, and the punishment of spikes where asked for."""
    if not options.rate_weight:
        return Objective(loss, **needs)

    def both(batch: Batch) -> Tensor:
        return loss(batch) + options.rate_weight * losses.spike_rate(batch.layers, options.rate_target)

    return Objective(both, **{**needs, "records": True})


def _direct(loss: Callable[[TrainingData, Options], Objective]) -> Callable[[TrainingData, Options], Plan]:
    """Backpropagation through time with one of the losses, with temporal inheritance where asked for."""

    def plan(data: TrainingData, options: Options) -> Plan:
        steps, objective = _steps(data, options), loss(data, options)

        def fresh(time_steps: int) -> nn.Module:
            if is_own(options.model):
                return own_model(options.model)
            return _network(data, options, time_steps, lambda: _lif(options))

        if not options.inherit:
            stage = Stage("train", options.epochs, lambda _: fresh(steps), lambda _: objective, steps)
            return Plan((stage,))
        if not 0 < options.inherit < steps:
            raise UsageError(f"inherit: {options.inherit} time steps, expected fewer than the {steps} of the network")
        late = max(1, round(options.epochs / 6))
        early = Stage(
            "short",
            max(1, options.epochs - late),
            lambda _: fresh(options.inherit),
            lambda _: objective,
            options.inherit,
        )

        def longer(networks: Sequence[nn.Module]) -> nn.Module:
            module = fresh(steps)
            module.load_state_dict(networks[-1].state_dict())
            return module

        return Plan((early, Stage("full", late, longer, lambda _: objective, steps)))

    return plan


def _lam(data: TrainingData, options: Options) -> float:
    return options.lam if options.lam is not None else 0.05 if data.static else 0.001


def _sdt(data: TrainingData, options: Options) -> Objective:
    return _with_rate(options, lambda batch: losses.sdt(batch.outputs, batch.classes))


def _tet(data: TrainingData, options: Options) -> Objective:
    lam = _lam(data, options)
    return _with_rate(options, lambda batch: losses.tet(batch.outputs, batch.classes, lam))


def _str(data: TrainingData, options: Options) -> Objective:
    lam = _lam(data, options)
    weight = options.weight if options.weight is not None else 0.1 if data.static else 0.5

    def loss(batch: Batch) -> Tensor:
        return losses.tet(batch.outputs, batch.classes, lam) + weight * losses.str_loss(batch.layers)

    return _with_rate(options, loss, records=True, potentials=True)


def _rcs(data: TrainingData, options: Options) -> Objective:
    lam = _lam(data, options)
    weight = options.weight if options.weight is not None else 0.003

    def loss(batch: Batch) -> Tensor:
        similarity = losses.rcs_loss(batch.layers, batch.outputs, batch.classes)
        return losses.tet(batch.outputs, batch.classes, lam) + weight * similarity

    return _with_rate(options, loss, records=True, potentials=True)


def _single(method: str, data: TrainingData) -> None:
    if not data.static:
        raise UsageError(
            f"{method}: trains a single time step, the samples of {data.name} have {data.time_steps}; use tet or sdt"
        )


def _noise(data: TrainingData, options: Options) -> Plan:
    _single("noise", data)
    stage = Stage(
        "single step",
        options.epochs,
        lambda _: _network(data, options, 1, lambda: _lif(options)),
        lambda _: _sdt(data, options),
        1,
        lambda module: potential_noise(module, options.sigma, options.mu),
    )

    def converted(networks: Sequence[nn.Module]) -> nn.Module:
        network = with_time_steps(cast(Network, networks[-1]), options.time_steps)
        return with_own_statistics(network, data.training.x[:SCALED_ON])

    return Plan((stage,), converted)


def _s2nn(data: TrainingData, options: Options) -> Plan:
    _single("s2nn", data)
    stage = Stage(
        "train",
        options.epochs,
        lambda _: _network(data, options, 1, lambda: _lif(options, "s2nn", beta=0.0)),
        lambda _: _sdt(data, options),
        1,
    )
    return Plan((stage,))


def _teacher(data: TrainingData, options: Options) -> Stage:
    _static("the teacher", data)
    epochs = options.epochs if options.teacher_epochs is None else options.teacher_epochs
    return Stage("teacher", epochs, lambda _: _network(data, options, 1, nn.ReLU), lambda _: _sdt(data, Options()), 1)


def _static(what: str, data: TrainingData) -> None:
    if not data.static:
        raise UsageError(f"{what} takes static samples, those of {data.name} have {data.time_steps} time steps")


def _ltl(data: TrainingData, options: Options) -> Plan:
    teacher, steps = _teacher(data, options), options.time_steps
    sample = data.training.x[:SCALED_ON]

    def neurons() -> SpikingNeuron:
        return _lif(options, "narrow", math.exp(-1 / 10), 0.6)

    def student(networks: Sequence[nn.Module]) -> nn.Module:
        if not options.from_teacher:
            return _network(data, options, steps, neurons, norm=False)
        folded = fold_batch_norm(cast(Network, networks[0]))
        return spiking_from_teacher(folded, activation_scales(folded, sample), neurons, steps)

    def objective(networks: Sequence[nn.Module]) -> Objective:
        folded = fold_batch_norm(cast(Network, networks[0]))
        scales = activation_scales(folded, sample.to(next(folded.parameters()).device))

        def loss(batch: Batch) -> Tensor:
            wanted = normalised(activations(folded, batch.x), scales)
            if options.online:
                entropy = losses.online_entropy(batch.outputs, batch.classes, options.warm_up)
                return entropy + losses.local_online(batch.layers, wanted, options.warm_up)
            return losses.sdt(batch.outputs, batch.classes) + losses.local_offline(batch.layers, wanted)

        return _with_rate(options, loss, records=True, local=True)

    during = _online if options.online else _nothing
    return Plan((teacher, Stage("student", options.epochs, student, objective, steps, during)))


@contextmanager
def _online(module: nn.Module) -> Iterator[None]:
    neurons = [inner for inner in module.modules() if isinstance(inner, SpikingNeuron)]
    for neuron in neurons:
        neuron.online = True
    try:
        yield
    finally:
        for neuron in neurons:
            neuron.online = False


@contextmanager
def _nothing(module: nn.Module) -> Iterator[None]:
    yield


def _convert(data: TrainingData, options: Options) -> Plan:
    sample = data.training.x[:SCALED_ON]
    return Plan(
        (_teacher(data, options),),
        lambda networks: rate_coded(cast(Network, networks[-1]), sample, options.time_steps),
    )


METHODS: dict[str, Method] = {
    "sdt": Method("standard direct training: cross-entropy of the mean output", _direct(_sdt)),
    "tet": Method("temporal efficient training: cross-entropy at each step", _direct(_tet)),
    "str": Method("TET, spike strength against residual potential regulated (reconstruction)", _direct(_str)),
    "rcs": Method("TET, activity drawn to that of the last steps", _direct(_rcs)),
    "noise": Method("one step with noise for the past, then T steps (reconstruction)", _noise),
    "s2nn": Method("stateless single-step network: one sample per time step on the chip", _s2nn, 1),
    "ltl": Method("local tandem learning with an ordinary network as teacher", _ltl, 16),
    "convert": Method("ordinary network, converted by rate coding and reset by subtraction", _convert, 32),
}
