"""Discrete time from NIR's continuous neurons, as each exporter meant them.

NIR writes differential equations, the frameworks train difference equations. With a time step dt each framework has its
own way from one to the other, and none of them says in the file which it is::

    v[t] = beta * v[t-1] + gain * x[t]                  neurons without a current
    i[t] = alpha * i[t-1] + gain * x[t]                 Cuba neurons (the gain of both stages in one)
    v[t] = beta * v[t-1] + i[t]

============  ===================================  ====================================  ==========================
dialect       beta (alpha likewise, of tau_syn)    gain                                  recognised by
============  ===================================  ====================================  ==========================
snntorch      1 - dt / tau, dt = 1e-4 s            1                                     r = tau / dt, w_in likewise
spikingjelly  1 - dt / tau, dt = 1e-4 s; IF 1      r dt / tau; IF r dt = 1               r = 1 or tau / dt; v_reset
norse         1 - dt / tau, dt = 1e-3 s; IF 1      r dt / tau; Cuba w_in r dt / tau      r = w_in = 1, tau < 1 s
sinabs        exp(-1 / tau), tau in steps; IF 1    (1 - beta) r; IF r                    r = 1, tau >= 1
rockpool      exp(-dt / tau)                       alpha w_in                            r = tau/dt exp(-dt/tau)
nir           1 - dt / tau, dt given; IF 1         r dt/tau w_in dt/tau_syn; IF r dt     never: only if asked for
============  ===================================  ====================================  ==========================

Sources: the exporters themselves - ``snntorch/export_nir.py`` (1.0.0), SpikingJelly's ``nir_exchange/to_nir.py``,
Norse's ``utils/export_nir.py`` with ``functional/lif.py`` (its LIFCell lets the input reach the potential one step
later), ``sinabs/nir.py``, Rockpool's ``torch/nir.py`` with ``lif_torch.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from snn2chip.errors import InputError, UsageError

Array = npt.NDArray[Any]

#: snnTorch's step, which most exporters took over.
COMMON_DT = 1e-4
#: Parameters stored in float32 agree with their definition to a few roundings.
CLOSE = 2e-6


@dataclass(frozen=True, eq=False)
class Continuous:
    """Neurons as the file has them, float64 ``[*shape]``; None where the kind of node lacks the parameter.

    ``recurrent`` and ``resets`` (a v_reset is stored) tell exporters apart, ``narrow`` says that a time constant is
    stored in float32.
    """

    where: str
    kind: str
    r: Array
    tau: Array | None
    tau_syn: Array | None
    w_in: Array
    v_leak: Array
    v_threshold: Array
    v_reset: Array
    resets: bool
    recurrent: bool
    narrow: bool


@dataclass(frozen=True, eq=False)
class Discrete:
    """The same neurons step by step, as the module's docstring says; ``delay``: steps until input reaches them."""

    alpha: Array
    beta: Array
    gain: Array
    delay: int = 0


Convert = Callable[[Continuous, float], Discrete]
#: Why neurons cannot come from this exporter; None where they can. Takes dt.
Mismatch = Callable[[Continuous, float], "str | None"]


@dataclass(frozen=True)
class Dialect:
    """The habits of one exporter.

    Attributes:
        label: the framework's name.
        dt: its time step in seconds (sinabs: in steps); None where the file or the user has to say it.
        inclusive: whether its neurons fire at ``v >= threshold``.
        reset: what its files mean; None where the exporter loses it.
        reset_delay: whether its reset acts one step later by default.
        start: the potential at the beginning.
        remarks: what else is assumed.
        inexact: where its neurons can do what the graph's cannot.
    """

    name: str
    label: str
    dt: float | None
    inclusive: bool
    reset: Literal["zero", "subtract"] | None
    reset_delay: bool
    start: Literal["zero", "v_leak", "v_reset"]
    mismatch: Mismatch
    convert: Convert
    remarks: tuple[str, ...] = ()
    inexact: tuple[str, ...] = ()


