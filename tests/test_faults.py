"""Whatever breaks: a clear error of one line, nothing lost, nothing left behind.

Each row of the table breaks something for real and runs a command as a user does. `docs/faults.md` names every row.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faults import MARK, Bench, Run, Server
from numba.core.caching import UserProvidedCacheLocator
from torch import nn

import snn2chip as s2c
from snn2chip.errors import EnvironmentFailure, LavaMissing
from snn2chip.nn import LIF, Network, Readout
from snn2chip.simulators import event_kernels, lava, lava_env

try:
    lava.python()
    LAVA = True
except LavaMissing:
    LAVA = False

pytestmark = [
    pytest.mark.xdist_group("faults"),  # one server
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc, mount namespaces"),
]

EXPORT = "export model.pt -o {} --no-verify"
SIMULATE = "simulate model.net data.npz -o {} --record all --backend reference"
LONG = "simulate model.net long -o out --backend reference"
DEPLOY = "deploy model.net --data data.npz -o {}"
TRAIN = "train tet --data train.npz --test test.npz --model mlp:8 --epochs 2 --threads 1 -o {0}/m.pt --log {0}/log.csv"
LONG_TRAIN = TRAIN.replace("--epochs 2", "--epochs 100")  # not over when a signal arrives
HANG = "sleep 1000 & touch $BENCH/hangs; wait"  # an interpreter that starts something, and says nothing
FULL = r"cannot be written \(No space left on device\)"
READ_ONLY = r"cannot be written \(Read-only file system\)"
DENIED = r"cannot be written \(Permission denied\)"


@dataclass(frozen=True)
class Fault:
    """A row of the table.

    Attributes:
        id: its name.
        broken: what is broken, for `docs/faults.md`.
        command: what the user runs.
        code: its exit code, or minus the signal that ended it.
        error: what the line on standard error says after ``error:``; a pattern.
        run: breaks it and runs the command; the tests that follow are about the run that it returns.
        changed: names of files that may be new or other ones afterwards; a pattern.
        then: what has to work afterwards.
        mounts: whether it needs file systems of its own.
        lava: whether it needs Lava.
        slow: whether it is for `make test-all`.
    """

    id: str
    broken: str
    command: str
    code: int
    error: str
    run: Callable[[Bench, str], Run]
    changed: str = ""
    then: Callable[[Bench], None] = lambda bench: None
    mounts: bool = False
    lava: bool = False
    slow: bool = False


# What can be broken


def plainly(bench: Bench, command: str) -> Run:
    return bench.call(command)


def with_limits(**limits: Any) -> Callable[[Bench, str], Run]:
    return lambda bench, command: bench.call(command, **limits)


def after(*damage: Callable[[Bench], object], **limits: Any) -> Callable[[Bench, str], Run]:
    """Something is done to the folder first."""

    def run(bench: Bench, command: str) -> Run:
        for one in damage:
            one(bench)
        return bench.call(command, **limits)

    return run


def full(*pages: int, keep: str = "", undisturbed: str = "") -> Callable[[Bench, str], Run]:
    """The folder ``full`` holds so many pages, one run each, so that each write of the command is hit once.

    Args:
        keep: a file that is there before, and has to be there afterwards.
        undisturbed: the file that the command writes where there is room; with it, the command has to get there in the
            end, whatever was left by the runs that failed.
    """

    def run(bench: Bench, command: str) -> Run:
        bench.mount("full", "size=4096k")
        if keep:
            shutil.copy(bench.folder / "earlier.net", bench.path(f"full/{keep}"))
        before = bench.files()
        for size in pages:
            bench.mount("full", f"remount,size={4 * size + (16 if keep else 0)}k")
            done = bench.call(command)
            assert (size, done.code) == (size, 5), done.stderr.read_text()
            assert not [name for name in bench.files() if ".part" in name], bench.files()
            if size != pages[-1] and not undisturbed:
                assert bench.files() == before
        if undisturbed:
            bench.mount("full", "remount,size=4096k")
            bench.succeed(command)
            written = bench.path(f"full/{Path(undisturbed).name}")
            assert written.read_bytes() == (bench.folder / undisturbed).read_bytes()
        return done

    return run


def read_only(bench: Bench, command: str) -> Run:
    bench.mount("ro", "ro,size=64k")
    return bench.call(command)


def no_permission(bench: Bench, command: str) -> Run:
    (bench.folder / "denied").mkdir(mode=0o555)
    return bench.call(command, unprivileged=True)


def sent(number: signal.Signals, when: Callable[[Bench], Callable[[], object]]) -> Callable[[Bench, str], Run]:
    """A signal, at the moment when a condition holds."""

    def run(bench: Bench, command: str) -> Run:
        started = bench.start(command)
        started.until(when(bench))
        started.send(number)
        started.wait()
        return started

    return run


def hanging(then: Callable[[Bench, str], Run]) -> Callable[[Bench, str], Run]:
    """Lava's interpreter hangs."""

    def run(bench: Bench, command: str) -> Run:
        bench.interpreter(HANG)
        return then(bench, command)

    return run


