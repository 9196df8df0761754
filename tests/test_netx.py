"""NetX files: identity of write and read, layout, foreign and hostile files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from snn2chip.chip import ChipNet, Conv, Dense, Encoding, InputNeurons, Neuron, Readout
from snn2chip.errors import InputError, LimitError, UnsupportedError, UsageError
from snn2chip.exporters import netx


def integers(shape: tuple[int, ...], seed: int = 0, low: int = -100, high: int = 101) -> Any:
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.int32)


def conv_net() -> ChipNet:
    """Every kind of parameter: one number, per channel, per neuron; every layer type that starts with messages."""
    first = Conv(
        "features.0",
        (4, 5, 7),
        integers((6, 2, 2, 3)),
        Neuron.of(
            "features.0",
            integers((6, 5, 3), 1, 0, 500),
            integers((6, 5, 3), 2, 0, 4097),
            integers((6, 5, 3), 3, 0, 4097),
            integers((6, 5, 3), 4),
        ),
        stride=(1, 2),
        padding=(1, 0),
        dilation=(2, 1),
        groups=2,
    )
    second = Conv(
        "features.1", first.shape, integers((2, 6, 1, 1), 5), Neuron.of("f", 9, 0, 7, integers((2,), 6)), groups=1
    )
    hidden = Dense("fc é", second.shape, integers((5, 30), 7), Neuron.of("fc", 300, 1, 4095, -4), integers((5, 5), 8))
    last = Dense(
        "out", (5,), integers((3, 5), 9), Neuron.of("out", 1 << 17, integers((3,), 1, 0, 9), 0, integers((3,), 2))
    )
    return ChipNet(
        (4, 5, 7),
        (first, second, hidden, last),
        Encoding("graded", 0.1, -8, 200),
        Readout("potential"),
        time_steps=5,
        window=8,
        inexact=("features.0: threshold rounded", "two"),
    )


def small_net(**changes: Any) -> ChipNet:
    weight = changes.pop("weight", np.array([[1, -2, 3], [4, 5, -6]]))
    return ChipNet((3,), (Dense("fc1", (3,), weight, Neuron.of("fc1", 10, 4096, 128), **changes),), time_steps=4)


def input_net() -> ChipNet:
    neuron = Neuron.of("in", integers((2, 3, 4), 1, 0, 90), 4096, integers((2, 3, 4), 2, 0, 4097), np.zeros(2, int))
    fc = Dense("fc", (2, 3, 4), integers((4, 24)), Neuron.of("fc", 5))
    return ChipNet((2, 3, 4), (InputNeurons("in", (2, 3, 4), neuron), fc))


def one_neuron_net() -> ChipNet:
    """Shape (1,) is one neuron's array, not one number."""
    neuron = Neuron.of("a", np.array([3]), np.array([4]), np.array([5]), np.array([6]))
    pixel = Neuron.of("b", np.full((1, 1, 1), 3), 4, np.full((1, 1, 1), 5), np.array([6]))
    conv = Conv("b", (1, 2, 2), integers((1, 1, 2, 2)), pixel)
    return ChipNet((1, 2, 2), (conv, Dense("a", (1, 1, 1), np.array([[2]]), neuron)))


def many_groups_net(groups: int = 254) -> ChipNet:
    weight = integers((2 * groups, 3, 1, 1))
    conv = Conv("depthwise", (3 * groups, 2, 2), weight, Neuron.of("depthwise", 8), groups=groups)
    return ChipNet((3 * groups, 2, 2), (conv,))


