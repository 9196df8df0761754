"""HDF5 files of unknown origin, read in a process of limited memory and time that the files may crash.

A process is started for the first file (a quarter of a second) and kept for the next ones. What it sends back are
plain bytes, whose types and lengths are checked here; nothing is unpickled. ``SNN2CHIP_READER_SECONDS`` (30, of
computing, for each group and 32 MiB of values) and ``SNN2CHIP_READER_MIB`` (2048) raise what it may use.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import math
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip.errors import EnvironmentFailure, InputError

#: No byte for so long: the file system hangs. Computing is limited apart, by the kernel.
SILENT_SECONDS = 600
#: Files after which a process is replaced: libhdf5 loses some memory with each damaged one.
FILES = 500
#: Of an answer, without values.
MAX_ANSWER = 256 << 20

_NUMBERS = re.compile(r"[<>|=]?[biufc]\d{1,2}|\|S\d{1,9}")
_CHILD = Path(__file__).with_name("hdf5_child.py")


def _limit(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 24):
        raise EnvironmentFailure(f"{name}: {text[:20]!r}, expected a whole number")
    return int(text)


@dataclass(frozen=True)
class Entry:
    """What a group holds under a name.

    Attributes:
        kind: "group", "dataset", "link" (soft or external), "broken", or "other".
        problem: why it cannot be read; empty where nothing is known.
        shape: of a dataset; None of an empty one.
        dtype: of numbers and texts of fixed length; None of anything else.
        type: the type's name, for errors.
        text: longest text in bytes, 0 where any length is possible; None where it does not hold texts.
        stored: bytes in the file.
        value, texts: of small datasets.
        group, entries: number and entries of a group, where they are known already.
    """

    kind: str
    problem: str = ""
    shape: tuple[int, ...] | None = None
    dtype: np.dtype[Any] | None = None
    type: str = ""
    text: int | None = None
    stored: int = 0
    value: bytes | None = None
    texts: tuple[bytes, ...] | None = None
    group: int = 0
    entries: Mapping[str, Entry] | None = None

    @property
    def size(self) -> int:
        """Number of values."""
        return 0 if self.shape is None else math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Of all values in memory."""
        return self.size * (16 if self.dtype is None else self.dtype.itemsize)


class Broken(Exception):
    """libhdf5 cannot read the file; the message says why."""


class Refused(Exception):
    """It reads it, we do not; the message says why."""


class _Lost(Exception):
    """The process ended."""


