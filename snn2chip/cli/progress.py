"""A progress bar on standard error for what takes long; nothing where nobody watches."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from snn2chip.cli import output
from snn2chip.long_runs import Progress as Tell

#: What ends sooner shows no bar.
PATIENCE = 2.0


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Samples per second, recently."""
        return Text(f"{task.speed:,.0f} samples/s" if task.speed else "", style="progress.data.speed")


@contextmanager
def bar(quiet: bool = False) -> Iterator[Tell]:
    """Yields what :func:`snn2chip.long_runs.simulate_data` calls after each chunk."""
    if quiet or not output.err.is_terminal:
        yield lambda what, done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    progress = Progress(*columns, console=output.err, transient=True)
    task = progress.add_task("starting", total=None)
    now = ""

    def tell(what: str, done: int, total: int) -> None:
        nonlocal now
        if what != now:
            progress.reset(task, description=what, total=total)  # the rate of checking is not that of simulating
            progress.update(task, completed=done)
            now = what
        else:
            progress.update(task, completed=done)

    patience = threading.Timer(PATIENCE, progress.start)
    patience.daemon = True
    patience.start()
    try:
        yield tell
    finally:
        patience.cancel()
        patience.join()
        progress.stop()