@pytest.mark.parametrize(
    "net",
    [
        conv_net(),
        small_net(),
        small_net(recurrent=np.array([[0, 1], [-1, 0]])),
        input_net(),
        one_neuron_net(),
        many_groups_net(),
        ChipNet((3, 4), (Dense("flat", (3, 4), integers((2, 12)), Neuron.of("flat", 0, bias=np.zeros(2, int))),)),
    ],
    ids=["conv", "dense", "recurrent", "input", "one", "groups", "two axes"],
)
def test_round_trip_is_the_identity_and_bytes_repeat(net: ChipNet, tmp_path: Path) -> None:
    netx.write(net, tmp_path / "a.net")
    netx.write(net, tmp_path / "b.net")
    assert netx.read(tmp_path / "a.net") == net
    assert (tmp_path / "a.net").read_bytes() == (tmp_path / "b.net").read_bytes()


def layout(path: Path) -> dict[str, str]:
    found = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = f"{item.dtype.kind}{item.dtype.itemsize} {item.shape}"

    with h5py.File(path) as file:
        file.visititems(visit)
        found["attributes"] = str(sorted(file.attrs))
    del found["snn2chip/metadata"]  # as long as it is
    return found


def test_layout(tmp_path: Path) -> None:
    netx.write(conv_net(), tmp_path / "model.net")
    assert layout(tmp_path / "model.net") == {
        "layer/0/type": "S5 ()",
        "layer/0/shape": "i4 (3,)",
        "layer/1/type": "S4 ()",
        "layer/1/shape": "i4 (3,)",
        "layer/1/weight": "i2 (6, 2, 2, 3)",
        "layer/1/bias": "i4 (3, 5, 6)",
        "layer/1/stride": "i4 (2,)",
        "layer/1/padding": "i4 (2,)",
        "layer/1/dilation": "i4 (2,)",
        "layer/1/groups": "i4 ()",
        "layer/1/neuron/type": "S4 ()",
        "layer/1/neuron/vThMant": "i4 (3, 5, 6)",
        "layer/1/neuron/iDecay": "i4 (3, 5, 6)",
        "layer/1/neuron/vDecay": "i4 (3, 5, 6)",
        "layer/2/type": "S4 ()",
        "layer/2/shape": "i4 (3,)",
        "layer/2/weight": "i2 (2, 6, 1, 1)",
        "layer/2/bias": "i4 (2,)",
        "layer/2/stride": "i4 (2,)",
        "layer/2/padding": "i4 (2,)",
        "layer/2/dilation": "i4 (2,)",
        "layer/2/groups": "i4 ()",
        "layer/2/neuron/type": "S4 ()",
        "layer/2/neuron/vThMant": "i4 ()",
        "layer/2/neuron/iDecay": "i4 ()",
        "layer/2/neuron/vDecay": "i4 ()",
        "layer/3/type": "S7 ()",
        "layer/3/shape": "i4 (1,)",
        "layer/4/type": "S9 ()",
        "layer/4/shape": "i4 (1,)",
        "layer/4/weight": "i2 (5, 30)",
        "layer/4/weight_rec": "i2 (5, 5)",
        "layer/4/bias": "i4 (5,)",
        "layer/4/neuron/type": "S4 ()",
        "layer/4/neuron/vThMant": "i4 ()",
        "layer/4/neuron/iDecay": "i4 ()",
        "layer/4/neuron/vDecay": "i4 ()",
        "layer/5/type": "S5 ()",
        "layer/5/shape": "i4 (1,)",
        "layer/5/weight": "i2 (3, 5)",
        "layer/5/bias": "i4 (3,)",
        "layer/5/neuron/type": "S4 ()",
        "layer/5/neuron/vThMant": "i4 ()",
        "layer/5/neuron/iDecay": "i4 (3,)",
        "layer/5/neuron/vDecay": "i4 ()",
        "snn2chip/format": "i4 ()",
        "snn2chip/needs": "S5 ()",
        "attributes": "[]",
    }


