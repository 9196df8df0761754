"""Data files: what streams gives the same samples, and what is malformed or hostile is one line."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from snn2chip import data as module
from snn2chip.data import Data, of_arrays, open_data
from snn2chip.errors import InputError

X = np.random.default_rng(0).integers(0, 2, (23, 3, 4)).astype(np.uint8)
Y = np.arange(23) % 5


def npz(folder: Path) -> Path:
    np.savez(folder / "data.npz", x=X, y=Y)
    return folder / "data.npz"


def whole(folder: Path) -> Path:
    np.save(folder / "x.npy", X)
    np.save(folder / "y.npy", Y)
    return folder


def shards(folder: Path) -> Path:
    for i, part in enumerate((X[:2], X[2:2], X[2:13], X[13:])):
        np.save(folder / f"x-{i:03d}.npy", part)
    for i, classes in enumerate((Y[:20], Y[20:])):  # cut elsewhere
        np.save(folder / f"y-{i + 1}.npy", classes)
    return folder


def hdf5(folder: Path, **options: Any) -> Path:
    with h5py.File(folder / "data.h5", "w") as file:
        file.create_dataset("x", data=X, **options)
        file["y"] = Y
    return folder / "data.h5"


def packed(folder: Path) -> Path:
    return hdf5(folder, chunks=(5, 3, 4), compression="gzip", shuffle=True)


def other_order(folder: Path) -> Path:
    np.save(folder / "x.npy", X.astype(">i4"))
    np.save(folder / "y.npy", Y.astype(np.uint8))
    return folder


@pytest.mark.parametrize("write", [npz, whole, shards, hdf5, packed, other_order])
def test_the_same_samples_in_chunks_of_any_size(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    data = open_data(write(tmp_path))
    assert (len(data), data.shape, data.classes) == (23, (23, 3, 4), True)
    for size in (1, 4, 23, 100):
        parts = list(data.chunks(size))
        assert [len(x) for x, _ in parts[:-1]] == [size] * (len(parts) - 1)
        assert np.array_equal(np.concatenate([x for x, _ in parts]), X)
        assert np.array_equal(np.concatenate([y for _, y in parts if y is not None]), Y)
    x, y = data.read(20, 99)
    assert np.array_equal(x, X[20:])
    assert np.array_equal(y, Y[20:])  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["npy", "h5", "folder"])
def test_classes_are_optional(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    if kind == "h5":
        with h5py.File(path, "w") as file:
            file["x"] = X
    else:
        np.save(tmp_path / "x.npy", X)
    data = open_data(tmp_path if kind == "folder" else path)
    assert not data.classes
    assert data.read(3, 5)[1] is None


def test_any_byte_of_a_bool_is_true(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 4), bool))
    with (tmp_path / "x.npy").open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write(b"\x02")
    x = open_data(tmp_path).read()[0]
    assert x.astype(np.uint8).ravel().tolist() == [0, 0, 0, 0, 0, 0, 1, 0]


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    data = open_data(whole(tmp_path))
    os.truncate(tmp_path / "x.npy", 200)
    assert data.read(0, 1)[0].shape == (1, 3, 4)
    with pytest.raises(InputError, match="ends early"):
        data.read()


def test_too_much_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    data = of_arrays(X)
    assert data.read(0, 8)[0].shape == (8, 3, 4)
    with pytest.raises(InputError, match="take fewer samples"):
        data.read()


def header(shape: str, descr: str = "'|u1'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def bad_npy(content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "x.npy").write_bytes(content)
        return folder

    return write


def bad_folder(**arrays: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        for name, array in arrays.items():
            np.save(folder / f"{name.replace('_', '-')}.npy", array, allow_pickle=True)
        return folder

    return write


def bad_hdf5(fill: Callable[[Any, Path], None]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        with h5py.File(folder / "secret.h5", "w") as other:
            other["x"] = X
        with h5py.File(folder / "data.h5", "w") as file:
            fill(file, folder)
        return folder / "data.h5"

    return write


def link_external(file: Any, folder: Path) -> None:
    file["x"] = h5py.ExternalLink(str(folder / "secret.h5"), "/x")


def link_soft(file: Any, folder: Path) -> None:
    file["real"] = X
    file["x"] = h5py.SoftLink("/real")


def link_to_nothing(file: Any, folder: Path) -> None:
    file["x"] = h5py.SoftLink("/x")


def storage_external(file: Any, folder: Path) -> None:
    file.create_dataset("x", X.shape, "u1", external=[(str(folder / "secret.h5"), 0, X.size)])


def storage_virtual(file: Any, folder: Path) -> None:
    layout = h5py.VirtualLayout(X.shape, "u1")
    layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "x", X.shape)
    file.create_virtual_dataset("x", layout)


def unallocated(file: Any, folder: Path) -> None:
    file.create_dataset("x", (10**14, 784), "u1", chunks=(1, 784))


def nearly_unallocated(file: Any, folder: Path) -> None:
    file.create_dataset("x", (10**14, 784), "u1", chunks=(1, 784))[0] = 1


def absurd_chunks(file: Any, folder: Path) -> None:
    file.create_dataset("x", (1 << 15, 1 << 15), "u1", chunks=(1 << 15, 1 << 15), compression="gzip")[0, 0] = 1


def objects(file: Any, folder: Path) -> None:
    file.create_dataset("x", (3, 2), h5py.vlen_dtype(np.int32))


def classes_by_link(file: Any, folder: Path) -> None:
    file["x"] = X
    file["y"] = h5py.ExternalLink(str(folder / "secret.h5"), "/x")


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "x.npy")
    return folder


def _zip_bomb(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "data.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", header("(2, 1000000000000)") + bytes(1000))
    return folder / "data.npz"


PICKLE = np.array([{}, []], object)
BAD: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "missing": ("no such file or folder", lambda folder: folder / "nix"),
    "empty folder": ("neither x.npy nor", lambda folder: folder),
    "text": ("neither .npz, .npy nor HDF5", lambda folder: Path(__file__)),
    "pipe": ("not a file", _pipe),
    "zip bomb": ("cannot be read as .npz", _zip_bomb),
    "not npy": ("cannot be read as .npy", bad_npy(b"hello")),
    "cut header": ("cannot be read as .npy", bad_npy(header("(2, 3)")[:20])),
    "code in the header": ("cannot be read as .npy", bad_npy(header("(__import__('os').getpid(), 3)"))),
    "nested header": ("cannot be read as .npy", bad_npy(header("(" * 5000 + ")" * 5000))),
    "unknown version": (".npy version", bad_npy(b"\x93NUMPY\x09\x00" + header("(2, 3)")[8:])),
    "truncated": ("5 bytes of data, but shape (2, 3)", bad_npy(header("(2, 3)") + bytes(5))),
    "absurd size": ("bytes of data, but", bad_npy(header(f"({10**30}, 784)") + bytes(784))),
    "more than one array": ("bytes of data, but", bad_npy(header("(2, 3)") + bytes(500))),
    "negative shape": ("expected numbers", bad_npy(header("(-2, -3)") + bytes(6))),
    "pickle": ("expected numbers", bad_folder(x=PICKLE)),
    "structured": ("expected numbers", bad_folder(x=np.zeros((2, 2), "i4,i4"))),
    "complex": ("expected numbers", bad_folder(x=np.zeros((2, 2), complex))),
    "scalar": ("expected numbers", bad_folder(x=np.zeros(()))),
    "one axis": ("expected numbers [N, ...]", bad_folder(x=np.zeros(3))),
    "no samples": ("N >= 1", bad_folder(x=np.zeros((0, 3)))),
    "no inputs": ("N >= 1", bad_folder(x=np.zeros((3, 0)))),
    "Fortran order": ("ascontiguousarray", bad_folder(x=np.zeros((3, 4), order="F"))),
    "both": ("has both x.npy and x-0.npy", bad_folder(x=X, x_0=X)),
    "shard missing": ("x-2.npy where shard 1", bad_folder(x_0=X, x_2=X)),
    "first shard missing": ("x-2.npy where shard 1", bad_folder(x_2=X)),
    "shard double": ("where shard", bad_folder(x_0=X, x_00=X)),
    "shards of different shapes": ("those of x-0.npy have (3, 4)", bad_folder(x_0=X, x_1=X[:, :2])),
    "shards of different types": ("type int64", bad_folder(x_0=X, x_1=X.astype(np.int64))),
    "too few classes": ("expected 23 integer classes", bad_folder(x=X, y=Y[:-1])),
    "classes are not integers": ("expected 23 integer classes", bad_folder(x=X, y=Y * 0.5)),
    "external link": ("link to elsewhere", bad_hdf5(link_external)),
    "soft link": ("link to elsewhere", bad_hdf5(link_soft)),
    "link to itself": ("link to elsewhere", bad_hdf5(link_to_nothing)),
    "classes by link": ("y is a link to elsewhere", bad_hdf5(classes_by_link)),
    "external storage": ("lies in another file", bad_hdf5(storage_external)),
    "virtual storage": ("lies in another file", bad_hdf5(storage_virtual)),
    "nothing stored": ("more than the file can hold", bad_hdf5(unallocated)),
    "next to nothing stored": ("more than the file can hold", bad_hdf5(nearly_unallocated)),
    "absurd chunks": ("limit", bad_hdf5(absurd_chunks)),
    "lists": ("expected numbers", bad_hdf5(objects)),
    "group": ("is not a dataset", bad_hdf5(lambda file, folder: file.create_group("x"))),
    "no x": ("has no dataset x, only a", bad_hdf5(lambda file, folder: file.create_group("a"))),
    "text in HDF5": ("expected numbers", bad_hdf5(lambda file, folder: file.create_dataset("x", data=["a", "b"]))),
}


@pytest.mark.parametrize("name", BAD)
def test_hostile_files(tmp_path: Path, name: str) -> None:
    message, write = BAD[name]
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        open_data(write(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_damaged_hdf5_file(tmp_path: Path) -> None:
    path = packed(tmp_path)
    content = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        place = file["x"].id.get_chunk_info(0).byte_offset
    content[place : place + 8] = bytes(8)
    path.write_bytes(content)
    data: Data = open_data(path)
    with pytest.raises(InputError, match=r"data\.h5: cannot be read"):
        data.read()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="cannot be read as HDF5"):
        open_data(path)
