"""Which trained parameter each weight of the chip form comes from.

Lowering copies weights, places them between zeros and ones, and multiplies them by constants. So each weight, bias and
recurrent weight of the chip form is ``constant + factor * parameter[index]``, with constants, factors and indices that
depend on shapes alone. They are found by lowering the network three times, with parameters that are all 1, all 2, and
different from one another; a fourth time, with random ones, checks it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip.errors import UnsupportedError
from snn2chip.graph import Graph
from snn2chip.passes import Block, chip_blocks

Array = npt.NDArray[Any]

#: Arrays of a block that come from trained parameters.
ARRAYS = ("weight", "recurrent", "bias")


@dataclass(frozen=True, eq=False)
class Origin:
    """``constant + factor * parameters[index]``; three arrays of the shape of what they describe."""

    constant: Array
    factor: Array
    index: npt.NDArray[np.int64]

    def __call__(self, parameters: Any) -> Any:
        """The array that the parameters make; of numpy, or with torch's arrays in place of these of torch."""
        return self.constant + self.factor * parameters[self.index]

    def masked(self, mask: Array) -> Origin:
        """0 where ``mask`` is."""
        return Origin(self.constant * mask, self.factor * mask, self.index)


def arrays_of(block: Block) -> dict[str, Array]:
    """Its arrays, by name; those that it has."""
    found = {"weight": block.synapse.weight, "recurrent": block.neuron.recurrent, "bias": block.neuron.bias}
    return {name: np.asarray(array, np.float64) for name, array in found.items() if array is not None}


def with_arrays(block: Block, arrays: dict[str, Array]) -> Block:
    """``block`` with other numbers."""
    synapse = replace(block.synapse, weight=arrays["weight"])
    neuron = replace(block.neuron, recurrent=arrays.get("recurrent"), bias=arrays.get("bias"))
    return replace(block, synapse=synapse, neuron=neuron)


def origins(lowered: Callable[[Array], Graph], parameters: Array) -> list[dict[str, Origin]]:
    """For each block, where its arrays come from.

    Args:
        lowered: the network in chip form with these parameters ``[P]``.
        parameters: the trained ones.

    Raises:
        UnsupportedError: a weight comes from several parameters, or in a way that is not linear.
    """
    size = len(parameters)
    trained, ones, twos, ramp, random = (
        chip_blocks(lowered(values))
        for values in (
            parameters,
            np.ones(size),
            np.full(size, 2.0),
            1 + np.arange(size) / size,
            np.random.default_rng(0).uniform(1, 2, size),
        )
    )
    sample = np.random.default_rng(0).uniform(1, 2, size)
    found = []
    for blocks in zip(trained, ones, twos, ramp, random, strict=True):
        block = blocks[0]
        here = {}
        own, first, second, third, fourth = (arrays_of(one) for one in blocks)
        if not own.keys() == first.keys() == third.keys():
            raise UnsupportedError(f"{block.name}: is lowered in another way for other weights; train with bias=False")
        silent = (own["weight"].reshape(len(own["weight"]), -1) == 0).all(1)
        for name, array in own.items():
            factor = second[name] - first[name]
            constant = first[name] - factor
            index = np.zeros(array.shape, np.int64)
            moves = factor != 0
            index[moves] = np.clip(
                np.rint((third[name] - first[name])[moves] / factor[moves] * size), 0, size - 1
            ).astype(np.int64)
            origin = Origin(constant, factor, index)
            wrong = ~np.isclose(origin(sample), fourth[name], 1e-9, 1e-12)
            if name == "bias":  # neurons that always fire have one as large as the weights, whatever these are
                still = wrong & np.broadcast_to(silent.reshape(-1, *(1,) * (array.ndim - 1)), array.shape)
                origin = Origin(np.where(still, array, constant), np.where(still, 0.0, factor), index)
                wrong &= ~still
            if wrong.any():
                raise UnsupportedError(
                    f"{block.name}: its {name} on the chip comes from several trained values (pooling between synapses "
                    "and neurons); pool after the neurons"
                )
            here[name] = origin
        found.append(here)
    return found