def test_an_output_is_not_overwritten_and_a_refused_network_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.net"
    netx.write(small_net(), path)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="exists already"):
        netx.write(conv_net(), path)
    with pytest.raises(LimitError, match="fc1"):
        netx.write(small_net(weight=np.zeros((2, 3), int)), path, force=True)
    assert path.read_bytes() == before
    netx.write(conv_net(), path, force=True)
    assert netx.read(path) == conv_net()
    assert [file.name for file in tmp_path.iterdir()] == ["model.net"]


# Files of other origin


def foreign(path: Path, layers: list[dict[str, Any]]) -> Path:
    """A file with these groups under ``/layer``; text as h5py stores it, of variable length."""

    def store(group: h5py.Group, tree: dict[str, Any]) -> None:
        for name, value in tree.items():
            if isinstance(value, dict):
                store(group.create_group(name), value)
            else:
                group[name] = value

    with h5py.File(path, "w") as file:
        for i, layer in enumerate(layers):
            store(file.create_group(f"layer/{i}"), layer)
    return path


def cuba(**changes: Any) -> dict[str, Any]:
    return {"type": "LOIHI", "vThMant": 25, "iDecay": 4096, "vDecay": 1024, **changes}


def dense(**changes: Any) -> dict[str, Any]:
    layer = {"type": "dense", "shape": [2, 1, 1], "weight": np.array([[1.0, -2, 3], [4, 5, -6]]), "neuron": cuba()}
    return {key: value for key, value in {**layer, **changes}.items() if value is not None}


def conv(**changes: Any) -> dict[str, Any]:
    layer = {
        "type": np.array([b"conv"]),
        "shape": [2, 2, 3],
        "weight": np.ones((2, 1, 2, 2, 1)),
        "stride": 1,
        "padding": [0, 0],
        "dilation": [1],
        "groups": 1,
        "neuron": cuba(),
    }
    return {key: value for key, value in {**layer, **changes}.items() if value is not None}


IMAGE = {"type": np.array([b"input"]), "shape": [1, 3, 4]}


def test_foreign_file(tmp_path: Path) -> None:
    bias = np.arange(12.0).reshape(3, 2, 2)  # W, H, C
    flat = {"type": "flatten", "shape": [12]}
    last = dense(weight=np.arange(-12, 12), neuron=None, bias=np.array([1.9, -1.9]))
    net = netx.read(
        foreign(tmp_path / "f.net", [IMAGE, conv(bias=bias, neuron=cuba(vThMant=[7, 9], refDelay=2)), flat, last])
    )
    first, second = net.layers
    assert isinstance(first, Conv) and isinstance(second, Dense)
    assert [layer.name for layer in net.layers] == ["layer 1 (conv)", "layer 3 (dense)"]
    assert np.array_equal(first.neuron.bias, bias.transpose(2, 1, 0))
    assert np.array_equal(first.neuron.threshold, np.broadcast_to(np.array([7, 9])[:, None, None], (2, 2, 3)))
    assert np.array_equal(second.weight, np.arange(-12, 12).reshape(2, 12))
    # the loader's default integrator
    assert second.neuron == Neuron.of("x", 131072, 0, 4096, np.array([1, -1]))
    assert net.encoding == Encoding() and net.time_steps == 1
    assert net.inexact == (
        "layer 1 (conv): the NetX loader ignores refDelay 2",
        "layer 3 (dense): the NetX loader cuts 2 of 2 values of bias to integers, such as 1.9 to 1",
    )


