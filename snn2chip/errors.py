"""Every error that snn2chip raises on purpose, with the exit code of the command line.

::

    Snn2chipError
    |-- CheckFailed             1   the check that was asked for failed (divergence, drop too large)
    |-- UsageError              2   wrong options or arguments; the output exists
    |-- InputError              3   a file or array that is unreadable, malformed or hostile
    |-- DoesNotFitError         4
    |   |-- UnsupportedError        a module or setting that has no exact form on the target
    |   `-- LimitError              a value outside of what the target can hold
    `-- EnvironmentFailure      5   the machine failed: disk full, no permission
        `-- LavaError               Lava crashed, or ran out of time
            `-- LavaMissing             Lava is not installed

Messages are one line: the layer by the user's module path, the value, the limit, the way out.
"""

from __future__ import annotations


class Snn2chipError(Exception):
    """Base of the tree; ``exit_code`` is what the command line returns."""

    exit_code = 1


class CheckFailed(Snn2chipError):
    """The check that was asked for ran, and failed."""

    exit_code = 1


class UsageError(Snn2chipError):
    """Wrong arguments, or an output file that exists already."""

    exit_code = 2


class InputError(Snn2chipError):
    """A file or an array that cannot be read, is malformed, or tries something it must not."""

    exit_code = 3


class DoesNotFitError(Snn2chipError):
    """The network cannot be expressed on the target."""

    exit_code = 4


class UnsupportedError(DoesNotFitError):
    """A module, operation or setting that has no exact form on the target."""


class LimitError(DoesNotFitError):
    """A value that the target's registers or the loader cannot hold.

    Args:
        layer: the layer, by the user's module path.
        what: the quantity, with its unit where it has one.
        value: what it is.
        limit: what it may be.
        remedy: what to do instead.
    """

    def __init__(self, layer: str, what: str, value: object, limit: object, remedy: str) -> None:
        super().__init__(f"{layer}: {what} is {value}, limit {limit}; {remedy}")
        self.layer = layer


class EnvironmentFailure(Snn2chipError):
    """The machine failed, not the input: disk full, no permission, a missing program."""

    exit_code = 5


class LavaError(EnvironmentFailure):
    """Lava crashed, or did not finish in time."""


class LavaMissing(LavaError):
    """Lava is not installed, here or in the interpreter named by SNN2CHIP_LAVA_PYTHON."""
