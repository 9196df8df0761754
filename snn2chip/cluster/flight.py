"""Tasks on their way through a dask scheduler: never too many at once, none lost."""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
import time
import uuid
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from snn2chip.cluster.places import CONNECT_SECONDS, Place
from snn2chip.errors import EnvironmentFailure, Snn2chipError

Call = tuple[Any, ...]

#: Tasks that are known to the scheduler for each thread that can run them, and at least.
AHEAD, LEAST_AHEAD = 2, 8
POLL_SECONDS = 0.5
CENSUS_SECONDS = 2.0  # between two counts of the workers
LOST_SECONDS = 60.0  # until a result that nobody can fetch is asked for anew


class Gone(EnvironmentFailure):
    """The cluster is, not the work."""


class Failed:
    """An error of ours as it travels; some take arguments that their message does not tell."""

    def __init__(self, error: Snn2chipError) -> None:
        self.kind, self.arguments, self.state = type(error), error.args, dict(error.__dict__)

    def error(self) -> Snn2chipError:
        """The error as it was raised."""
        error = self.kind.__new__(self.kind, *self.arguments)
        error.__dict__.update(self.state)
        return error


def attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """A call on a worker."""
    try:
        return function(*arguments)
    except Snn2chipError as error:
        return Failed(error)