def hangs(bench: Bench) -> Callable[[], object]:
    return bench.folder.with_name("hangs").exists


def checkpoint_is_there(bench: Bench) -> Callable[[], object]:
    return (bench.folder / "m.ckpt").exists


def something_done(bench: Bench) -> Callable[[], object]:
    """The long run has results on the disk."""

    def holds() -> object:
        with contextlib.suppress(OSError, ValueError):
            return json.loads((bench.folder / "out/run.json").read_text())["unfinished"]["samples_done"] > 0
        return False

    return holds


def lava_says(script: str) -> Callable[[Bench, str], Run]:
    """The interpreter that should run Lava does that."""

    def run(bench: Bench, command: str) -> Run:
        bench.interpreter(script)
        return bench.call(command)

    return run


def result_says(text: str) -> str:
    """A script that leaves this as the result that the worker should write."""
    return f"""printf '%s' '{text}' > "$(dirname "$2")/result.json"; sleep 1000"""


def wrote(name: str, content: bytes | str) -> Callable[[Bench], object]:
    data = content if isinstance(content, bytes) else content.encode()

    def damage(bench: Bench) -> None:
        path = bench.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    return damage


def cut(name: str, share: float = 0.6) -> Callable[[Bench], object]:
    return lambda bench: os.truncate(bench.folder / name, int(share * (bench.folder / name).stat().st_size))


def interrupted_run(bench: Bench) -> None:
    """An unfinished folder of results."""
    assert sent(signal.SIGKILL, something_done)(bench, LONG).code == -9


def changed_json(name: str, **values: Any) -> Callable[[Bench], object]:
    def damage(bench: Bench) -> None:
        path = bench.folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return damage


def newer_torch_file(name: str, kind: str) -> Callable[[Bench], object]:
    content = {"format": kind, "version": 99, "needs": "7.1"}
    return lambda bench: torch.save(content, bench.folder / name)


def newer_net(bench: Bench) -> None:
    import h5py

    with h5py.File(bench.folder / "model.net", "r+") as file:
        file["snn2chip/format"][()] = 99
        del file["snn2chip/needs"]
        file["snn2chip/needs"] = np.bytes_("7.1")


def while_it_reads(damage: Callable[[Path], object]) -> Callable[[Bench, str], Run]:
    """Something happens to the data when the first results are written."""

    def run(bench: Bench, command: str) -> Run:
        started = bench.start(command)
        started.until(something_done(bench))
        started.send(signal.SIGSTOP)
        damage(bench.folder / "long")
        started.send(signal.SIGCONT)
        started.wait()
        return started

    return run


def second(first: str, when: Callable[[Bench], Callable[[], object]]) -> Callable[[Bench, str], Run]:
    """The command runs while another one is at the same output; that one ends well."""

    def run(bench: Bench, command: str) -> Run:
        other = bench.start(first)
        other.until(when(bench))
        other.send(signal.SIGSTOP)
        done = bench.call(command)
        other.send(signal.SIGCONT)
        assert other.wait() == 0, other.stderr.read_text()
        return done

    return run


def second_export(bench: Bench, command: str) -> Run:
    """While the first is in Lava, and stays there until the second has ended; 42: it is not installed."""
    bench.interpreter(f"touch $BENCH/hangs; while [ ! -e $BENCH/go ]; do sleep 0.02; done; exit {lava.NOT_IMPORTABLE}")
    other = bench.start("export model.pt -o a.net")
    other.until(hangs(bench))
    done = bench.call(command)
    bench.folder.with_name("go").touch()
    assert other.wait() == 0, other.stderr.read_text()
    return done


def taken_meanwhile(bench: Bench, command: str) -> Run:
    bench.interpreter(f"echo precious > {bench.folder}/a.net; exit {lava.NOT_IMPORTABLE}")
    done = bench.call(command)
    assert (bench.folder / "a.net").read_text() == "precious\n"
    return done