def test_foreign_weights_are_what_lava_runs(tmp_path: Path) -> None:
    net = netx.read(foreign(tmp_path / "f.net", [dense(weight=[[-4, -3, -1], [-2, -1.5, -3]])]))
    (layer,) = net.layers
    assert isinstance(layer, Dense)
    assert layer.weight.tolist() == [[-3, -3, -1], [-2, -1, -3]]
    assert net.inexact == (
        "layer 0 (dense): the NetX loader cuts 1 of 6 values of weight to integers, such as -1.5 to -1",
        "layer 0 (dense): the NetX loader changes 1 of 6 values of weight, such as -4 to -3",
    )


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ([dense(type="pool")], UnsupportedError, "layer 0: type 'pool' cannot be read yet"),
        ([dense(type="convolution")], InputError, "layer 0: type 'convolution' is unknown"),
        ([dense(type=np.float32(1))], InputError, "layer 0: type is not one short text"),
        ([dense(type="x" * 100)], InputError, "layer 0: type is not one short text"),
        ([dense(type=None)], InputError, "layer 0: type is missing"),
        ([dense(shape=None)], InputError, "layer 0: shape is missing"),
        ([dense(shape=[2**20, 2**20])], InputError, "layer 0: shape is .* more neurons"),
        ([dense(shape=[-1])], InputError, "layer 0: shape"),
        ([dense(shape=[1.5])], InputError, "layer 0: shape contains 1.5"),
        ([dense(weight=None)], InputError, "layer 0: weight is missing"),
        ([dense(weight=np.full((2, 3), np.nan))], InputError, "layer 0: weight contains NaN"),
        ([dense(weight=np.full((2, 3), 1e30))], InputError, "layer 0: weight contains 1e\\+30, beyond 32 bits"),
        ([dense(weight=np.full((2, 3), 1j))], InputError, "layer 0: weight has type complex128"),
        ([dense(weight=np.ones((3, 2)))], InputError, "layer 0: weight has shape"),
        ([dense(weight=np.zeros((2, 0)))], InputError, "layer 0: weight is empty"),
        ([dense(weight={"real": [1], "imag": [1]})], InputError, "layer 0: weight: real has shape"),
        ([dense(weight={"real": np.ones((2, 3))})], InputError, "layer 0: weight: imag is missing"),
        (
            [dense(weight={"real": np.ones((2, 3)), "imag": np.ones((2, 2))})],
            InputError,
            "real has shape \\(2, 3\\), imag",
        ),
        (
            [dense(weight={"real": np.ones((2, 3)), "imag": np.ones((2, 3))})],
            UnsupportedError,
            "layer 0: neuron: type 'LOIHI' with complex weights",
        ),
        ([dense(weight=np.zeros((2, 3)))], UnsupportedError, "layer 0: all weights are zero"),
        (
            [dense(weight=[[-1, 0, 0], [0, 0, 0]])],
            UnsupportedError,
            "layer 0: the loader turns weight.*no integers",
        ),
        ([dense(delay=np.zeros(4))], InputError, "layer 0: delay has shape"),
        ([dense(delay=np.array([0, -1]))], InputError, "layer 0: delay contains -1"),
        ([dense(type="dense_rec", weight_rec=np.eye(2), delay=np.zeros(2))], UnsupportedError, "layer 0: delay"),
        ([dense(bias=np.zeros(3))], InputError, "layer 0: bias has shape"),
        ([dense(bias=np.full(2, 40000))], UnsupportedError, "layer 0 \\(dense\\): bias mantissa is 40000"),
        ([dense(type="dense_rec", weight_rec=np.ones((2, 3)))], InputError, "layer 0: weight_rec has shape"),
        ([dense(neuron=cuba(type="SDNN", vThMant=np.ones(2)))], InputError, "layer 0: neuron: vThMant has shape"),
        (
            [dense(neuron=cuba(type="SDNN", sigma_output=True), bias=np.ones(2))],
            UnsupportedError,
            "layer 0: neuron: sigma_output with a bias",
        ),
        (
            [dense(type="dense_rec", weight_rec=np.eye(2), neuron=cuba(type="SDNN"))],
            UnsupportedError,
            "layer 0: neuron: sigma-delta neurons in a recurrent layer",
        ),
        ([dense(neuron=cuba(type="RF_PHASE"))], UnsupportedError, "layer 0: neuron: type 'RF_PHASE'"),
        ([dense(neuron=cuba(type="ALIF"))], InputError, "layer 0: neuron: type 'ALIF' is unknown"),
        ([dense(neuron=cuba(messageBits=8))], UnsupportedError, "layer 0: neuron: messageBits"),
        ([dense(neuron=cuba(iDecay=np.uint16(0)))], UnsupportedError, "layer 0: neuron: iDecay is 0 in an unsigned"),
        ([dense(neuron=cuba(vDecay=0.5))], InputError, "layer 0: neuron: vDecay contains 0.5"),
        ([dense(neuron=cuba(vDecay=5000))], UnsupportedError, "layer 0 \\(dense\\): voltage decay is 5000"),
        ([dense(neuron=cuba(vThMant=[1, 2, 3]))], InputError, "layer 0: neuron: vThMant has shape"),
        ([dense(), dense(weight=np.ones((2, 3)))], InputError, "layer 1: weight has shape"),
        ([IMAGE], InputError, "layer: no layer computes anything"),
        ([IMAGE, IMAGE], InputError, "layer 1: a second input layer"),
        ([dense(), {"type": "flatten"}], InputError, "layer 1: flatten of shape"),
        ([conv()], InputError, "layer 0: a convolution needs an input"),
        ([IMAGE, conv(), dense(weight=np.ones((2, 12)))], InputError, "layer 2: dense after shape .* flatten"),
        ([IMAGE, conv(neuron=None)], InputError, "layer 1: neuron is missing"),
        ([IMAGE, conv(groups=200)], UnsupportedError, "layer 1: groups is 200"),
        ([IMAGE, conv(groups=[1])], InputError, "layer 1: groups has shape"),
        ([IMAGE, conv(stride=0)], InputError, "layer 1 \\(conv\\): stride"),
        ([IMAGE, conv(padding=128)], UnsupportedError, "layer 1: padding is 128"),
        ([IMAGE, conv(dilation=[1, 2, 3])], InputError, "layer 1: dilation has shape"),
        ([IMAGE, conv(shape=[2, 3, 2])], InputError, "layer 1: shape is .* give"),
        ([IMAGE, conv(weight=np.ones((2, 1, 9, 9)))], InputError, "layer 1 \\(conv\\): the kernel is larger"),
        ([IMAGE, conv(bias=np.float64(1))], InputError, "layer 1: bias has shape"),
    ],
)
def test_bad_foreign_files(layers: list[dict[str, Any]], error: type, message: str, tmp_path: Path) -> None:
    path = foreign(tmp_path / "model.net", layers)
    with pytest.raises(error, match=message) as caught:
        netx.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def damage_soft_link(file: h5py.File, folder: Path) -> None:
    del file["layer/1/weight"]
    file["elsewhere"] = np.ones((2, 3))
    file["layer/1/weight"] = h5py.SoftLink("/elsewhere")


