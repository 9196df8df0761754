"""Where tasks run: processes of this machine, a running scheduler, SLURM. All through dask.distributed."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import fcntl
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing import resource_tracker
from pathlib import Path
from types import FrameType
from typing import Any

from snn2chip.errors import EnvironmentFailure, UsageError

#: Seconds to reach a scheduler that should be there, and one that this process has started.
CONNECT_SECONDS, STARTED_SECONDS = 10, 60
#: Seconds that ending may take.
CLOSE_SECONDS = 60
#: Seconds without any worker after which a run ends.
PATIENCE = 60.0
#: Seconds between two questions to SLURM's queue.
QUEUE_SECONDS = 30.0
#: Workers that end with a task, before it is set aside to be run alone.
ALLOWED_FAILURES = 1

_LOOPBACK = "127.0.0.1"
_THREADS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_INSTALL = "pip install 'snn2chip[cluster]'"


@dataclass(frozen=True)
class Place:
    """A cluster to run on.

    Attributes:
        name: for messages.
        client: of dask.distributed.
        patience: seconds without any worker after which the run ends, unless some are on their way.
        coming: whether workers are, in a queue that takes its time; asked once patience has ended.
        refused: why no workers will come, as soon as that is known.
        hint: where it may be found why there is none.
    """

    name: str
    client: Any
    patience: float = field(default_factory=lambda: PATIENCE)
    coming: Callable[[], bool] = lambda: False
    refused: Callable[[], str | None] = lambda: None
    hint: str = ""


def check_place(where: str, workers: int | None) -> None:
    """Raise unless ``where`` can be told from the word alone to be a cluster.

    Raises:
        UsageError: it is none, or ``workers`` are not for us to start.
        EnvironmentFailure: dask.distributed or dask-jobqueue is not installed.
    """
    address = where.startswith(("tcp://", "tls://"))
    if not address and where not in ("local", "slurm"):
        raise UsageError(f"--cluster {where}: expected local, tcp://host:port, tls://host:port or slurm")
    if workers is not None and (address or workers < 1):
        reason = "its workers are those that were started with it" if address else "expected at least 1"
        raise UsageError(f"--cluster {where} --workers {workers}: {reason}")
    try:
        import_module("distributed")
        if where == "slurm":
            _jobqueue()
    except ImportError as error:
        raise EnvironmentFailure(f"--cluster {where}: {error.name} is not installed; {_INSTALL}") from error


@contextlib.contextmanager
def connect(where: str, workers: int | None = None, devices: Sequence[str] = ()) -> Iterator[Place]:
    """A cluster; what was started for it ends with the block.

    Args:
        where: ``local``, ``tcp://host:port``, ``tls://host:port`` or ``slurm``.
        workers: how many to start.
        devices: CUDA devices that the workers of ``local`` share, see :func:`environment_of`.

    Raises:
        EnvironmentFailure: nothing answers there, or nothing can be started.
    """
    check_place(where, workers)
    if where == "local":
        place = _local(workers or os.cpu_count() or 1, devices)
    else:
        place = _slurm(workers or 1) if where == "slurm" else _running(where)
    with _Signals() as signals, _quiet(), place as found, signals.heard():
        yield found


def environment_of(index: int, devices: Sequence[str] = ()) -> dict[str, str]:
    """Variables of a worker of ``local``: one thread, and one device, round robin.

    Args:
        index: of the worker, from 0.
        devices: as CUDA_VISIBLE_DEVICES names them; without any, workers see what this process sees.
    """
    variables = dict.fromkeys(_THREADS, "1")
    if devices:
        variables["CUDA_VISIBLE_DEVICES"] = devices[index % len(devices)]
    return variables


@contextlib.contextmanager
def _local(workers: int, devices: Sequence[str]) -> Iterator[Place]:
    """A scheduler in this process and one process for each worker; they end with this process, however it ends."""
    dask, distributed = _untyped("dask"), _untyped("distributed")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_same_environment())
        os.environ["DASK_LOGGING__DISTRIBUTED"] = "critical"  # of workers, from their first line to their last
        scratch = str(stack.enter_context(_scratch()))
        settings: dict[str, Any] = {f"distributed.{who}.http.routes": [] for who in ("scheduler", "worker")}
        # For a dashboard that is not there they look at every process fifty and a hundred times a second.
        settings |= {"distributed.worker.profile.enabled": False, "distributed.admin.tick.interval": "1s"}
        # Else a worker that is just being replaced, so long after it was lost once, goes for good.
        settings["distributed.deploy.lost-worker-timeout"] = "365 days"
        stack.enter_context(dask.config.set({**settings, "temporary-directory": scratch}))
        loop = stack.enter_context(event_loop())
        common = {"host": _LOOPBACK, "protocol": _protocol()}
        options = {
            **common,
            "nthreads": 1,
            "memory_limit": 0,  # a worker that dask holds back for its memory would wait for ever
            "dashboard_address": None,
            "local_directory": scratch,
            "silence_logs": logging.CRITICAL,
        }
        cluster = stack.enter_context(
            distributed.SpecCluster(
                {
                    i: {"cls": distributed.Nanny, "options": {**options, "env": environment_of(i, devices)}}
                    for i in range(workers)
                },
                {
                    "cls": distributed.Scheduler,
                    "options": {
                        **common,
                        "port": 0,
                        "dashboard": False,
                        "dashboard_address": f"{_LOOPBACK}:0",
                        "allowed_failures": ALLOWED_FAILURES,
                    },
                },
                loop=loop,
                silence_logs=logging.CRITICAL,
            )
        )
        client = stack.enter_context(distributed.Client(cluster, timeout=STARTED_SECONDS))
        yield Place("local", client)


@contextlib.contextmanager
def _running(address: str) -> Iterator[Place]:
    """A scheduler that somebody else started."""
    distributed = _untyped("distributed")
    arguments = distributed.Security().get_connection_args("client")

    async def reach() -> None:
        connection = await distributed.comm.connect(address, timeout=CONNECT_SECONDS, **arguments)
        await connection.close()

    with event_loop() as loop:
        try:
            distributed.utils.sync(loop, reach)  # a client that could not be made would end after its loop
            client = distributed.Client(address, timeout=CONNECT_SECONDS, loop=loop)
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise EnvironmentFailure(
                f"{address}: no dask scheduler answers ({reason}); dask scheduler starts one"
            ) from error
        try:
            yield Place(address, client)
        finally:
            client.close(CONNECT_SECONDS)


@contextlib.contextmanager
def _slurm(workers: int) -> Iterator[Place]:
    """A scheduler in this process and SLURM jobs as workers, as dask's configuration under ``jobqueue.slurm`` says."""
    distributed = _untyped("distributed")
    if shutil.which("sbatch") is None:
        raise EnvironmentFailure("--cluster slurm: no sbatch here; run it where SLURM jobs are submitted")
    refusals: list[str] = []
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(slurm_cluster(refusals, stack.enter_context(event_loop())))
        client = stack.enter_context(distributed.Client(cluster, timeout=STARTED_SECONDS))
        cluster.scale(workers)
        cluster.adapt(minimum=workers, maximum=workers)  # jobs that reach their time limit are submitted anew
        yield Place(
            "slurm",
            client,
            coming=_Queue(cluster).holds_jobs,
            refused=lambda: next(iter(refusals), None),
            hint="no job is in the queue; slurm-*.out of the last ones, in log-directory, may say why",
        )


