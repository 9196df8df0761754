"""Every reader of a file of unknown origin, what changes its files, and what may come of one."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzz import mutate, seeds

#: Characters of an error, without the path.
LONGEST = 1000
#: Ends of the process that libhdf5 runs in.
CONTAINED = ("libhdf5 crashes", "takes longer", "makes no sense")


@dataclass(frozen=True)
class Reader:
    """A reader.

    Attributes:
        suffix: of its files; ``/`` of a folder.
        seeds: sound files.
        change: a file, changed.
        read: reads a path.
        least: inputs that a run of 20 minutes has to reach.
    """

    suffix: str
    seeds: Callable[[], list[bytes]]
    change: Callable[[random.Random, bytes], bytes]
    read: Callable[[Path], object]
    least: int


def net(path: Path) -> object:
    from snn2chip.exporters import netx

    return netx.read(path), netx.read_measured(path)


def nir(path: Path) -> object:
    from snn2chip.errors import UsageError
    from snn2chip.frontends.nir import read_nir

    try:
        return read_nir(path)
    except UsageError:  # it needs to be told what its exporter lost
        return read_nir(path, "nir", 1e-4, None, 3)


def model(path: Path) -> object:
    from snn2chip.model_file import load

    return load(path)


def container(path: Path) -> object:
    """Any file of torch.save: state dicts, checkpoints."""
    from snn2chip import torch_file
    from snn2chip.archive import Refused
    from snn2chip.errors import InputError

    try:
        return torch_file.read(path)
    except (torch_file.Foreign, Refused) as error:
        raise InputError(f"{path}: {error}") from error


def data(path: Path) -> object:
    """Samples are read as a simulation reads them: in chunks of bounded size."""
    import math

    from snn2chip.data import open_data

    found = open_data(path)
    each = math.prod(found.shape[1:]) * found.dtype.itemsize
    for first in (0, len(found) - 1):
        if each <= 1 << 24:
            found.read(first, first + max(1, min(8, (1 << 24) // each)))
    return found


def config(path: Path) -> object:
    from snn2chip.config import load_config

    return load_config(path)


def run(path: Path) -> object:
    """``run.json`` in a folder of results, which a simulation continues where it fits."""
    from snn2chip.data import of_arrays
    from snn2chip.long_runs import simulate_data

    samples = of_arrays(seeds.RUN_X, seeds.RUN_Y)
    return simulate_data(seeds.run_net(), samples, "reference", target=path, samples=4)


def lay(reader: Reader, folder: Path, content: bytes) -> Path:
    """Write an input as its reader finds it; folders are coded in one file."""
    if reader.suffix == "/run.json":
        path = folder / "run"
        path.mkdir(exist_ok=True)
        for entry in path.iterdir():
            entry.unlink()
        (path / "run.json").write_bytes(content)
        return path
    if reader.suffix == "/":
        path = folder / "data"
        path.mkdir(exist_ok=True)
        for entry in path.iterdir():
            entry.unlink()
        parts = content.split(_BETWEEN)
        names = (("x-0.npy", "x-1.npy", "y-0.npy"), ("x.npy",), ("x.npy", "y.npy"))[len(parts) % 3]
        for name, part in zip(names, parts, strict=False):
            (path / name).write_bytes(part)
        return path if len(parts) > 1 else path / "x.npy"
    path = folder / f"input{reader.suffix}"
    path.write_bytes(content)
    return path


_BETWEEN = b"\n--next file--\n"


def _one_of(*changes: Callable[[random.Random, bytes], bytes]) -> Callable[[random.Random, bytes], bytes]:
    return lambda rng, old: rng.choice(changes)(rng, old)


def _hdf5(trees: Callable[[], Any]) -> Callable[[random.Random, bytes], bytes]:
    """Bytes changed, of the old file or of one with changed members; a new one of those takes ten times as long."""
    made: list[bytes] = []

    def change(rng: random.Random, old: bytes) -> bytes:
        kind = rng.random()
        if kind < 0.45 or (kind < 0.7 and not made):
            return mutate.raw(rng, old)
        if kind < 0.7:
            return mutate.raw(rng, rng.choice(made))
        new = mutate.hdf5_tree(rng, rng.choice(trees()))
        made[rng.randrange(len(made)) if len(made) > 200 else len(made) :] = [new]
        return new

    return change


def _folder(rng: random.Random, old: bytes) -> bytes:
    parts = old.split(_BETWEEN)
    i = rng.randrange(len(parts))
    parts[i] = mutate.npy_member(rng, "", parts[i])
    if rng.random() < 0.1:
        parts.append(parts[i])
    return _BETWEEN.join(parts)


def _npz(rng: random.Random, old: bytes) -> bytes:
    return mutate.archive(rng, old, mutate.npy_member)


def _pickles(rng: random.Random, old: bytes) -> bytes:
    return mutate.archive(rng, old, mutate.pickle_member)


def _contents(rng: random.Random, old: bytes) -> bytes:
    return mutate.model(rng, rng.choice(seeds.contents()[:2]), seeds.saved) or old


_PIECES = (
    b"bits: ", b"layers:\n", b"{", b"}", b"[", b"]", b": ", b"\n  ", b"\n", b"- ", b"&a ", b"*a", b"!!python/object ",
    b"? ",
    b"|\n", b"'", b'"', b"exit: ", b"policy: margin", b"auto", b"null", b".nan", b"1e400", b"9" * 400, b"0x7f", b"1:60",
    b"2001-01-01", b"!!binary ", b"<<: ", b"\xff", b"\x00", b"\t", b"%YAML 9.9\n---\n", b"...\n", b"#", b"true", b"-1",
    b"\xe2\x80\xa8", b"window: ", b"input: {analog: hold}\n", b"!!set ", b"!!timestamp ", b"1_000", b"\xc2\x85", b"=",
)  # fmt: skip


def _yaml(rng: random.Random, old: bytes) -> bytes:
    content = old
    for _ in range(rng.randint(1, 4)):
        if rng.random() < 0.3:
            content = mutate.raw(rng, content, 1)
        else:
            at = rng.randrange(len(content) + 1)
            until = at if rng.random() < 0.6 else min(len(content), at + rng.choice((1, 4, 16)))
            content = content[:at] + rng.choice(_PIECES) + content[until:]
    return content[:4096]


def _h5(tree: Any) -> list[bytes]:
    return [mutate.hdf5(tree), mutate.hdf5(tree, libver="latest")]


def _stored(**options: Any) -> Any:
    return mutate.Special(lambda group, name: group.create_dataset(name, data=seeds.X, **options))


def _data_trees() -> tuple[Any, ...]:
    packed = {"x": _stored(chunks=(2, 3, 4), compression="gzip", shuffle=True), "y": seeds.Y}
    return (*seeds.DATA, packed, {"x": _stored(chunks=(1, 3, 4), fletcher32=True)})


READERS: dict[str, Reader] = {
    "yaml": Reader(".yaml", lambda: list(seeds.YAML), _yaml, config, 100_000),
    "npz": Reader(".npz", lambda: list(seeds.NPZ), _npz, data, 100_000),
    "npy": Reader(
        "/",
        lambda: [
            _BETWEEN.join(map(seeds.npy, parts))
            for parts in ([seeds.X], [seeds.X, seeds.Y], [seeds.X, seeds.X, [*seeds.Y] * 2])
        ],
        _folder,
        data,
        10_000,
    ),
    "h5": Reader(
        ".h5",
        lambda: [content for tree in _data_trees() for content in _h5(tree)],
        _hdf5(_data_trees),
        data,
        20_000,
    ),
    "net": Reader(
        ".net",
        lambda: [content for tree in seeds.net_trees() for content in _h5(tree)],
        _hdf5(seeds.net_trees),
        net,
        20_000,
    ),
    "nir": Reader(
        ".nir",
        lambda: [content for tree in seeds.nir_trees() for content in _h5(tree)],
        _hdf5(seeds.nir_trees),
        nir,
        20_000,
    ),
    "pt": Reader(
        ".pt",
        lambda: [seeds.saved(content) for content in seeds.contents()[:2]],
        _one_of(_pickles, _contents),
        model,
        20_000,
    ),
    "state": Reader(
        ".pth",
        lambda: [seeds.saved(content) for content in seeds.contents()],
        _pickles,
        container,
        20_000,
    ),
    "run": Reader("/run.json", lambda: [seeds.unfinished()], mutate.json_bytes, run, 2_000),
}


def outcome(reader: Reader, path: Path) -> str:
    """What came of a file: ``read``, or the class of the error, which has to be one printable line.

    Raises:
        AssertionError: the message is not what a user should see.
        Exception: anything else that the reader raised.
    """
    from snn2chip.errors import EnvironmentFailure, Snn2chipError

    try:
        reader.read(path)
    except EnvironmentFailure as error:
        raise AssertionError(f"a file is no failure of the machine: {error}") from error
    except Snn2chipError as error:
        text = str(error).replace(str(path), "")
        assert text and text.isprintable() and len(text) <= LONGEST, f"message {text[:200]!r} ({len(text)} characters)"
        assert error.exit_code in (2, 3, 4)
        for how in CONTAINED:
            if how in text:
                return how
        return type(error).__name__
    return "read"