def _decay(tau: Array | None, dt: float, narrow: bool, nothing: float, like: Array) -> Array:
    """``1 - dt / tau``; ``nothing`` where there is no time constant."""
    if tau is None:
        return np.full_like(like, nothing)
    decay = 1 - dt / tau
    # The exporter computed tau = dt / (1 - decay) of a decay in float32; that is undone exactly where it can be.
    single = decay.astype(np.float32).astype(np.float64)
    return np.where(narrow | (np.abs(single - decay) < 1e-14), single, decay)


def _euler_gain(r: Array, tau: Array | None, dt: float) -> Array:
    """``r dt / tau``, exactly 1 where ``r`` is ``tau / dt`` up to rounding (both infinite without leak)."""
    gain = r * dt if tau is None else np.where(np.isinf(r) & np.isinf(tau), 1.0, r * dt / tau)
    return np.where(np.abs(gain - 1) < CLOSE, 1.0, gain)


def _euler(p: Continuous, dt: float) -> Discrete:
    gain = _euler_gain(p.r, p.tau, dt)
    if p.tau_syn is not None:
        gain = gain * _euler_gain(p.w_in, p.tau_syn, dt)
    return Discrete(_decay(p.tau_syn, dt, p.narrow, 0.0, p.r), _decay(p.tau, dt, p.narrow, 1.0, p.r), gain)


def _written(p: Continuous, dt: float) -> Discrete:
    """NIR's equations by forward Euler, to the letter."""
    gain = p.r * dt if p.tau is None else p.r * dt / p.tau
    if p.tau_syn is not None:
        gain = gain * (p.w_in * dt / p.tau_syn)
    alpha = np.zeros_like(p.r) if p.tau_syn is None else 1 - dt / p.tau_syn
    return Discrete(alpha, np.ones_like(p.r) if p.tau is None else 1 - dt / p.tau, gain)


def _norse(p: Continuous, dt: float) -> Discrete:
    if p.tau is None:
        return Discrete(np.zeros_like(p.r), np.ones_like(p.r), p.r)
    beta = 1 - dt / p.tau
    if p.tau_syn is None:
        return Discrete(np.zeros_like(p.r), beta, p.r * dt / p.tau)
    return Discrete(1 - dt / p.tau_syn, beta, p.w_in * p.r * dt / p.tau, delay=1)


def _sinabs(p: Continuous, dt: float) -> Discrete:
    if p.tau is None:
        return Discrete(np.zeros_like(p.r), np.ones_like(p.r), p.r)
    beta = np.exp(-dt / p.tau)
    return Discrete(np.zeros_like(p.r), beta, (1 - beta) * p.r)


def _rockpool(p: Continuous, dt: float) -> Discrete:
    assert p.tau is not None  # _not_rockpool checked it
    beta = np.exp(-dt / p.tau)
    if p.tau_syn is None:
        return Discrete(np.zeros_like(p.r), beta, beta)
    alpha = np.exp(-dt / p.tau_syn)
    return Discrete(alpha, beta, alpha * p.w_in)


def rockpool_dt(p: Continuous) -> Array:
    """The step at which ``r = tau / dt * exp(-dt / tau)``, neuron by neuron: ``dt = tau * W(1 / r)``."""
    assert p.tau is not None
    y = np.log1p(1 / p.r)  # Newton's method for y exp(y) = 1 / r; convex, so it converges from above
    for _ in range(64):
        e = np.exp(y)
        y = y - (y * e - 1 / p.r) / (e * (1 + y))
    return np.asarray(p.tau * y)


def _range(values: Array) -> str:
    low, high = values.min(), values.max()
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _is(values: Array, wanted: Array | float) -> bool:
    return bool((np.isclose(values, wanted, rtol=CLOSE, atol=0) | (values == wanted)).all())


def _only(p: Continuous, *kinds: str) -> str | None:
    return None if p.kind in kinds else f"it writes no {p.kind}, only {', '.join(kinds)}"


