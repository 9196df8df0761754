"""Tasks, here or on a cluster, with results kept as they come."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from snn2chip import __version__
from snn2chip.cluster.flight import Flight, Gone
from snn2chip.cluster.journal import Journal, from_bytes, to_bytes
from snn2chip.cluster.places import Place, check_place, connect
from snn2chip.errors import EnvironmentFailure, UsageError
from snn2chip.long_runs import digest

Task = TypeVar("Task")

#: Told how many tasks are done, and of how many.
Progress = Callable[[int, int], None]


def run(
    function: Callable[[Task], Any],
    tasks: Sequence[Task],
    where: str | Place | None = None,
    *,
    workers: int | None = None,
    journal: Path | None = None,
    progress: Progress | None = None,
    devices: Sequence[str] = (),
    valid: Callable[[Any], bool] | None = None,
) -> list[Any]:
    """``[function(task) for task in tasks]``, on any number of workers, with the same results.

    Args:
        function: of a module that the workers can import.
        tasks: small, picklable, told apart by their fields: paths and numbers. Equal tasks are run once.
        where: None for this process, ``local``, the address of a running scheduler (``tcp://host:port``), ``slurm``, or
            what :func:`~snn2chip.cluster.places.connect` has opened for several calls.
        workers: how many to start, for ``local`` (default: cores) and ``slurm`` (default: 1).
        journal: a folder in which the result of each finished task is kept; the same call finds it there. Workers on
            other machines must see it under the same path.
        progress: called when workers are there, and after each task.
        devices: CUDA devices that the workers of ``local`` share.
        valid: whether a result in the journal still stands; its files may be gone.

    Returns:
        Results in the order of the tasks: JSON values and small arrays, see :func:`~snn2chip.cluster.journal.to_bytes`.

    Raises:
        Snn2chipError: what the first task that fails raises, first in order; results of others stay in the journal.
        EnvironmentFailure: a task ends every worker that runs it; the scheduler or all workers are gone.
        UsageError: ``where`` is none of the above.
    """
    if isinstance(where, str):
        check_place(where, workers)
    elif workers is not None:
        raise UsageError(f"--workers {workers}: needs --cluster local or slurm")
    kept = None if journal is None else Journal(journal)
    keys = [digest((function.__module__, function.__qualname__, __version__, task)) for task in tasks]
    todo = dict(zip(keys, tasks, strict=True))
    done: dict[str, bytes] = {}
    if kept is not None:
        kept.make()
        for key in todo:
            body = kept.read(key)
            if body is not None and (valid is None or valid(from_bytes(body))):
                done[key] = body
            elif body is not None:
                kept.forget(key)
    tell = progress or (lambda done, total: None)
    calls = {key: (function, task, key, kept, __version__) for key, task in todo.items() if key not in done}

    def finished(key: str, body: bytes) -> None:
        done[key] = body
        tell(len(done), len(todo))

    if where is None or not calls:
        tell(len(done), len(todo))
        for key, call in calls.items():
            finished(key, perform(*call))
    else:
        standing = connect(where, workers, devices) if isinstance(where, str) else contextlib.nullcontext(where)
        with standing as place:
            tell(len(done), len(todo))
            try:
                Flight(place, perform, calls, lambda key: f"{function.__name__} of {todo[key]}").run(finished)
            except Gone as error:
                again = "starts again" if kept is None else f"continues: {len(done)} of {len(todo)} tasks are done"
                raise EnvironmentFailure(f"{error}; the same command {again}") from error
    return [from_bytes(done[key]) for key in keys]


def perform(function: Callable[[Task], Any], task: Task, key: str, journal: Journal | None, version: str) -> bytes:
    """One task. Its result is kept before anybody hears of it, and not computed twice.

    Raises:
        EnvironmentFailure: this process has another version of snn2chip than the one that sent the task.
    """
    if version != __version__:
        raise EnvironmentFailure(f"a worker has snn2chip {__version__}, not {version}; install the same there as here")
    if journal is not None and (body := journal.read(key)) is not None:
        return body
    body = to_bytes(function(task))
    if journal is not None:
        journal.write(key, body)
    return body
