"""Runs the command with something broken: a server forks it, so that torch is imported once.

Each run is a process of its own with its own files, limits, signals and children; it calls the entry point of the
``snn2chip`` command. Where the system allows it, the server lives in a mount namespace of its own: small, full and
read-only file systems are real, and vanish with it. Their files are seen through ``/proc``.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MARK = "SNN2CHIP_FAULT"  # in the environment of whatever a run starts
PATIENCE = 300.0  # seconds, for anything


# The server


def serve() -> None:
    """Requests come by standard input, answers go to standard output, one JSON object a line."""
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", buffering=1)
    with Path(os.devnull).open("r+") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(nothing.fileno(), 1)
    preload()
    print(json.dumps({"ready": os.getpid()}), file=answers)
    for line in requests:
        request = json.loads(line)
        if request["do"] == "run":
            child = os.fork()
            if child == 0:
                run(request)
                return
            answer: dict[str, Any] = {"pid": child}
        elif request["do"] == "wait":
            answer = {"code": waited(request["pid"], request["timeout"])}
        else:
            done = subprocess.run(request["command"], capture_output=True, text=True, check=False)
            answer = {"code": done.returncode, "error": done.stderr}
        print(json.dumps(answer), file=answers)


def preload() -> None:
    """What takes long to import, and starts no threads."""
    from importlib import import_module

    import_module("torch")
    for name in ("compiler", "early_exit", "exporters.bundle", "ladder", "long_runs", "sources", "training.deploy"):
        import_module(f"snn2chip.{name}")


def waited(pid: int, timeout: float) -> int | None:
    """How a run ended, None where it has not."""
    deadline = time.monotonic() + timeout
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            return None
        time.sleep(0.002)


def run(request: dict[str, Any]) -> None:
    """The command, in the forked process."""
    import tempfile

    os.setsid()
    for number, path in ((1, request["stdout"]), (2, request["stderr"])):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(handle, number)
        os.close(handle)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    os.environ.update(request["environ"])
    os.chdir(request["folder"])
    tempfile.tempdir = None
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGTERM):  # whatever the tests run under, nohup perhaps
        signal.signal(number, signal.SIG_DFL)
    if request["file_size"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"],) * 2)
    if request["memory"] is not None:
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)  # the process that reads HDF5 sets a limit of its own
        resource.setrlimit(resource.RLIMIT_AS, (now + request["memory"], hard))
    if request["unprivileged"]:
        drop_capabilities()
    if request["fresh"]:
        os.execve(sys.executable, [sys.executable, "-m", "snn2chip", *request["arguments"]], os.environ)
    if request["arguments"][0] == "simulate":
        often()
    sys.argv = ["snn2chip", *request["arguments"]]
    from snn2chip.cli import main

    main()


def often() -> None:
    """Let a run note what it has done many times a second, so that it is met in the middle."""
    from snn2chip import long_runs

    long_runs.CHECKPOINT_SECONDS, long_runs._next_size = -1.0, lambda *_: long_runs.FIRST_CHUNK  # type: ignore[assignment]


def drop_capabilities() -> None:
    """Let permissions hold for root too: capset(2), version 3, nothing left."""
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, none):
        raise OSError(ctypes.get_errno(), "capset")


# The client


class Server:
    """The process that forks runs, and its file systems."""

    def __init__(self) -> None:
        command = [sys.executable, __file__]
        apart = ["unshare", "--mount", "--propagation", "private", *([] if os.geteuid() == 0 else ["--map-root-user"])]
        self.mounts = (
            shutil.which("unshare") is not None
            and not subprocess.run([*apart, "true"], check=False, capture_output=True).returncode
        )
        self.process = subprocess.Popen(
            [*(apart if self.mounts else []), *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.requests, self.answers = self.process.stdin, self.process.stdout
        self.pid = self._answer()["ready"]

    def _answer(self) -> Any:
        line = self.answers.readline()
        assert line, "the server has ended"
        return json.loads(line)

    def ask(self, **request: Any) -> Any:
        """Its answer."""
        self.requests.write(json.dumps(request) + "\n")
        self.requests.flush()
        return self._answer()

    def mount(self, path: Path, options: str) -> None:
        """A file system in memory at ``path``, or another size of the one that is there."""
        done = self.ask(do="system", command=["mount", "-t", "tmpfs", "-o", options, "none", str(path)])
        assert done["code"] == 0, done["error"]

    def bind_read_only(self, path: Path) -> None:
        """Let nothing be written there."""
        for options in (["--bind", str(path)], ["-o", "remount,bind,ro"]):
            done = self.ask(do="system", command=["mount", *options, str(path)])
            assert done["code"] == 0, done["error"]

    def unmount(self, path: Path) -> None:
        """Once more as it was."""
        assert self.ask(do="system", command=["umount", str(path)])["code"] == 0

    def seen(self, path: Path) -> Path:
        """``path`` as the server sees it."""
        return Path(f"/proc/{self.pid}/root{path}") if self.mounts else path

    def close(self) -> None:
        """End it."""
        self.requests.close()
        self.process.wait(PATIENCE)
        self.answers.close()


@dataclass
class Run:
    """A command under way."""

    server: Server
    pid: int
    mark: str
    stderr: Path
    stdout: Path
    code: int | None = None

    def wait(self) -> int:
        """Its exit code, or minus the signal that ended it."""
        if self.code is None:
            self.code = self.server.ask(do="wait", pid=self.pid, timeout=PATIENCE)["code"]
        assert self.code is not None, f"still running: {self.stderr.read_text()}"
        return self.code

    def until(self, condition: Callable[[], object]) -> None:
        """Until ``condition`` holds; it has to before the run ends."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self.server.ask(do="wait", pid=self.pid, timeout=0)["code"] is None, (
                f"ended too early: {self.stderr.read_text()}"
            )
            assert time.monotonic() < deadline, "nothing happens"
            time.sleep(0.002)

    def send(self, number: signal.Signals) -> None:
        """A signal."""
        os.kill(self.pid, number)

    def children(self) -> list[int]:
        """Living processes that it has started, at any depth."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                ours = entry.name.isdigit() and f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes()
                if ours and (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found.append(int(entry.name))
        return sorted(found)


@dataclass
class Bench:
    """A folder with a trained network, its data and more, and what runs in it.

    Attributes:
        folder: where commands run.
        environ: variables of theirs.
    """

    server: Server
    folder: Path
    environ: dict[str, str] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    mounted: list[Path] = field(default_factory=list)

    def start(
        self,
        command: str,
        *,
        file_size: int | None = None,
        memory: int | None = None,
        unprivileged: bool = False,
        stdout: str | None = None,
        fresh: bool = False,
    ) -> Run:
        """Start a command line, as a user types it after ``snn2chip``; ``fresh``: in a new interpreter."""
        mark = uuid.uuid4().hex
        logs = self.folder.with_name("logs")
        logs.mkdir(exist_ok=True)
        out, err = logs / f"{mark}.out", logs / f"{mark}.err"
        answer = self.server.ask(
            do="run",
            arguments=command.split(),
            folder=str(self.folder),
            environ={**self.environ, MARK: mark},
            stdout=stdout or str(out),
            stderr=str(err),
            file_size=file_size,
            memory=memory,
            unprivileged=unprivileged,
            fresh=fresh,
        )
        started = Run(self.server, answer["pid"], mark, err, out)
        self.runs.append(started)
        return started

    def call(self, command: str, **settings: Any) -> Run:
        """Run a command to its end."""
        started = self.start(command, **settings)
        started.wait()
        return started

    def succeed(self, command: str) -> None:
        """Run a command that has to work."""
        done = self.call(command)
        assert done.code == 0, done.stderr.read_text()

    def mount(self, name: str, options: str) -> None:
        """A file system at a folder of that name."""
        path = self.folder / name
        path.mkdir(exist_ok=True)
        self.server.mount(path, options)
        if path not in self.mounted:
            self.mounted.append(path)

    def path(self, name: str) -> Path:
        """A file as the commands see it."""
        return self.server.seen(self.folder) / name

    def interpreter(self, text: str, name: str = "python") -> None:
        """Let this shell script be the interpreter that runs Lava."""
        script = self.folder.with_name(name)
        script.write_text(f"#!/bin/sh\n{text}\n")
        script.chmod(0o755)
        self.environ["SNN2CHIP_LAVA_PYTHON"] = str(script)

    def files(self) -> dict[str, bytes | None]:
        """All files by name, links as what they say, folders as None."""
        root = self.server.seen(self.folder)
        found: dict[str, bytes | None] = {}
        for path in sorted(root.rglob("*")):
            name = str(path.relative_to(root))
            if path.is_symlink():
                found[name] = bytes(path.readlink())
            else:
                found[name] = path.read_bytes() if path.is_file() else None
        return found

    def close(self) -> None:
        """End what runs, and unmount."""
        for one in self.runs:
            if one.code is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one.pid, signal.SIGKILL)
                one.wait()
            for pid in one.children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for path in reversed(self.mounted):
            self.server.unmount(path)


if __name__ == "__main__":
    serve()
