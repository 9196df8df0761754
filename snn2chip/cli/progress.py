"""Progress bars with the time left, on standard error, for what takes long; nothing where nobody watches."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from snn2chip.cli import output

if TYPE_CHECKING:
    from rich.progress import Progress

#: What ends sooner shows no bar, seconds.
PATIENCE = 2.0


class Tell(Protocol):
    """What a bar is told; a :data:`snn2chip.long_runs.Progress`."""

    def __call__(self, part: str, done: int = 0, total: int = 0) -> None:
        """``done`` of ``total`` are done (0: nobody knows) of ``part``.

        What follows ``: `` in ``part`` is what is worked on now; where what stands before it changes, the rate is
        measured anew.
        """


@contextmanager
def bar(quiet: bool = False) -> Iterator[Tell]:
    """A bar over samples, for :func:`snn2chip.long_runs.simulate_data`."""
    with _shown("", quiet, samples=True) as tell:
        yield tell


@contextmanager
def working(what: str, quiet: bool = False) -> Iterator[Tell]:
    """A bar for ``what``, which has stages; one that tells nothing shows that it goes on, and for how long."""
    with _shown(what, quiet, samples=False) as tell:
        yield tell


def columns(samples: bool) -> Progress:
    """What bars look like: description, bar, how much, and the time left, or, where that is unknown, the time so far.

    Args:
        samples: steps are samples, which are shown as a number and a rate; else as a share.
    """
    from rich.constrain import Constrain
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.table import Column
    from rich.text import Text

    class Much(ProgressColumn):
        def render(self, task: Task) -> Text:
            """The share; samples per second, recently."""
            if samples:
                return Text(f"{task.speed:,.0f} samples/s" if task.speed else "", style="progress.data.speed")
            return Text("" if task.total is None else f"{task.percentage:3.0f} %", style="progress.percentage")

    class Time(ProgressColumn):
        max_refresh = 0.5

        def render(self, task: Task) -> Text:
            """Time left, or so far."""
            left = task.time_remaining if task.total else None
            seconds, word = (task.elapsed or 0.0, "so far") if left is None else (left, "left")
            minutes, second = divmod(int(seconds), 60)
            return Text(f"{minutes // 60}:{minutes % 60:02}:{second:02} {word}", style="progress.remaining")

    class Narrower(Progress):
        def get_renderables(self) -> Iterator[Constrain]:
            """A bar with room for the ``^C`` that a terminal shows: wrapped, that would keep the bar there."""
            yield Constrain(self.make_tasks_table(self.tasks), max(1, output.err.width - 3))

    cut = Column(no_wrap=True, overflow="ellipsis", ratio=2)
    return Narrower(
        TextColumn("{task.description}", markup=False, table_column=cut),
        BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=4, max_width=40)),
        *([MofNCompleteColumn(table_column=Column(no_wrap=True))] if samples else []),
        Much(table_column=Column(no_wrap=True, justify="right")),
        Time(table_column=Column(no_wrap=True, justify="right")),
        console=output.err,
        transient=True,
        expand=True,
    )


@contextmanager
def _shown(what: str, quiet: bool, samples: bool) -> Iterator[Tell]:
    if not output.seen(quiet):
        yield _untold
        return
    progress = columns(samples)
    task = progress.add_task(what or "starting", total=None)
    stage = ""

    def tell(part: str, done: int = 0, total: int = 0) -> None:
        nonlocal stage
        text = ": ".join(filter(None, (what, part)))
        if part.partition(": ")[0] != stage:
            progress.reset(task, description=text, total=total or None)  # its rate is not that of the stage before
            stage = part.partition(": ")[0]
        progress.update(task, description=text, completed=done, total=total or None)

    patience = threading.Timer(PATIENCE, progress.start)
    patience.daemon = True
    patience.start()
    try:
        yield tell
    finally:
        patience.cancel()
        patience.join()
        progress.stop()


def _untold(part: str, done: int = 0, total: int = 0) -> None:
    """Nobody watches."""
