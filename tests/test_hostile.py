"""Readers of files of unknown origin: laws that hold of any bytes, and the process that libhdf5 runs in."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from fuzz import mutate, seeds
from fuzz.readers import READERS, lay, outcome
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from snn2chip import guarded, hdf5_child, torch_file
from snn2chip.archive import Refused, shown
from snn2chip.data import open_data, read_npz
from snn2chip.errors import EnvironmentFailure, InputError
from snn2chip.exporters import netx

ANY = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.mark.parametrize("name", READERS)
def test_sound_files_are_read(name: str, tmp_path: Path) -> None:
    reader = READERS[name]
    for content in reader.seeds():
        assert outcome(reader, lay(reader, tmp_path, content)) in ("read", "UnsupportedError", "InputError")
    assert outcome(reader, lay(reader, tmp_path, reader.seeds()[0])) == "read"


@pytest.mark.parametrize("name", READERS)
@settings(ANY, max_examples=20)
@given(seed=st.integers(0, 2**32))
def test_changed_files_are_read_or_one_line(name: str, tmp_path: Path, seed: int) -> None:
    reader, rng = READERS[name], random.Random(seed)
    outcome(reader, lay(reader, tmp_path, reader.change(rng, rng.choice(reader.seeds()))))


@pytest.mark.parametrize("name", READERS)
@settings(ANY, max_examples=10)
@given(content=st.binary(max_size=300))
def test_any_bytes_are_one_line(name: str, tmp_path: Path, content: bytes) -> None:
    outcome(READERS[name], lay(READERS[name], tmp_path, content))


@settings(ANY, max_examples=30)
@given(st.recursive(st.text() | st.floats(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_whatever_is_shown_is_short_and_printable(value: Any) -> None:
    assert len(shown(value, 40)) <= 40 and shown(value, 40).isprintable()


# Our readers against those of numpy and torch, on sound files

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16)
DTYPES += (torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128)


@settings(ANY, max_examples=25)
@given(
    st.lists(st.integers(0, 4), max_size=4),
    st.sampled_from(DTYPES),
    st.sampled_from(["plain", "transposed", "part", "parameter", "repeated"]),
    st.sampled_from([2, 3, 4]),
)
def test_what_torch_saves_is_what_we_read(
    tmp_path: Path, shape: list[int], dtype: torch.dtype, view: str, protocol: int
) -> None:
    tensor = (torch.rand(shape, dtype=torch.float64) * 9).to(dtype)
    if view == "transposed":
        tensor = tensor.T if tensor.ndim == 2 else tensor
    elif view == "part":
        tensor = tensor[..., 1:] if tensor.ndim else tensor
    elif view == "repeated":
        tensor = tensor[..., None].expand(*shape, 3)
    elif view == "parameter" and dtype.is_floating_point:
        tensor = torch.nn.Parameter(tensor)
    module = torch.nn.BatchNorm1d(3)
    content = {"a": [tensor, tensor], "n": (1, -(2**40), 1.5, None, True, "é"), "s": module.state_dict(), 3: {}}
    torch.save(content, tmp_path / "a.pt", pickle_protocol=protocol)
    expected, found = torch.load(tmp_path / "a.pt", weights_only=False), torch_file.read(tmp_path / "a.pt")
    assert list(found) == list(expected) and found["n"] == expected["n"] and found["a"][0] is found["a"][1]
    for one, other in zip(
        found["a"] + list(found["s"].values()), expected["a"] + list(expected["s"].values()), strict=True
    ):
        assert one.dtype == other.dtype and torch.equal(one, other)


NUMBERS = st.sampled_from(["|b1", "|u1", "<i2", ">i4", "<i8", "<f2", "<f4", ">f8"]).map(np.dtype)


@settings(ANY, max_examples=30)
@given(arrays.arrays(NUMBERS, arrays.array_shapes(min_dims=0, min_side=0)), st.booleans(), st.sampled_from("CF"))
def test_what_numpy_saves_is_what_we_read(tmp_path: Path, array: Any, packed: bool, order: Any) -> None:
    (tmp_path / "a.npz").write_bytes(seeds.npz(packed, x=np.asarray(array, order=order), y=array))
    with np.load(tmp_path / "a.npz") as expected:
        for name, found in read_npz(tmp_path / "a.npz").items():
            assert found.dtype == expected[name].dtype and found.tobytes() == expected[name].tobytes()
            assert found.shape == expected[name].shape


# The process that reads HDF5


def store(path: Path, **options: Any) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", **options)
    return path


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Only processes with other limits."""
    guarded.close()
    yield monkeypatch.setenv
    guarded.close()


def pids() -> list[int]:
    return [process.process.pid for process in guarded._idle]


def test_a_crash_is_an_error_of_the_file_and_the_next_file_is_read(tmp_path: Path) -> None:
    good = store(tmp_path / "good.h5", data=seeds.X)
    with pytest.raises(InputError, match="libhdf5 crashes on it"), guarded.opened(good) as file:
        file._process.process.send_signal(signal.SIGSEGV)
        file._process.process.wait()
        file.values(0, "x", file.root["x"], 0, 1)
    assert np.array_equal(open_data(good).read()[0], seeds.X)


def test_a_process_that_died_while_it_waited_is_replaced(tmp_path: Path) -> None:
    good = store(tmp_path / "good.h5", data=seeds.X)
    open_data(good)
    for pid in pids():
        os.kill(pid, signal.SIGKILL)
    assert open_data(good).shape == seeds.X.shape