class _Process:
    """One reading process."""

    def __init__(self) -> None:
        self.seconds, self.memory = _limit("SNN2CHIP_READER_SECONDS", 30), _limit("SNN2CHIP_READER_MIB", 2048)
        self.files, self.busy, self.slow, self.how = 0, False, False, ""
        command = [sys.executable, "-I", "-c", _START, json.dumps([place for place in sys.path if place]), str(_CHILD)]
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "HDF5_PLUGIN_PRELOAD": "::"}
        try:
            self.process = subprocess.Popen(
                [*command, str(self.seconds), str(self.memory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=environment,
            )
        except OSError as error:
            raise EnvironmentFailure(f"the process that reads HDF5 cannot be started ({error})") from error
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        with contextlib.suppress(OSError, AttributeError):  # Linux alone: four times as fast
            fcntl.fcntl(self.stdout, fcntl.F_SETPIPE_SZ, 1 << 20)
        try:
            self.answer()
        except _Lost as error:
            self.end()
            code = self.process.returncode
            raise EnvironmentFailure(
                f"the process that reads HDF5 does not start (it ends with {code} in {self.memory} MiB, "
                "SNN2CHIP_READER_MIB); snn2chip doctor checks the installation"
            ) from error

    def ask(self, request: Mapping[str, Any]) -> None:
        try:
            self.stdin.write(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise _Lost from error

    def fill(self, buffer: memoryview) -> None:
        """Read as many bytes as ``buffer`` has."""
        deadline = time.monotonic() + SILENT_SECONDS
        while len(buffer):
            poll = select.poll()
            poll.register(self.stdout, select.POLLIN)
            if not poll.poll(max(0, int(1000 * (deadline - time.monotonic())))):
                self.process.kill()
                raise _Lost
            got = self.stdout.readinto(buffer)  # type: ignore[attr-defined]
            if not got:
                raise _Lost
            buffer = buffer[got:]

    def frame(self) -> tuple[bytes, int]:
        """Letter and length of the next frame."""
        head = bytearray(9)
        self.fill(memoryview(head))
        return bytes(head[:1]), int.from_bytes(head[1:], "little")

    def answer(self, out: memoryview | None = None) -> dict[str, Any]:
        """The object that ends an answer; values before it go to ``out``."""
        while True:
            letter, length = self.frame()
            if letter == b"J":
                break
            if letter != b"D" or out is None or length > len(out):
                raise _Lost
            self.fill(out[:length])
            out = out[length:]
        if length > MAX_ANSWER:
            raise _Lost
        text = bytearray(length)
        self.fill(memoryview(text))
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _Lost from error
        if not isinstance(answer, dict) or (out and not answer):
            raise _Lost
        return answer

    def end(self) -> str:
        """End it, and say how it had ended by itself."""
        if self.how:
            return self.how
        self.busy = True  # for good
        with contextlib.suppress(OSError):
            self.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):  # it ends when its input does
            self.process.wait(1)
        waiting = self.process.poll() is None
        self.process.kill()
        code = self.process.wait()
        self.stdout.close()
        self.slow = code == -signal.SIGXCPU
        if self.slow:
            self.how = f"takes longer than {self.seconds} s; SNN2CHIP_READER_SECONDS raises that"
        else:
            self.how = "libhdf5 crashes on it" if code < 0 and not waiting else "its content makes no sense"
        return self.how


# The package itself is not imported: it takes longer to load than h5py.
_START = (
    "import json, runpy, sys; sys.path[:] = json.loads(sys.argv[1]); sys.argv[:2] = []; "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)

_idle: list[_Process] = []
_inherited: list[_Process] = []  # kept, so that nothing waits for processes of another
_lock = threading.Lock()


def _forked() -> None:
    """In a forked process: the pipes belong to the parent."""
    global _lock
    _lock = threading.Lock()
    for process in _idle:
        with contextlib.suppress(OSError):
            process.stdin.close()
            process.stdout.close()
    _inherited.extend(_idle)
    _idle.clear()


def close() -> None:
    """End the processes that wait for another file."""
    with _lock:
        while _idle:
            _idle.pop().end()


os.register_at_fork(after_in_child=_forked)
atexit.register(close)


class File:
    """An HDF5 file that another process holds open; :func:`opened` makes it."""

    def __init__(self, path: Path) -> None:
        self.path, self.bytes = path.absolute(), 0
        self.root: Mapping[str, Entry] = {}
        with _lock:
            process = _idle.pop() if _idle else None
        self._process = process or _Process()

    def open(self) -> None:
        """A fresh process decides: an earlier file may have damaged an old one."""
        fresh = not self._process.files
        self._process.files += 1
        try:
            answer = self._asked({"do": "open", "path": os.fsdecode(self.path)})
            self.bytes, (_, self.root) = int(answer["bytes"]), _entries(answer)
        except (_Lost, Refused):
            self._process.end()
            if fresh or self._process.slow:
                raise
            self._process = _Process()
            self.open()

    def _asked(self, request: Mapping[str, Any], out: memoryview | None = None) -> dict[str, Any]:
        """The answer.

        Raises:
            Broken, Refused, _Lost: there is none.
        """
        process = self._process
        process.busy = True
        process.ask(request)
        answer = process.answer(out)
        process.busy = False
        if "problem" in answer:
            raise Refused(str(answer["problem"]))
        if "memory" in answer:
            raise Refused(f"takes more than {process.memory} MiB to read; SNN2CHIP_READER_MIB raises that")
        if "broken" in answer:
            raise Broken(str(answer["broken"]))
        return answer

    def entries(self, parent: int, name: str, entry: Entry) -> tuple[int, Mapping[str, Entry]]:
        """Number and entries of the group ``name`` in group ``parent``; that of the root is 0."""
        if entry.entries is not None:
            return entry.group, entry.entries
        return _entries(self._asked({"do": "list", "of": parent, "name": name}))

    def values(self, group: int, name: str, entry: Entry, first: int = 0, last: int | None = None) -> npt.NDArray[Any]:
        """All numbers of a dataset, or rows ``first`` to ``last``, without the latter.

        Raises:
            Broken, Refused: it cannot be read.
        """
        assert entry.dtype is not None and entry.shape is not None
        if entry.value is not None and last is None and len(entry.value) == entry.bytes:
            return np.frombuffer(bytearray(entry.value), entry.dtype).reshape(entry.shape)
        shape, request = entry.shape, {"do": "read", "of": group, "name": name}
        if last is not None:
            shape = (last - first, *shape[1:])
            request.update(first=first, last=last)
        size = math.prod(shape) * entry.dtype.itemsize
        try:
            out = np.empty(size, np.uint8)
        except MemoryError as error:
            raise Refused(f"takes {size} bytes, more than there are") from error
        self._asked(request, out.data)
        return out.view(entry.dtype).reshape(shape)

    def texts(self, group: int, name: str, entry: Entry) -> list[bytes]:
        """All texts of a dataset, in order; errors as in :meth:`values`."""
        if entry.dtype is not None:
            return [bytes(text) for text in self.values(group, name, entry).reshape(-1)]
        if entry.texts is not None and len(entry.texts) == entry.size:
            return list(entry.texts)
        found = self._asked({"do": "read", "of": group, "name": name}).get("texts")
        if not isinstance(found, list) or len(found) != entry.size:
            raise _Lost
        return [str(text).encode("latin-1") for text in found]

    def end(self) -> str:
        """End the process, and say how it had ended by itself."""
        return self._process.end()

    def close(self) -> None:
        """Leave the process to the next file."""
        if self._process.busy or self._process.files >= FILES:
            self._process.end()
            return
        with _lock:
            _idle.append(self._process)


def _entries(answer: Mapping[str, Any]) -> tuple[int, dict[str, Entry]]:
    try:
        return int(answer["group"]), {str(key): _entry(value) for key, value in answer["entries"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:  # the process obeys the file
        raise _Lost from error


def _dtype(text: str) -> np.dtype[Any] | None:
    try:
        return np.dtype(text) if _NUMBERS.fullmatch(text) else None
    except TypeError:  # of a width that numpy does not have here
        return None


def _entry(content: Mapping[str, Any]) -> Entry:
    texts = content.get("texts")
    group, entries = _entries(content) if "entries" in content else (0, None)
    text, value, dtype = content.get("text"), content.get("value"), str(content.get("dtype", ""))
    shape = None if content.get("shape") is None else tuple(int(n) for n in content["shape"])
    if shape and min(shape) < 0:
        raise ValueError("shape")
    return Entry(
        str(content["kind"]),
        str(content.get("problem", "")),
        shape,
        _dtype(dtype),
        str(content.get("type", "")),
        None if text is None else int(text),
        int(content.get("stored", 0)),
        None if value is None else bytes.fromhex(value),
        None if texts is None else tuple(str(text).encode("latin-1") for text in texts),
        group,
        entries,
    )


@contextmanager
def opened(path: str | os.PathLike[str], problem: str = "not a readable HDF5 file") -> Iterator[File]:
    """A file, for the block; ``problem`` is what errors call it that libhdf5 cannot read.

    Raises:
        InputError: libhdf5 cannot read the file, crashes, or takes more time than it may.
        Refused: we refuse to read the file, or what the block asks for.
    """
    file = File(Path(path))
    try:
        file.open()
        yield file
    except Broken as error:
        raise InputError(f"{path}: {problem} ({error})") from error
    except _Lost as error:
        raise InputError(f"{path}: {problem} ({file.end()})") from error
    finally:
        file.close()