def _not_snntorch(p: Continuous, dt: float) -> str | None:
    if (wrong := _only(p, "LIF", "CubaLIF")) is not None:
        return wrong
    assert p.tau is not None
    if not _is(p.r, p.tau / dt):
        return f"it writes r = tau / {dt:g}, which is {_range(p.tau / dt)} and not {_range(p.r)}"
    if p.tau_syn is not None and not _is(p.w_in, p.tau_syn / dt):
        return f"it writes w_in = tau_syn / {dt:g}, which is {_range(p.tau_syn / dt)} and not {_range(p.w_in)}"
    if p.v_leak.any() or p.v_reset.any():
        return "it writes v_leak = v_reset = 0"
    return None


def _not_spikingjelly(p: Continuous, dt: float) -> str | None:
    if (wrong := _only(p, "IF", "LIF", "CubaLIF")) is not None:
        return wrong
    if p.recurrent or not p.resets:
        return "it writes no recurrent synapses" if p.recurrent else "it always writes v_reset"
    if p.tau is None:
        return None if _is(p.r, 1 / dt) else f"it writes r = 1 / {dt:g} for IF, not {_range(p.r)}"
    if any(np.unique(values).size > 1 for values in (p.tau, p.r, p.v_threshold)):
        return "it writes one time constant, r and threshold per layer"
    if p.tau.min() < dt * (1 - CLOSE):
        return f"it writes tau of at least {dt:g}"
    if p.tau_syn is not None:
        if not (_is(p.r, p.tau / dt) and _is(p.w_in, p.tau_syn / dt)) or p.v_leak.any():
            return f"it writes r = tau_mem / {dt:g}, w_in = tau_syn / {dt:g} and v_leak = 0"
        return None
    if not (_is(p.r, 1.0) or _is(p.r, p.tau / dt)):
        return f"it writes r = 1 or tau / {dt:g}, not {_range(p.r)}"
    return None if _is(p.v_leak, p.v_reset) else "it writes v_leak = v_reset"


def _not_norse(p: Continuous, dt: float) -> str | None:
    if (wrong := _only(p, "IF", "LI", "LIF", "CubaLIF")) is not None:
        return wrong
    if not (_is(p.r, 1.0) and _is(p.w_in, 1.0)):
        return f"it writes r = w_in = 1, not {_range(p.r)} and {_range(p.w_in)}"
    if p.recurrent:
        return "it writes no recurrent synapses"
    if p.tau is not None and p.tau.max() >= 1:
        return f"it writes tau in seconds, {_range(p.tau)} is too long"
    return None


def _not_sinabs(p: Continuous, dt: float) -> str | None:
    if (wrong := _only(p, "IF", "LI", "LIF")) is not None:
        return wrong
    if p.recurrent or not _is(p.r, 1.0):
        return "it writes no recurrent synapses" if p.recurrent else f"it writes r = 1, not {_range(p.r)}"
    if p.v_leak.any() or p.v_reset.any():
        return "it writes v_leak = 0 and no v_reset"
    if p.tau is not None and p.tau.min() < 1:
        return f"it writes tau in time steps, {_range(p.tau)} is too short"
    return None


def _not_rockpool(p: Continuous, dt: float) -> str | None:
    if (wrong := _only(p, "LI", "CubaLIF")) is not None:
        return wrong
    if p.v_leak.any() or p.v_reset.any() or not _is(p.w_in, 1.0):
        return "it writes w_in = 1, v_leak = 0 and no v_reset"
    if not (np.isfinite(p.r).all() and p.r.min() > 0):
        return f"it writes r = tau / dt * exp(-dt / tau), which {_range(p.r)} never is"
    if _is(p.r, 1.0) or p.r.min() < 1e-3:
        return f"it writes r = tau / dt * exp(-dt / tau), which is {_range(p.r)} for no usable step"
    steps = rockpool_dt(p)
    if not np.allclose(steps, dt, rtol=1e-4, atol=0):
        return f"it writes r = tau / dt * exp(-dt / tau), of which follows dt = {_range(steps)} and not {dt:g}"
    return None