class Flight:
    """Calls that a cluster works on.

    A call whose workers ended is set aside and run alone at the end: only then it is known that it was this one, not
    another one that the same worker had been given.

    Args:
        function: that workers can import.
        calls: its arguments, by key, in order.
        names: what messages call them.
    """

    def __init__(
        self, place: Place, function: Callable[..., Any], calls: Mapping[str, Call], names: Callable[[str], str]
    ) -> None:
        self.place, self.client, self.function, self.calls, self.names = place, place.client, function, calls, names
        self.order = {key: i for i, key in enumerate(calls)}
        self.waiting, self.suspects = deque(calls), deque[str]()
        self.flying: dict[str, Any] = {}
        self.errors: dict[int, BaseException] = {}
        self.arrived: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self.label = uuid.uuid4().hex  # no other client's tasks have it
        self.attempts = 0
        self.threads, self.counted, self.seen_workers = 0, -CENSUS_SECONDS, time.monotonic()
        self.lost_at: float | None = None

    def run(self, finished: Callable[[str, Any], None]) -> None:
        """All calls; ``finished`` is told each result as it comes.

        Raises:
            Gone: the scheduler or all workers are.
            EnvironmentFailure: a call ends every worker that it is given to.
            Exception: what the first call that fails raises, first in order.
        """
        try:
            while self.waiting or self.suspects or self.flying:
                self._watch()
                self._send()
                landed = self._landed()
                for key in landed.keys() - (answers := self._answers(landed)).keys():
                    self._no_answer(key, landed[key])
                for key, answer in answers.items():
                    self._answer(key, answer, finished)
        except Exception as error:
            # A client that closes while it is asked something fails in many ways.
            if isinstance(error, Snn2chipError) or self.client.status == "running":
                raise
            raise Gone(f"{self.place.name}: the scheduler is gone") from error
        finally:
            if self.client.status == "running":
                for future in self.flying.values():
                    future.cancel()
        if self.errors:
            raise self.errors[min(self.errors)]

    def _send(self) -> None:
        if self.client.status != "running":
            return
        limit = max(LEAST_AHEAD, AHEAD * self.threads)
        while self.waiting and len(self.flying) < limit:
            self._submit(self.waiting.popleft())
        if self.suspects and not self.flying:
            self._submit(self.suspects[0])

    def _submit(self, key: str) -> None:
        self.attempts += 1
        name: Hashable = f"snn2chip-{self.label}-{self.attempts}"
        future = self.client.submit(attempt, self.function, *self.calls[key], key=name, pure=False)
        self.flying[key] = future
        future.add_done_callback(lambda future: self.arrived.put((key, future)))

    def _landed(self) -> dict[str, Any]:
        """Calls that ended, if any does within a moment."""
        out = []
        try:
            out.append(self.arrived.get(timeout=POLL_SECONDS))
            while True:
                out.append(self.arrived.get_nowait())
        except queue.Empty:
            landed = {key: future for key, future in out if self.flying.get(key) is future}
        for key in landed:
            del self.flying[key]
        return landed

    def _answers(self, landed: Mapping[str, Any]) -> dict[str, Any]:
        """Results of those that have one: of all in one message, or of each, where one of them is lost."""
        futures = {key: future for key, future in landed.items() if future.status == "finished"}
        if (found := self._gathered(futures)) is not None:
            return found
        each = [self._gathered({key: future}) for key, future in futures.items()]
        return {key: answer for one in each if one is not None for key, answer in one.items()}

    def _gathered(self, futures: dict[str, Any]) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self.client.sync(
                lambda: self.client.gather(futures, asynchronous=True), callback_timeout=LOST_SECONDS
            )
        except (*_SILENT, asyncio.CancelledError, concurrent.futures.CancelledError):
            return None  # lost with the scheduler, or with the worker that had it
        return found

    def _no_answer(self, key: str, future: Any) -> None:
        from distributed import KilledWorker

        error = future.exception(timeout=LOST_SECONDS) if future.status == "error" else None
        alone = bool(self.suspects) and self.suspects[0] == key
        if error is None:
            if not alone:
                self.waiting.appendleft(key)
        elif not isinstance(error, KilledWorker):
            self._fail(key, _explained(error))
        elif alone:
            self._fail(key, EnvironmentFailure(f"{self.names(key)}: ended every worker that ran it; {_MEMORY}"))
        else:
            self.suspects.append(key)

    def _answer(self, key: str, answer: Any, finished: Callable[[str, Any], None]) -> None:
        if key in self.suspects:
            self.suspects.remove(key)
        if isinstance(answer, Failed):
            self._fail(key, answer.error())
        elif not self.errors or self.order[key] < min(self.errors):
            finished(key, answer)

    def _fail(self, key: str, error: BaseException) -> None:
        """Calls before this one go on: which error is raised must not depend on which worker was faster."""
        self.errors[self.order[key]] = error
        first = min(self.errors)
        self.waiting = deque(other for other in self.waiting if self.order[other] < first)
        self.suspects = deque(other for other in self.suspects if self.order[other] < first)
        for other in [other for other in self.flying if self.order[other] > first]:
            self.flying.pop(other).cancel()

    def _watch(self) -> None:
        """Raise where nothing will come any more."""
        now = time.monotonic()
        if self.client.status != "running":
            self.lost_at = self.lost_at or now
            if self.client.status not in ("connecting", "newly-created") or now - self.lost_at > 2 * CONNECT_SECONDS:
                raise Gone(f"{self.place.name}: the scheduler is gone")
            return
        self.lost_at = None
        if now - self.counted < CENSUS_SECONDS:
            return
        self.counted = now
        try:
            census = self.client.sync(self.client.scheduler.ncores, callback_timeout=CONNECT_SECONDS)
        except _SILENT:
            return  # the status will tell
        self.threads = sum(census.values())
        if not census and (reason := self.place.refused()) is not None:
            raise Gone(f"{self.place.name}: no job could be submitted ({reason})")
        if census:
            self.seen_workers = time.monotonic()
        elif now - self.seen_workers > self.place.patience and not self.place.coming():
            hint = f"; {self.place.hint}" if self.place.hint else ""
            raise Gone(f"{self.place.name}: no worker for {self.place.patience:g} s{hint}")


#: What a call raises that nobody answers; asyncio's is another one before Python 3.11.
_SILENT = (OSError, TimeoutError, asyncio.TimeoutError)
_MEMORY = "if it needs more memory than there is, use fewer workers"


def _explained(error: BaseException) -> BaseException:
    if isinstance(error, ModuleNotFoundError):
        return EnvironmentFailure(f"a worker cannot import {error.name}; install the same there as here")
    return error