class _Queue:
    """SLURM's, asked whether it holds any job of a cluster; not often, since all users ask the same controller."""

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster
        self.asked, self.answer = -QUEUE_SECONDS, True

    def holds_jobs(self) -> bool:
        """Whether a worker may still come; True where SLURM does not answer."""
        if time.monotonic() - self.asked >= QUEUE_SECONDS:
            self.asked, self.answer = time.monotonic(), self._ask()
        return self.answer

    def _ask(self) -> bool:
        jobs = [getattr(worker, "job_id", None) for worker in list(self.cluster.workers.values())]
        if len(jobs) < len(self.cluster.worker_spec) or None in jobs:
            return True  # not yet submitted
        command = ["squeue", "--noheader", "--format=%i", f"--jobs={','.join(map(str, jobs))}"]
        try:
            found = subprocess.run(command, capture_output=True, text=True, timeout=QUEUE_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return True
        # It fails where it knows none of them, which is after a while so with jobs that ended.
        return bool(found.stdout.strip()) or (found.returncode != 0 and "invalid job id" not in found.stderr.lower())


def slurm_cluster(refusals: list[str], loop: Any) -> Any:
    """A cluster of dask-jobqueue without any job yet.

    Args:
        refusals: where it is put down why a job could not be submitted.
        loop: of :func:`event_loop`.

    Raises:
        UsageError: dask's configuration lacks cores or memory of a job, or contradicts itself.
    """
    dask, dask_jobqueue = _untyped("dask"), _jobqueue()

    usual: Any = dask_jobqueue.slurm.SLURMJob

    class Job(usual):  # type: ignore[misc]
        async def start(self) -> None:
            try:
                await super().start()
            except Exception as error:
                refusals.append(" ".join(str(error).split())[-300:])
                self.status = _untyped("distributed").Status.failed  # or the cluster would not close
                raise

    def configured(name: str) -> Any:
        return dask.config.get(f"jobqueue.slurm.{name}", None)

    threads = [f"export {name}=1" for name in _THREADS]
    hidden = {"dashboard": False, "dashboard_address": ":0", "allowed_failures": ALLOWED_FAILURES}
    try:
        missing = [name for name in ("cores", "memory") if configured(name) is None]
        if missing:
            raise ValueError(f"no {' and '.join(missing)} of a job")
        return dask_jobqueue.SLURMCluster(
            job_cls=Job,
            processes=configured("processes") or configured("cores"),
            job_script_prologue=[*threads, *(configured("job-script-prologue") or ())],
            worker_extra_args=["--memory-limit", "0", "--no-dashboard", *(configured("worker-extra-args") or ())],
            scheduler_options={**hidden, **(configured("scheduler-options") or {})},
            silence_logs=logging.CRITICAL,
            loop=loop,
        )
    except ValueError as error:
        raise UsageError(
            f"--cluster slurm: set jobqueue.slurm.cores and jobqueue.slurm.memory in ~/.config/dask/jobqueue.yaml "
            f"({str(error).splitlines()[0]})"
        ) from error


def _untyped(name: str) -> Any:
    """A module of dask, imported where it is needed; little of it has types."""
    return import_module(name)


def _jobqueue() -> Any:
    """The module dask_jobqueue, whose import would make Ctrl-C end this process as if all were well."""
    if threading.current_thread() is not threading.main_thread() and "dask_jobqueue" not in sys.modules:
        raise EnvironmentFailure("--cluster slurm: dask_jobqueue must first be imported in the main thread")
    before = signal.getsignal(signal.SIGINT)
    try:
        return _untyped("dask_jobqueue")
    finally:
        if signal.getsignal(signal.SIGINT) is not before:
            signal.signal(signal.SIGINT, before)


def _protocol() -> str:
    """TLS where dask's configuration demands it."""
    return "tls://" if _untyped("distributed.security").Security().require_encryption else "tcp://"


@contextlib.contextmanager
def _same_environment() -> Iterator[None]:
    """What workers inherit is left in the environment of this process, by nannies too."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for the workers, locked while they live; those that killed runs left behind go."""
    root, prefix = Path(tempfile.gettempdir()), f"snn2chip-workers-{os.getuid()}-"
    for old in root.glob(f"{prefix}*"):
        with contextlib.suppress(OSError), _locked(old):
            shutil.rmtree(old, ignore_errors=True)
    new = Path(tempfile.mkdtemp(prefix="snn2chip-new-"))
    with _locked(new):
        folder = new.rename(root / new.name.replace("snn2chip-new-", prefix))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Raises OSError where somebody else has locked it."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def event_loop() -> Iterator[Any]:
    """An event loop in a thread whose children do not hear Ctrl-C: the terminal sends it to them as well.

    Dask's own would have to run within ten seconds, which a stalled machine does not keep.
    """
    # This process would be started with the first child, and unblock the signal in the thread that starts it. Where
    # we are killed, it cleans up, and need not say so.
    with _same_environment():
        os.environ["PYTHONWARNINGS"] = "ignore"
        resource_tracker.ensure_running()
    ioloop = _untyped("tornado.ioloop")
    running: concurrent.futures.Future[tuple[Any, asyncio.Event]] = concurrent.futures.Future()

    async def until_ended() -> None:
        ended = asyncio.Event()
        running.set_result((ioloop.IOLoop.current(), ended))
        await ended.wait()

    def work() -> None:
        try:
            asyncio.run(until_ended())
        except BaseException as error:
            if running.done():
                raise
            running.set_exception(error)

    thread = threading.Thread(target=work, name="event loop", daemon=True)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        thread.start()  # inherits what is blocked, and so do its children
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    loop, ended = running.result()
    try:
        yield loop
    finally:
        loop.add_callback(ended.set)
        thread.join(CLOSE_SECONDS)  # and no longer: it is a daemon


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What dask logs and warns of is told by our errors, in one line."""
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in ("distributed", "tornado")]
    loggers = [logging.getLogger(name) for name in (*names, "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"distributed\b|dask_jobqueue\b")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class _Signals:
    """Ctrl-C and SIGTERM wait while something starts or ends, so that nothing is left behind half-way.

    A second signal does not wait. Where nobody handles SIGTERM, it ends the block as an error does. Python tells the
    main thread alone; in others nothing changes.
    """

    def __init__(self) -> None:
        self.waiting: int | None = None
        self.waits = True
        self.before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
            self.before = {n: handler for n, handler in found.items() if handler not in (signal.SIG_IGN, None)}
        for number in self.before:
            signal.signal(number, self._arrived)
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if kind is None and self.waiting is not None:
            self._act(self.waiting, None)

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """In here they end the block at once."""
        self.waits = False
        try:
            if self.waiting is not None:
                self._act(self.waiting, None)
            yield
        finally:
            self.waits = True

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self.waits and self.waiting is None:
            self.waiting = number
        else:
            self._act(number, frame)

    def _act(self, number: int, frame: FrameType | None) -> None:
        self.waiting = number
        if callable(self.before[number]):
            self.before[number](number, frame)
        else:
            raise SystemExit(128 + number)