def made_elsewhere(bench: Bench, command: str) -> Run:
    """Another lava-env holds the lock of the folder."""
    try:
        lava_env.find_python()
    except EnvironmentFailure as error:
        pytest.skip(str(error))
    lock = os.open(bench.folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        return bench.call(command)
    finally:
        os.close(lock)


def worker_of(started: Run) -> Callable[[], object]:
    """A process that runs Lava's worker."""

    def found() -> int | None:
        for pid in started.children():
            with contextlib.suppress(OSError):
                if b"lava_worker.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
        return None

    return found


def killed_worker(bench: Bench, command: str) -> Run:
    started = bench.start(command)
    worker = worker_of(started)
    started.until(worker)
    os.kill(int(worker()), signal.SIGKILL)  # type: ignore[call-overload]
    started.wait()
    return started


def killed_parent(bench: Bench, command: str) -> Run:
    """Only this command's own process is killed; Lava's end by themselves, and take their files with them."""
    started = bench.start(command)
    started.until(worker_of(started))
    started.send(signal.SIGKILL)
    started.wait()
    return started


def job_folders_go(bench: Bench) -> None:
    names = [path.name for path in Path(bench.environ["TMPDIR"]).iterdir()]
    assert not [name for name in names if name.startswith(("snn2chip", "pymp-"))]  # torch keeps things there too


def killed_while_it_hangs(bench: Bench, command: str) -> Run:
    """The interpreter waits for the end of its input, as the worker does (lava-orphans shows that)."""
    folder = '"$(dirname "$(dirname "$2")")"'  # of the job; there may be several workers
    bench.interpreter(f"touch $BENCH/hangs; cat > /dev/null; while [ -e {folder} ]; do rm -rf {folder}; done")
    return sent(signal.SIGKILL, hangs)(bench, command)


def killed_while_it_runs(bench: Bench, command: str) -> Run:
    """The bundle's own runner has started a worker."""
    started = bench.start(command)
    started.until(lambda: len(started.children()) > 2)
    started.send(signal.SIGKILL)
    started.wait()
    return started


def small_shared_memory(bench: Bench, command: str) -> Run:
    bench.server.mount(Path("/dev/shm"), "size=4k")
    try:
        return bench.call(command)
    finally:
        bench.server.unmount(Path("/dev/shm"))


def stale_stamp(bench: Bench) -> None:
    wrote("env/.snn2chip-lava-env", b"\xff\xfe\x00rubbish")(bench)
    wrote("env/bin/python", "#!/bin/sh\nexit 1\n")(bench)
    (bench.folder / "env/bin/python").chmod(0o755)


def damaged_kernels(bench: Bench, command: str) -> Run:
    """numba's cache, with rubbish instead of what one kernel is found by; it is compiled, and stored again."""
    module = Path(event_kernels.__file__)
    name = UserProvidedCacheLocator.get_suitable_cache_subpath(str(module))
    cache = bench.folder.with_name("cache") / name
    shutil.copytree(module.parent / "__pycache__", cache, ignore=shutil.ignore_patterns("*.pyc"))
    bench.environ["NUMBA_CACHE_DIR"] = str(cache.parent)
    kept = next(cache.glob("event_kernels.run_dense-*.nbi")).read_bytes()
    for path in cache.glob("event_kernels.run_dense-*.nbi"):
        path.write_bytes(kept[: len(kept) // 2])
    for path in cache.glob("event_kernels.run_dense-*.nbc"):
        path.write_bytes(path.read_bytes()[:1000])
    done = bench.call(command, fresh=True)
    assert any(path.stat().st_size != len(kept) // 2 for path in cache.glob("event_kernels.run_dense-*.nbi"))
    return done


def nowhere_for_kernels(bench: Bench, command: str) -> Run:
    """The package lies on a read-only file system, and there is no home."""
    for path in (Path(event_kernels.__file__).parent, Path(event_kernels.__file__).resolve().parent):
        bench.server.bind_read_only(path)
        bench.mounted.append(path)
    bench.environ |= {"HOME": "/proc/nowhere", "XDG_CACHE_HOME": "/proc/nowhere", "NUMBA_CACHE_DIR": ""}
    return bench.call(command, fresh=True)


def filled(bench: Bench, command: str) -> Run:
    """No page is left at all."""
    bench.mount("full", "size=8k")
    bench.path("full/other").write_bytes(bytes(8192))
    done = bench.call(command)
    bench.path("full/other").unlink()
    return done


def full_tmp(bench: Bench, command: str) -> Run:
    bench.mount("full", "size=8k")
    bench.environ["TMPDIR"] = str(bench.folder / "full")
    bench.interpreter("exit 1")
    return bench.call(command)


def linked_elsewhere(bench: Bench, command: str) -> Run:
    """Where there is room the link is followed, and stays."""
    (bench.folder / "link.net").symlink_to("full/a.net")
    done = full(1)(bench, command)
    bench.mount("full", "remount,size=1024k")
    bench.succeed(command)
    assert (bench.folder / "link.net").is_symlink()
    assert s2c.read(bench.path("full/a.net")) == s2c.read(bench.folder / "model.net")
    return done


def out_of_memory(bench: Bench, command: str) -> Run:
    """Traces of 4.6 GB, and one to have beside what is in use."""
    from snn2chip.chip import ChipNet, Dense, Neuron

    layer = Dense("wide", (4,), np.ones((8000, 4), np.int64), Neuron.of("wide", 3))
    s2c.export(ChipNet((4,), (layer,), time_steps=64), bench.folder / "wide.net")
    np.savez(bench.folder / "wide.npz", x=np.ones((1000, 64, 4), np.uint8))
    return bench.call(command, memory=1 << 30)


# What has to work afterwards


def again(command: str, *arguments: str) -> Callable[[Bench], None]:
    def then(bench: Bench) -> None:
        bench.environ.pop("SNN2CHIP_LAVA_PYTHON", None)
        bench.succeed(command)
        assert not [name for name in bench.files() if ".part" in name]

    return then


def goes_on(*repair: Callable[[Bench], object]) -> Callable[[Bench], None]:
    """The same command continues the long run, to the same bytes."""

    def then(bench: Bench) -> None:
        for one in repair:
            one(bench)
        bench.succeed(LONG + " --json")
        assert json.loads(bench.runs[-1].stdout.read_text())["resumed_at"] > 0
        assert_same_run(bench)

    return then


def assert_same_run(bench: Bench) -> None:
    for path in (bench.folder / "undisturbed").iterdir():
        assert path.read_bytes() == (bench.folder / "out" / path.name).read_bytes(), path.name


def trains_on(bench: Bench) -> None:
    """To the same model as without the interruption."""
    bench.succeed(LONG_TRAIN.format("."))
    bench.succeed(LONG_TRAIN.format("trained").replace("/m.pt", "/long.pt"))
    assert (bench.folder / "m.pt").read_bytes() == (bench.folder / "trained/long.pt").read_bytes()


def restored(name: str) -> Callable[[Bench], object]:
    def repair(bench: Bench) -> None:
        shutil.copy(bench.folder / "spare" / name, bench.folder / "long" / name)

    return repair


FAULTS = [
    # Disk full
    Fault(
        "full-export",
        "the disk is full",
        EXPORT.format("full/a.net"),
        5,
        f"full/a.net: {FULL}",
        full(1, 2),
        mounts=True,
    ),
    Fault(
        "full-export-over",
        "the disk is full, and an earlier file is to be replaced",
        EXPORT.format("full/a.net") + " --force",
        5,
        f"full/a.net: {FULL}",
        full(1, keep="a.net"),
        changed=r"full/a\.net",
        mounts=True,
    ),
    Fault(
        "full-npz", "the disk is full", SIMULATE.format("full/o.npz"), 5, f"full/o.npz: {FULL}", full(1), mounts=True
    ),
    Fault(
        "full-folder",
        "the disk is full at any write of a folder of results",
        SIMULATE.format("full/out"),
        5,
        r"full/out: cannot be written \((No space left on device|\d+ MiB needed, 0 MiB free)\)",
        full(1, 2, 3, 4, 6, 8),
        mounts=True,
    ),
    Fault(
        "full-init",
        "the disk is full",
        "init model.pt -o full/a.yaml",
        5,
        f"full/a.yaml: {FULL}",
        filled,
        mounts=True,
    ),
    Fault(
        "full-cutoff",
        "the disk is full",
        "cutoff model.net data.npz --max-drop 90 -o full/e.net",
        5,
        f"full/e.net: {FULL}",
        full(1, 2),
        mounts=True,
    ),
    Fault(
        "full-deploy",
        "the disk is full at any write of a bundle",
        DEPLOY.format("full/b") + " --no-verify",
        5,
        f"full/b: {FULL}",
        full(1, 4, 8, 12, 16, 20, 24),
        mounts=True,
    ),
    Fault(
        "full-train",
        "the disk is full at any write of a training run: checkpoint, log, model",
        TRAIN.format("full"),
        5,
        rf"full/(m\.ckpt|log\.csv|m\.pt): {FULL}",
        full(1, 4, 8, undisturbed="trained/m.pt"),
        changed=r"full/(m\.ckpt|log\.csv|m\.pt)",
        mounts=True,
    ),
    Fault(
        "full-tmp",
        "no room for Lava's files in the temporary folder",
        "verify model.net data.npz",
        5,
        r"\S+/snn2chip-lava-\S+/model.net: cannot be written \(No space left on device\)",
        full_tmp,
        mounts=True,
    ),
    Fault(
        "full-stdout",
        "standard output goes to a full disk",
        "inspect model.net",
        5,
        "system: No space left on device",
        with_limits(stdout="/dev/full"),
    ),
    Fault(
        "quota-export",
        "files may not be that large",
        EXPORT.format("a.net"),
        5,
        r"a.net: cannot be written \(File too large\)",
        with_limits(file_size=2000),
    ),
    Fault(
        "quota-deploy",
        "files may not be that large",
        DEPLOY.format("b") + " --no-verify",
        5,
        r"b: cannot be written \(File too large\)",
        with_limits(file_size=9000),
    ),
    # Read-only
    Fault(
        "read-only-export",
        "the folder is read-only",
        EXPORT.format("ro/a.net"),
        5,
        f"ro/a.net: {READ_ONLY}",
        read_only,
        mounts=True,
    ),
    Fault(
        "read-only-folder",
        "the folder is read-only",
        SIMULATE.format("ro/out"),
        5,
        f"ro/out: {READ_ONLY}",
        read_only,
        mounts=True,
    ),
    Fault(
        "read-only-deploy",
        "the folder is read-only",
        DEPLOY.format("ro/b"),
        5,
        f"ro/b: {READ_ONLY}",
        read_only,
        mounts=True,
    ),
    Fault(
        "read-only-train",
        "the folder is read-only",
        TRAIN.format("ro"),
        5,
        rf"ro/m.pt: {READ_ONLY}",
        read_only,
        mounts=True,
    ),
    Fault(
        "read-only-demo",
        "the folder is read-only",
        "demo --folder ro/d",
        5,
        "ro/d: Read-only file system",
        read_only,
        mounts=True,
    ),
    Fault(
        "denied-output",
        "no permission to write",
        EXPORT.format("denied/a.net"),
        5,
        f"denied/a.net: {DENIED}",
        no_permission,
        changed="denied",
    ),
    Fault(
        "denied-input",
        "no permission to read",
        "inspect model.net",
        2,
        """Invalid value for 'NET': Path 'model.net' is not readable. See snn2chip inspect --help""",
        after(lambda bench: (bench.folder / "model.net").chmod(0), unprivileged=True),
        then=lambda bench: (bench.folder / "model.net").chmod(0o644),
    ),
    # Interrupted
    *(
        Fault(
            f"{name}-export",
            f"{what} while the file is verified",
            "export model.pt -o a.net",
            130,
            "interrupted",
            hanging(sent(number, hangs)),
        )
        for name, what, number in (
            ("ctrl-c", "Ctrl-C", signal.SIGINT),
            ("terminated", "SIGTERM", signal.SIGTERM),
            ("hung-up", "the terminal is closed (SIGHUP)", signal.SIGHUP),
        )
    ),
    Fault(
        "killed-export",
        "`kill -9` while the file is verified; the next run removes what is left",
        "export model.pt -o a.net",
        -9,
        "",
        killed_while_it_hangs,
        changed=r"\.a\.net\.part(/.*)?",
        then=again("export model.pt -o a.net --no-verify"),
    ),
    Fault(
        "terminated-deploy",
        "SIGTERM while a bundle is verified that should replace another",
        DEPLOY.format("bundle") + " --force",
        130,
        "interrupted",
        hanging(sent(signal.SIGTERM, hangs)),
    ),
    Fault(
        "killed-deploy",
        "`kill -9` while a bundle is verified; the next run removes what is left",
        DEPLOY.format("b"),
        -9,
        "",
        killed_while_it_runs,
        changed=r"\.b\.part(/.*)?",
        then=again(DEPLOY.format("b") + " --no-verify"),
        lava=True,
    ),
    Fault(
        "terminated-folder",
        "SIGTERM while results are written; the same command continues",
        LONG,
        130,
        "interrupted",
        sent(signal.SIGTERM, something_done),
        changed="out(/.*)?",
        then=goes_on(),
    ),
    Fault(
        "killed-folder",
        "`kill -9` while results are written; the same command continues",
        LONG,
        -9,
        "",
        sent(signal.SIGKILL, something_done),
        changed="out(/.*)?",
        then=goes_on(),
    ),
    Fault(
        "terminated-train",
        "SIGTERM in training; the same command goes on to the same model",
        LONG_TRAIN.format("."),
        130,
        "interrupted",
        sent(signal.SIGTERM, checkpoint_is_there),
        changed=r"m\.ckpt|log\.csv",
        then=trains_on,
    ),
    Fault(
        "killed-train",
        "`kill -9` in training; the same command goes on to the same model",
        LONG_TRAIN.format("."),
        -9,
        "",
        sent(signal.SIGKILL, checkpoint_is_there),
        changed=r"m\.ckpt|log\.csv|\..*\.part(/.*)?",
        then=trains_on,
    ),
    # Lava
    Fault(
        "lava-segfault",
        "Lava's process crashes",
        "verify model.net data.npz",
        5,
        "Lava: the worker was ended by SIGSEGV",
        lava_says("kill -SEGV $$"),
    ),
    Fault(
        "lava-silent",
        "Lava's process ends without a word",
        "export model.pt -o a.net",
        5,
        "Lava failed: no message",
        lava_says("exit 3"),
    ),
    Fault(
        "lava-rubbish",
        "Lava's process prints binary rubbish",
        "verify model.net data.npz",
        5,
        "Lava failed: .{1,310}",
        lava_says("head -c 100000 /bin/sh >&2; exit 1"),
    ),
    Fault(
        "lava-false-result",
        "Lava's result is not what a worker writes",
        "verify model.net data.npz",
        5,
        r"Lava failed: \S+ left a result that is damaged",
        lava_says(result_says("{]")),
    ),
    Fault(
        "lava-no-work",
        "Lava's process claims a result and has computed nothing",
        "export model.pt -o a.net",
        1,
        "a.net: not written, event differs from lava: .*",
        lava_says(result_says('{"seconds": 1}')),
    ),
    Fault(
        "lava-hangs",
        "Lava hangs",
        "export model.pt -o a.net --timeout 0.5",
        5,
        "Lava: not finished after 0.5 s.*",
        lava_says(HANG),
    ),
    Fault(
        "lava-no-program",
        "SNN2CHIP_LAVA_PYTHON names nothing",
        "verify model.net data.npz",
        5,
        ".*is '/nowhere', which is not a program",
        after(lambda bench: bench.environ.update(SNN2CHIP_LAVA_PYTHON="/nowhere")),
    ),
    Fault(
        "lava-crash-deploy",
        "Lava's process crashes while a bundle is verified that should replace another",
        DEPLOY.format("bundle") + " --force",
        5,
        "bundle: ended with code -11",
        lava_says("kill -SEGV $$"),
    ),
    Fault(
        "lava-killed",
        "Lava's worker is killed",
        "verify model.net data.npz",
        5,
        "Lava: the worker was ended by SIGKILL",
        killed_worker,
        lava=True,
    ),
    Fault(
        "lava-orphans",
        "snn2chip is killed while Lava runs; its processes and files go by themselves",
        "verify model.net data.npz",
        -9,
        "",
        killed_parent,
        then=job_folders_go,
        lava=True,
    ),
    Fault(
        "lava-no-memory",
        "no shared memory for Lava",
        "verify model.net data.npz",
        5,
        r"Lava(:| failed:) .*",
        small_shared_memory,
        mounts=True,
        lava=True,
    ),
    # Two at once
    Fault(
        "two-exports",
        "another run is writing the file",
        EXPORT.format("a.net"),
        2,
        "a.net: another run is writing it",
        second_export,
        changed=r"a\.net",
    ),
    Fault(
        "two-folders",
        "another run is writing the folder of results",
        LONG,
        2,
        "out: another run is writing there",
        second(LONG, something_done),
        changed="out(/.*)?",
        then=assert_same_run,
    ),
    Fault(
        "taken-meanwhile",
        "somebody else makes the file while it is verified",
        "export model.pt -o a.net",
        2,
        "a.net: exists already; --force overwrites it",
        taken_meanwhile,
        changed=r"a\.net",
    ),
    Fault(
        "two-environments",
        "another lava-env is making the environment",
        "lava-env --folder env",
        2,
        ".*env: is being made by another lava-env right now",
        made_elsewhere,
    ),
    # Corrupted
    Fault(
        "cut-journal",
        "run.json of an unfinished run is cut off",
        LONG,
        2,
        "out: exists already and is no folder of results; take another",
        after(interrupted_run, cut("out/run.json")),
        changed="out(/.*)?",
    ),
    Fault(
        "false-journal",
        "run.json of an unfinished run says what cannot be",
        LONG,
        3,
        r"out/run.json: damaged \(.*\); --force starts anew",
        after(interrupted_run, changed_json("out/run.json", unfinished={"samples_done": -1})),
        changed="out(/.*)?",
        then=lambda bench: (bench.succeed(LONG + " --force"), assert_same_run(bench))[1],
    ),
    Fault(
        "newer-journal",
        "run.json is of a newer snn2chip",
        LONG,
        3,
        r"out/run.json: format 99 needs snn2chip 7.1 or later; this is .*",
        after(interrupted_run, changed_json("out/run.json", format="snn2chip run 99", needs="7.1")),
        changed="out(/.*)?",
    ),
    Fault(
        "cut-results",
        "an array of an unfinished run is cut off",
        LONG,
        3,
        "out/scores.npy: not what the unfinished run wrote; --force starts anew",
        after(interrupted_run, cut("out/scores.npy")),
        changed="out(/.*)?",
    ),
    Fault(
        "cut-checkpoint",
        "the checkpoint is cut off",
        TRAIN.format("trained").replace("/m.pt", "/n.pt --checkpoint trained/m.ckpt"),
        3,
        r"trained/m.ckpt: cannot be read as a checkpoint \(.*\); --force starts anew",
        after(cut("trained/m.ckpt")),
        changed=r"trained/m\.ckpt",
    ),
    Fault(
        "newer-checkpoint",
        "the checkpoint is of a newer snn2chip",
        TRAIN.format("trained").replace("/m.pt", "/n.pt --checkpoint trained/m.ckpt"),
        3,
        "trained/m.ckpt: format 99 needs snn2chip 7.1 or later; this is .*",
        after(newer_torch_file("trained/m.ckpt", "snn2chip.training")),
        changed=r"trained/m\.ckpt",
    ),
    Fault(
        "cut-model",
        "the model is cut off",
        EXPORT.format("a.net"),
        3,
        "model.pt: .*",
        after(cut("model.pt")),
        changed=r"model\.pt",
    ),
    Fault(
        "newer-model",
        "the model is of a newer snn2chip",
        EXPORT.format("a.net"),
        3,
        "model.pt: format 99 needs snn2chip 7.1 or later; this is .*, which reads up to 1",
        after(newer_torch_file("model.pt", "snn2chip.model")),
        changed=r"model\.pt",
    ),
    Fault(
        "cut-net",
        "the NetX file is cut off",
        "inspect model.net",
        3,
        "model.net: .*",
        after(cut("model.net")),
        changed=r"model\.net",
    ),
    Fault(
        "newer-net",
        "the NetX file is of a newer snn2chip",
        "inspect model.net",
        3,
        "model.net: .*format 99 needs snn2chip 7.1 or later; this is .*, which reads up to 1",
        after(newer_net),
        changed=r"model\.net",
    ),
    Fault(
        "cut-data",
        "the data file is cut off",
        SIMULATE.format("o.npz"),
        3,
        r"data.npz: cannot be read as .npz \(.*\)",
        after(cut("data.npz")),
        changed=r"data\.npz",
    ),
    Fault(
        "false-stamp",
        "the stamp of Lava's environment is damaged",
        "lava-env --folder env --python /bin/false",
        2,
        "--python /bin/false: is not a Python 3.10",
        after(stale_stamp),
        changed="env(/.*)?",
    ),
    Fault(
        "damaged-kernels",
        "the cache of compiled kernels is damaged; they are compiled again",
        "simulate model.net data.npz -o o.npz --backend event",
        0,
        "",
        damaged_kernels,
        changed=r"o\.npz",
    ),
    Fault(
        "no-place-for-kernels",
        "nowhere to keep compiled kernels; they are compiled each time",
        "simulate model.net data.npz -o o.npz --backend event",
        0,
        "",
        nowhere_for_kernels,
        changed=r"o\.npz",
        mounts=True,
        slow=True,
    ),
    # Data that change
    Fault(
        "shrinking-data",
        "the data are cut off while they are read",
        LONG,
        3,
        r"long/x-1.npy: ends early, it has been cut off since it was opened.*",
        while_it_reads(lambda folder: os.truncate(folder / "x-1.npy", 1000)),
        changed=r"out(/.*)?|long/x-1\.npy",
        then=goes_on(restored("x-1.npy")),
    ),
    Fault(
        "vanishing-data",
        "the data are removed while they are read",
        LONG,
        3,
        r"long/x-1.npy: cannot be read \(.*No such file.*\).*",
        while_it_reads(lambda folder: (folder / "x-1.npy").unlink()),
        changed=r"out(/.*)?|long/x-1\.npy",
        then=goes_on(restored("x-1.npy")),
    ),
    # Odd outputs
    Fault(
        "output-folder",
        "the output is a folder",
        EXPORT.format("long") + " --force",
        2,
        "long: is a folder, expected the name of a file",
        plainly,
    ),
    Fault(
        "output-device",
        "the output is a device",
        EXPORT.format("/dev/null") + " --force",
        2,
        "/dev/null: is not a regular file",
        plainly,
    ),
    Fault(
        "output-nowhere",
        "the output's folder is missing",
        EXPORT.format("no/a.net"),
        5,
        r"no/a.net: cannot be written \(No such file or directory\)",
        plainly,
    ),
    Fault(
        "output-dangling",
        "the output is a link into a folder that is missing",
        EXPORT.format("link.net"),
        5,
        r"link.net: cannot be written \(No such file or directory\)",
        after(lambda bench: (bench.folder / "link.net").symlink_to("missing/a.net")),
        changed=r"link\.net",
    ),
    Fault(
        "output-elsewhere",
        "the output is a link to another file system, which is full",
        EXPORT.format("link.net"),
        5,
        f"link.net: {FULL}",
        linked_elsewhere,
        changed=r"link\.net|full/a\.net",
        mounts=True,
    ),
    # Memory
    Fault(
        "no-memory",
        "memory runs out",
        SIMULATE.format("o.npz").replace("data.npz", "wide.npz").replace("model.net", "wide.net"),
        5,
        "out of memory .*",
        out_of_memory,
        changed=r"wide\.npz|wide\.net",
    ),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    if not server.mounts and os.environ.get("CI") == "true" and os.geteuid() == 0:
        pytest.fail("no mount namespace, though root in CI")
    yield server
    server.close()


@pytest.fixture(scope="module")
def kit(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained-like model, its exported network, data of several kinds, and what undisturbed runs write."""
    folder = tmp_path_factory.mktemp("kit") / "work"
    folder.mkdir()
    generator = np.random.default_rng(0)
    torch.manual_seed(0)
    network = Network(nn.Linear(12, 16), LIF(), Readout(16, 4), input_shape=(12,), time_steps=3)
    x, y = generator.integers(0, 2, (60, 3, 12)).astype(np.uint8), np.arange(60) % 4
    s2c.save(network, folder / "model.pt", calibration=(x.astype(np.float32), y))
    np.savez(folder / "data.npz", x=x, y=y)
    for name in ("train", "test"):
        np.savez(folder / f"{name}.npz", x=generator.random((40, 12)).astype(np.float32), y=np.arange(40) % 4)
    s2c.export(s2c.convert(folder / "model.pt"), folder / "model.net")
    s2c.export(s2c.convert(folder / "model.pt", bits=4), folder / "earlier.net")
    for name in ("long", "spare", "trained"):
        (folder / name).mkdir()
    for i in range(2):
        np.save(folder / f"spare/x-{i}.npy", generator.integers(0, 2, (LONG_SAMPLES // 2, 3, 12)).astype(np.uint8))
        shutil.copy(folder / f"spare/x-{i}.npy", folder / "long")
    bench = Bench(server, folder)
    bench.succeed(LONG.replace("out", "undisturbed"))
    bench.succeed(DEPLOY.format("bundle") + " --no-verify")
    bench.succeed(TRAIN.format("trained"))
    return folder


LONG_SAMPLES = 3_200


@pytest.fixture
def bench(server: Server, kit: Path, tmp_path: Path) -> Iterator[Bench]:
    shutil.copytree(kit, tmp_path / "work")
    (tmp_path / "tmp").mkdir()
    bench = Bench(server, tmp_path / "work", {"TMPDIR": str(tmp_path / "tmp"), "BENCH": str(tmp_path)})
    yield bench
    bench.close()


SLOW = [pytest.mark.slow]


@pytest.mark.parametrize(
    "fault", [pytest.param(fault, id=fault.id, marks=SLOW if fault.slow else []) for fault in FAULTS]
)
def test_fault(bench: Bench, fault: Fault) -> None:
    if fault.mounts and not bench.server.mounts:
        pytest.skip("no mount namespaces here")
    if fault.lava and not LAVA:
        pytest.skip("Lava is not installed")
    before = bench.files()
    done = fault.run(bench, fault.command)
    errors = done.stderr.read_text()
    assert done.wait() == fault.code, errors
    lines = [line for line in errors.splitlines() if not line.startswith("train ")]  # epochs that went well
    assert len(lines) == bool(fault.error), errors
    assert not fault.error or re.fullmatch(f"error: {fault.error}", lines[0]), errors
    now = bench.files()
    differing = {name for name in before.keys() | now.keys() if before.get(name, 0) != now.get(name, 0)}
    mounted = {path.name for path in bench.mounted}
    assert not [name for name in differing if name not in mounted and not re.fullmatch(fault.changed, name)]
    assert_ended(bench)
    fault.then(bench)
    if not bench.mounted:
        job_folders_go(bench)


def assert_ended(bench: Bench) -> None:
    """No run has left a process behind; those of a killed one have a moment to notice."""
    for one in bench.runs:
        if one.children():
            deadline = time.monotonic() + 120
            while one.children() and time.monotonic() < deadline:
                time.sleep(0.02)
        assert not one.children(), MARK


def test_the_documentation_names_every_fault() -> None:
    """`docs/faults.md` holds this table; `python tests/test_faults.py` prints it."""
    text = (Path(__file__).parents[1] / "docs/faults.md").read_text()
    assert documentation() in text


def documentation() -> str:
    """The table as Markdown."""
    rows = [f"| `{fault.id}` | {fault.broken} | `{fault.command.split()[0]}` | {outcome(fault)} |" for fault in FAULTS]
    return "\n".join(["| fault | what breaks | command | outcome |", "|---|---|---|---|", *rows])


def outcome(fault: Fault) -> str:
    """In words."""
    if fault.code == 0:
        return "works"
    return "killed" if fault.code < 0 else f"exit code {fault.code}, one line"


if __name__ == "__main__":
    sys.stdout.write(documentation() + "\n")