_MULTIPLE = "{label} neurons may send several spikes in one step, here they send one; measure the accuracy"

DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        Dialect("snntorch", "snnTorch", COMMON_DT, False, None, True, "zero", _not_snntorch, _euler),
        Dialect("spikingjelly", "SpikingJelly", COMMON_DT, True, None, False, "v_reset", _not_spikingjelly, _euler),
        Dialect("norse", "Norse", 1e-3, False, "zero", False, "v_leak", _not_norse, _norse),
        Dialect(
            "sinabs",
            "sinabs",
            1.0,
            True,
            None,
            False,
            "zero",
            _not_sinabs,
            _sinabs,
            ("input of leaky neurons is scaled by 1 - exp(-1 / tau) (norm_input=True, the default; not in the file)",),
            (
                _MULTIPLE.format(label="sinabs"),
                "sinabs neurons may have a lowest potential (min_v_mem), which the file does not hold",
            ),
        ),
        Dialect(
            "rockpool",
            "Rockpool",
            None,
            True,
            "subtract",
            False,
            "zero",
            _not_rockpool,
            _rockpool,
            ("biases inside of LIFTorch are not in the file",),
            (_MULTIPLE.format(label="Rockpool"),),
        ),
        Dialect("nir", "NIR", None, False, "zero", False, "zero", lambda p, dt: None, _written),
    )
}
#: Values of ``--nir-dialect``.
NAMES = ("auto", *DIALECTS)


def time_step(dialect: Dialect, dt: float | None, neurons: Iterable[Continuous]) -> float:
    """The step in seconds: as given, the framework's own, or of Rockpool's neurons.

    Raises:
        UsageError: it has to be given.
        InputError: Rockpool's neurons are none.
    """
    if dt is not None:
        return dt
    if dialect.dt is not None:
        return dialect.dt
    if dialect.name == "rockpool":
        for neuron in neurons:
            if neuron.tau is None or not (np.isfinite(neuron.r).all() and neuron.r.min() > 0):
                raise InputError(f"{neuron.where}: not from Rockpool: r is {_range(neuron.r)}, no time step follows")
            return float(np.median(rockpool_dt(neuron)))
    raise UsageError(f"--nir-dialect {dialect.name} needs --dt, the time step in seconds")


def recognise(neurons: list[Continuous], dt: float | None, snntorch_names: bool) -> tuple[Dialect, str]:
    """The one dialect that all neurons fit, and how it was told.

    Raises:
        UsageError: none fits, or several do.
    """
    if not neurons:
        raise UsageError("has no neurons that tell the exporter; say it with --nir-dialect")
    reasons: dict[str, str] = {}
    for name, dialect in DIALECTS.items():
        if name == "nir":
            continue
        if (reason := mismatch(dialect, neurons, dt)) is not None:
            reasons[name] = reason
    fitting = [name for name in DIALECTS if name not in reasons and name != "nir"]
    if snntorch_names and "snntorch" in fitting:
        return DIALECTS["snntorch"], "by its names lif and w_rec"
    if len(fitting) == 1:
        return DIALECTS[fitting[0]], "by its neurons' parameters"
    if fitting:
        raise UsageError(
            f"may be from {' or '.join(DIALECTS[name].label for name in fitting)}; say which with --nir-dialect "
            f"{'|'.join(fitting)}"
        )
    raise UsageError(
        f"from no exporter that is known ({'; '.join(f'{name}: {reason}' for name, reason in reasons.items())}); "
        "--nir-dialect nir --dt takes the equations as they are written"
    )


def mismatch(dialect: Dialect, neurons: list[Continuous], dt: float | None) -> str | None:
    """Why the neurons cannot be of that dialect, naming the first; None where they can."""
    try:
        step = time_step(dialect, dt, neurons)
    except InputError as error:
        return str(error)
    for neuron in neurons:
        if (reason := dialect.mismatch(neuron, step)) is not None:
            return f"{neuron.where.rpartition(': ')[2]}: {reason}"
    return None