def test_memory_is_limited(tmp_path: Path, fresh: Any) -> None:
    size = 128 << 20
    path = store(tmp_path / "a.h5", shape=(4, size), dtype="u1", chunks=(1, size), compression="gzip")
    with h5py.File(path, "r+") as file:
        file["x"].id.write_direct_chunk((0, 0), deflated(size))
    fresh("SNN2CHIP_READER_MIB", "400")
    with pytest.raises(InputError, match=r"a\.h5: cannot be read as HDF5.*"):
        open_data(path).read(0, 2)
    guarded.close()
    fresh("SNN2CHIP_READER_MIB", "4096")
    assert not open_data(path).read(0, 1)[0].any()


def deflated(size: int) -> bytes:
    import zlib

    packer = zlib.compressobj(1)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)) + packer.flush()


def test_computing_is_limited(tmp_path: Path, fresh: Any) -> None:
    fresh("SNN2CHIP_READER_SECONDS", "1")
    path = tmp_path / "a.net"
    heaps = (b"GCOL" + bytes(12)) * (1 << 22)  # looked through before libhdf5 follows references to them
    path.write_bytes(mutate.hdf5({"layer": {"0": {"type": "dense"}}}) + heaps)
    with pytest.raises(InputError, match="takes longer than 1 s; SNN2CHIP_READER_SECONDS"):
        netx.read(path)
    fresh("SNN2CHIP_READER_SECONDS", "soon")
    guarded.close()
    with pytest.raises(EnvironmentFailure, match="'soon', expected a whole number"):
        netx.read(path)


def test_the_process_writes_nothing_and_ends_with_its_parent(tmp_path: Path) -> None:
    open_data(store(tmp_path / "good.h5", data=seeds.X))
    (pid, *_) = pids()
    limits = Path(f"/proc/{pid}/limits")
    if limits.exists():
        lines = {line[:26].strip(): line[26:47].strip() for line in limits.read_text().splitlines()}
        assert lines["Max file size"] == "0" and lines["Max core file size"] == "0"
        assert lines["Max address space"] == str(2048 << 20)
    process = guarded._idle[0]
    guarded.close()
    assert process.process.returncode is not None and not guarded._idle


def test_threads_and_forked_processes_read_apart(tmp_path: Path) -> None:
    paths = [store(tmp_path / f"{i}.h5", data=np.full((3, 5), i)) for i in range(4)]
    found: list[bool] = []

    def read(i: int) -> None:
        found.extend((open_data(paths[i]).read()[0] == i).all() for _ in range(5))

    threads = [threading.Thread(target=read, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20 and all(found)
    pid = os.fork()
    if not pid:
        ok = bool((open_data(paths[3]).read()[0] == 3).all()) and len(guarded._idle) == 1
        guarded.close()
        os._exit(0 if ok else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert (open_data(paths[2]).read()[0] == 2).all()


def test_blocks_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).integers(0, 9, (40, 7, 3)).astype(np.int16)
    path = store(tmp_path / "a.h5", data=x, chunks=(3, 7, 3), compression="gzip")
    monkeypatch.setattr(hdf5_child, "BLOCK", 100)
    monkeypatch.setattr(hdf5_child, "SECONDS", 1 << 20, raising=False)
    monkeypatch.setattr(hdf5_child, "grant", lambda: None)
    server = hdf5_child.Server()
    server.open(str(path))
    frames = list(server.read(0, "x", 5, 39))
    assert b"".join(bytes(data) for letter, data in frames if letter == b"D") == x[5:39].tobytes()
    assert len(frames) == 18
    server.file.close()
    for low, high in itertools.pairwise((0, 1, 17, 40)):
        assert np.array_equal(open_data(path).read(low, high)[0], x[low:high])


def test_texts_that_share_their_bytes_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.net"
    with h5py.File(path, "w") as file:
        file.create_dataset("layer/0/type", data="dense")
        file["many"] = np.array([b"x" * 30000] * 700, object)
    content = path.read_bytes()
    with guarded.opened(path) as opened, pytest.raises(guarded.Refused, match="bytes of text, limit"):
        opened.texts(0, "many", opened.root["many"])
    assert content == path.read_bytes()


def test_too_many_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netx, "MAX_LAYERS", 100)
    (tmp_path / "a.net").write_bytes(mutate.hdf5({"layer": {str(i): 1 for i in range(101)}}))
    with pytest.raises(InputError, match="101 layers, expected 1 to 100"):
        netx.read(tmp_path / "a.net")


def test_what_unpacks_to_more_than_a_small_file_can_mean(tmp_path: Path) -> None:
    tree = seeds.net_trees()[0]
    bomb = mutate.Special(
        lambda group, name: group.create_dataset(
            name, (1 << 13, 1 << 12), "i1", chunks=(1 << 13, 1 << 12), compression=9
        )
    )
    layer = {**tree["layer"]["1"], "shape": np.array([1 << 13]), "weight": bomb}
    (tmp_path / "a.net").write_bytes(mutate.hdf5({"layer": {**tree["layer"], "1": layer}}))
    with pytest.raises(InputError, match="weight declares 33554432 values"):
        netx.read(tmp_path / "a.net")


def test_a_storage_is_never_read_past_its_end(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(4.0)}, tmp_path / "a.pt")
    parts = mutate.members((tmp_path / "a.pt").read_bytes())
    assert parts is not None
    changed = [(n, c.replace(b"K\x04tq", b"K\x7ftq") if n.endswith("data.pkl") else c, m) for n, c, m in parts]
    (tmp_path / "b.pt").write_bytes(mutate.packed(changed))
    assert changed != parts
    with pytest.raises(Refused, match="storage 0 has 16 bytes, declared 508"):
        torch_file.read(tmp_path / "b.pt")