def damage_external_link(file: h5py.File, folder: Path) -> None:
    del file["layer/1"]
    file["layer/1"] = h5py.ExternalLink(str(folder / "other.net"), "/layer/1")


def damage_external_storage(file: h5py.File, folder: Path) -> None:
    del file["layer/1/weight"]
    file["layer/1"].create_dataset("weight", (2, 3), "i4", external=[("/etc/passwd", 0, 24)])


def damage_virtual(file: h5py.File, folder: Path) -> None:
    del file["layer/1/weight"]
    virtual = h5py.VirtualLayout((2, 3), "i4")
    virtual[:] = h5py.VirtualSource(str(folder / "other.net"), "layer/1/weight", (2, 3))
    file["layer/1"].create_virtual_dataset("weight", virtual)


def damage_huge(file: h5py.File, folder: Path) -> None:
    del file["layer/1/weight"]
    file["layer/1"].create_dataset("weight", (1 << 20, 1 << 20), "f4", chunks=(1, 1 << 20))


def damage_unstored(file: h5py.File, folder: Path) -> None:
    del file["layer/1/weight"]
    file["layer/1"].create_dataset("weight", (2, 1 << 20), "f4")


def damage_cycle(file: h5py.File, folder: Path) -> None:
    del file["layer/1/neuron"]
    file["layer/1/neuron"] = file["layer"]


