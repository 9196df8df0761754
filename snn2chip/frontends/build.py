"""From the records of a run to a graph: recurrence, delays, and what the network's output depends on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from snn2chip.errors import UnsupportedError
from snn2chip.frontends.trace import Record, Source, Tracer, Value
from snn2chip.graph import Add, BatchNorm, Concat, Delay, Graph, Input, Linear, Neuron, Node

Array = npt.NDArray[np.float64]


def _fed_back(name: str, through: Sequence[str]) -> str:
    return (
        f"{name}: is fed back through {', '.join(through)}; only synapses of neurons onto themselves have a form on "
        "the chip, leave the feedback out"
    )


@dataclass(frozen=True)
class _Own:
    """Synapses of neurons onto themselves."""

    weight: Array
    bias: Array


def build(tracer: Tracer, source: Input, output: Value) -> Graph:
    """The graph of what ``output`` depends on.

    Raises:
        UnsupportedError: an operation on the way has no counterpart; the message names it.
    """
    return _Builder(tracer, source).graph(output)


class _Builder:
    def __init__(self, tracer: Tracer, source: Input) -> None:
        self.records = tracer.records
        self.steps = tracer.steps
        self.input = source.name
        self.nodes: dict[str, Node] = {source.name: source}
        self.delays: dict[str, int] = {}
        self.inexact: list[str] = []
        self._open: list[str] = []  # chains whose inputs are being visited

    def graph(self, output: Value) -> Graph:
        if output.node is None:
            raise UnsupportedError(output.why)
        last = self._visit(Source(output.node))
        if next(iter(self.nodes.values())) is not self.nodes[self.input] or last == self.input:
            raise UnsupportedError("the output is the input; nothing was computed")
        readout = "potential" if output.part == "potential" else "output"
        ordered = [node for node in self.nodes.values() if node.name != last] + [self.nodes[last]]
        return Graph(tuple(ordered), max(self.steps, 1), readout, tuple(self.inexact))  # type: ignore[arg-type]

    def _visit(self, source: Source) -> str:
        """Name of the node that gives what ``source`` says; it and all before it are in ``nodes`` then."""
        if source.node is None:
            raise UnsupportedError(source.why)
        name, lag = source.node, source.lag
        if name not in self.nodes:
            self._add(self.records[name])
        if lag == 0:
            return name
        delayed = f"{name} delay {lag}"
        self.nodes.setdefault(delayed, Delay(name=delayed, inputs=(name,), steps=lag))
        return delayed

    def _add(self, record: Record) -> None:
        if record.name in self._open:
            raise UnsupportedError(_fed_back(record.name, self._open[self._open.index(record.name) + 1 :]))
        self._open.append(record.name)
        sources = self._steady(record)
        nodes = list(record.nodes)
        if record.leaf is not None and isinstance(nodes[-1], Neuron) and self._reaches(sources[0], record.name):
            terms, own = self._split(sources[0], record.name)
            nodes, sources = self._recurrent(record, nodes, terms, own)
        inputs = tuple(self._visit(source) for source in sources)
        for node in nodes:
            self.nodes[node.name] = replace(node, inputs=inputs)
            inputs = (node.name,)
        if record.leaf is not None:
            self.inexact += [f"{record.name}: {sentence}" for sentence in record.leaf.inexact]
        self._open.pop()

    def _steady(self, record: Record) -> tuple[Source, ...]:
        """What feeds an operation at each step; at the first one recurrent synapses may be missing."""
        last = record.sources[-1]
        for source in last:
            if source.node is None:
                raise UnsupportedError(source.why)
        for step, sources in enumerate(record.sources):
            if sources != last and not (step == 0 and self._reaches(last[0], record.name)):
                loop = self._loop(last, record.name, (), set())
                if loop is not None:
                    raise UnsupportedError(_fed_back(record.name, loop))
                what = " and ".join(s.node or s.why for s in sources)
                raise UnsupportedError(
                    f"{record.name}: takes {what} at time step {step}, but "
                    f"{' and '.join(s.node or s.why for s in last)} at the last; the chip does the same at each step"
                )
        return last

    def _reaches(self, source: Source, target: str) -> bool:
        """Whether ``source`` depends on ``target`` without other neurons between."""
        if source.node == target:
            return True
        if source.node is None or source.node == self.input:
            return False
        record = self.records[source.node]
        return record.leaf is None and any(self._reaches(s, target) for s in record.sources[-1])

    def _loop(
        self, sources: tuple[Source, ...], target: str, way: tuple[str, ...], seen: set[str]
    ) -> tuple[str, ...] | None:
        """The neurons on a way from ``target`` to ``sources``, the first one first; ``seen`` leads nowhere."""
        for source in sources:
            if source.node == target:
                return way
            record = self.records.get(source.node or "")
            if record is None or record.name in seen:
                continue
            seen.add(record.name)
            found = self._loop(record.sources[-1], target, (record.name, *way) if record.leaf else way, seen)
            if found is not None:
                return found
        return None

    def _split(self, source: Source, name: str) -> tuple[list[Source], list[_Own]]:
        """The terms of a sum: those from elsewhere, and the neurons' own synapses."""
        if source.node == name:
            if source.lag != 1:
                raise UnsupportedError(f"{name}: its own spikes return after {source.lag} steps, expected one")
            size = self.records[name].shape[0]
            return [], [_Own(np.eye(size), np.zeros(size))]
        if not self._reaches(source, name):
            return [source], []
        assert source.node is not None  # it reaches something
        record = self.records[source.node]
        node, given = record.nodes[-1], record.sources[-1]
        lagged = [replace(s, lag=s.lag + source.lag) for s in given]
        if isinstance(node, Add):
            parts = [self._split(s, name) for s in lagged]
            return [t for terms, _ in parts for t in terms], [o for _, own in parts for o in own]
        if len(record.nodes) == 1 and isinstance(node, Linear | BatchNorm):
            if len(given) == 1 and given[0].node == name:
                self._split(lagged[0], name)  # one step?
                if isinstance(node, Linear):
                    return [], [_Own(node.weight, node.bias)]
                return [], [_Own(np.diag(node.scale), node.shift)]
            inner = self.records.get(given[0].node or "")
            if inner is not None and isinstance(inner.nodes[-1], Add):
                return self._split_terms(record, node, lagged[0], name)
            if isinstance(node, Linear) and inner is not None and isinstance(inner.nodes[-1], Concat):
                return self._split_columns(record, node, inner, source.lag + given[0].lag, name)
        raise UnsupportedError(
            f"{name}: its own spikes return through {source.node}; only a Linear or a factor has a form on the chip"
        )

    def _split_terms(
        self, record: Record, node: Linear | BatchNorm, total: Source, name: str
    ) -> tuple[list[Source], list[_Own]]:
        """``W (a + s) = W a + W s``; what it adds stays with ``a``."""
        terms, own = self._split(total, name)
        weight = node.weight if isinstance(node, Linear) else np.diag(node.scale)
        through = [_Own(weight @ part.weight, weight @ part.bias) for part in own]
        if not terms:
            shift = node.bias if isinstance(node, Linear) else node.shift
            return [], [replace(through[0], bias=through[0].bias + shift), *through[1:]]
        if len(terms) > 1:
            rest = Add(name=f"{node.name} input")
            self.records[rest.name] = Record([rest], [tuple(terms)])
            terms = [Source(rest.name)]
        part = replace(node, name=f"{node.name} without feedback")
        self.records[part.name] = Record([part], [tuple(terms)])
        return [Source(part.name)], through

    def _split_columns(
        self, record: Record, linear: Linear, inner: Record, lag: int, name: str
    ) -> tuple[list[Source], list[_Own]]:
        """``W [a, s] = W_a a + W_s s``."""
        begin = 0
        terms: list[Source] = []
        own: list[_Own] = []
        given = inner.sources[-1]
        if len(given) != 2 or sum(source.node == name for source in given) != 1:
            raise UnsupportedError(f"{name}: its own spikes return beside {len(given) - 1} other things; expected one")
        features = self.records[name].shape[0]
        for source in given:
            size = features if source.node == name else linear.weight.shape[1] - features
            columns = linear.weight[:, begin : begin + size]
            begin += size
            if source.node == name:
                self._split(replace(source, lag=source.lag + lag), name)
                own.append(_Own(columns, np.zeros(len(columns))))
                continue
            part = replace(linear, name=f"{linear.name} columns {begin - size}", weight=columns)
            if terms:
                part = replace(part, bias=np.zeros_like(linear.bias))
            self.records[part.name] = Record([part], [(replace(source, lag=source.lag + lag),)])
            terms.append(Source(part.name))
        return terms, own

    def _recurrent(
        self, record: Record, nodes: list[Node], terms: list[Source], own: list[_Own]
    ) -> tuple[list[Node], tuple[Source, ...]]:
        neuron = nodes[-1]
        assert isinstance(neuron, Neuron)
        if not terms:
            raise UnsupportedError(f"{record.name}: takes nothing but its own spikes")
        for node in nodes[:-1]:  # what scales the input scales the neurons' own spikes as well
            if not isinstance(node, BatchNorm):
                raise UnsupportedError(f"{record.name}: its own spikes return through {type(node).__name__}")
            own = [_Own(node.scale[:, None] * part.weight, node.scale * part.bias) for part in own]
        if len(record.shape) != 1:
            raise UnsupportedError(
                f"{record.name}: recurrent synapses of images have no form on the chip; flatten before"
            )
        features = record.shape[0]
        weight = np.zeros((features, features)) if neuron.recurrent is None else neuron.recurrent
        weight = np.asarray(sum((part.weight for part in own), start=weight))
        bias = np.asarray(sum((part.bias for part in own), start=np.zeros(features)))
        sources = tuple(terms)
        if len(terms) > 1:
            total = Add(name=f"{record.name} input")
            self.records[total.name] = Record([total], [sources])
            sources = (Source(total.name),)
        if bias.any():
            shift = BatchNorm(name=f"{record.name} recurrent bias", scale=np.ones(features), shift=bias)
            nodes = [*nodes[:-1], shift, replace(neuron, recurrent=weight)]
        else:
            nodes = [*nodes[:-1], replace(neuron, recurrent=weight)]
        return nodes, sources