def damage_gap(file: h5py.File, folder: Path) -> None:
    file.move("layer/1", "layer/7")


def damage_metadata(file: h5py.File, folder: Path) -> None:
    del file["snn2chip/metadata"]
    file["snn2chip/metadata"] = np.bytes_("{")


def damage_version(file: h5py.File, folder: Path) -> None:
    file["snn2chip/format"][()] = 2


def change_metadata(**changes: Any) -> Callable[[h5py.File, Path], None]:
    def change(file: h5py.File, folder: Path) -> None:
        metadata = json.loads(file["snn2chip/metadata"][()])
        del file["snn2chip/metadata"]
        file["snn2chip/metadata"] = np.bytes_(json.dumps({**metadata, **changes}))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_soft_link, "layer 1: weight is a link to elsewhere"),
        (damage_external_link, "layer: 1 is a link to elsewhere"),
        (damage_external_storage, "layer 1: weight lies in another file"),
        (damage_virtual, "layer 1: weight lies in another file"),
        (damage_huge, "layer 1: weight declares 1099511627776 values"),
        (damage_unstored, "layer 1: weight declares 2097152 values and stores none"),
        (damage_cycle, "layer 1: neuron: type is missing"),
        (damage_gap, "layer: 1 is missing"),
        (damage_metadata, "snn2chip: metadata are malformed"),
        (damage_version, "format 2 needs snn2chip"),
        (change_metadata(layers=[]), "metadata say nothing about layer 1"),
        (change_metadata(layers=[{"index": 1, "name": 5}]), "metadata are malformed"),
        (change_metadata(layers=[{"index": 1, "name": "two\nlines"}]), "metadata are malformed"),
        (change_metadata(layers=[{"index": 1, "name": "a"}, {"index": 9, "name": "b"}]), "layers that are not there"),
        (change_metadata(encoding={"kind": []}), "metadata are malformed"),
        (
            change_metadata(encoding={"kind": "graded", "scale": float("nan"), "low": 0, "high": 9}),
            "encoding scale nan",
        ),
        (change_metadata(window="8"), "metadata are malformed"),
        (change_metadata(time_steps=9, window=8), "9 time steps in a window of 8"),
        (change_metadata(target="loihi9"), "unknown target 'loihi9'"),
    ],
)
def test_damaged_files(damage: Callable[[h5py.File, Path], None], message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.net"
    netx.write(small_net(), path)
    netx.write(small_net(), tmp_path / "other.net")
    with h5py.File(path, "r+") as file:
        damage(file, tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        netx.read(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_merged_groups_that_were_edited_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.net"
    netx.write(many_groups_net(), path)
    with h5py.File(path, "r+") as file:
        assert file["layer/1/groups"][()] == 127
        assert file["layer/1/weight"].shape == (508, 6, 1, 1)
        file["layer/1/weight"][0, 5] = 1
    with pytest.raises(InputError, match="layer 1: weights of 127 groups are not those of 254 groups"):
        netx.read(path)


@pytest.mark.parametrize("content", [b"", b"not HDF5", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_not_hdf5(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.net").write_bytes(content)
    with pytest.raises(InputError, match=r"model\.net: not a readable HDF5 file"):
        netx.read(tmp_path / "model.net")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        netx.read(tmp_path / "model.net")
    with pytest.raises(InputError, match="not a regular file"):
        netx.read(tmp_path)


def test_cut_files_are_refused_or_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "model.net"
    netx.write(conv_net(), path)
    content = path.read_bytes()
    for size in range(8, len(content), 997):
        path.write_bytes(content[:size])
        with pytest.raises(InputError, match=r"model\.net"):
            netx.read(path)
