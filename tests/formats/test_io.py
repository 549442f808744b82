"""Files of formats: bit by bit, all or nothing, and clear about what is wrong."""

import json
import os
import stat
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

import tnkit as tk
from tnkit.formats import Network, load, operations, save
from tnkit.formats.io import from_json, to_json
from tnkit.network import DFT, Part, Topology
from tnkit.registry import FORMATS
from tnkit.tensorize import Tensorization
from tnkit.testing.strategies import dtypes, formats, shapes


@pytest.fixture
def path(tmp_path):
    return tmp_path / "value.safetensors"


def bits(t):
    return t.detach().resolve_conj().contiguous().flatten().view(torch.uint8)


def require_same(a, b):
    assert type(a) is type(b)
    assert a.static() == b.static()
    assert a.shape == b.shape
    for s, t in zip(a.tensors(), b.tensors(), strict=True):
        assert s.dtype == t.dtype
        assert s.shape == t.shape
        assert torch.equal(bits(s), bits(t))


@pytest.mark.parametrize("name", FORMATS.names())
@settings(max_examples=5)
@given(data=st.data())
def test_every_format(name, data, tmp_path_factory):
    value = data.draw(formats(name, shape=shapes(max_entries=100), dtype=dtypes()))
    path = tmp_path_factory.mktemp("io") / "value.safetensors"
    value.save(path)
    require_same(load(path), value)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.complex64, torch.complex128], ids=str
)
def test_dtypes(dtype, path):
    value = tk.random_format(
        "tucker", (3, 4), rank=2, dtype=torch.complex128 if dtype.is_complex else torch.float64, rng=0
    )
    save(value.to(dtype), path)
    require_same(load(path), value.to(dtype))


def test_values_of_every_kind(path):
    odd = torch.tensor([float("nan"), float("inf"), -0.0, 5e-324, 1.0, -1.0]).double().reshape(1, 6, 1)
    odd.view(torch.int64)[0, 0, 0] |= 12345  # a NaN with a payload
    save(tk.TT.from_cores([odd]), path)
    require_same(load(path), tk.TT.from_cores([odd]))


def test_memory_of_every_kind(path):
    base = torch.randn(4, 5, dtype=torch.complex128)
    shared = Network.from_equation("ia,ja->ij", [base, base])
    views = Network.from_equation("ia,aj->ij", [base.mT.conj(), base[:, ::2]])
    for value in (shared, views, shared.requires_grad()):
        save(value, path)
        require_same(load(path), value.detach())
        assert not any(t.requires_grad for t in load(path).tensors())


def test_networks_with_constants_and_trees(path):
    sliced = tk.random_format("tubal", (3, 4, 5), rank=2, rng=0)[:, 1:, 1:4:2]
    assert any(isinstance(c, Part) for c in sliced.graph.constants)
    for value in (sliced, tk.random_format(tk.HTSpec(((0, 3), (2, 1))), (2, 3, 2, 3), rank=2, rng=0)):
        save(value, path)
        require_same(load(path), value)
        torch.testing.assert_close(load(path).to_dense(), value.to_dense())


def test_reshaped_arrays(path):
    plan = Tensorization.start((5, 7)).pad((6, 8)).reshape((2, 3, 2, 4)).permute((0, 2, 1, 3))
    inner = tk.random_format("tt", plan.out_shape, rank=3, rng=0)
    for value in (inner.tensorized(plan), tk.random_format("blast", (5, 7), rank=2, rng=0)):
        save(value, path)
        require_same(load(path), value)


def test_the_file_is_plain_safetensors(path):
    save(tk.random_format("tt", (3, 4), rank=2, rng=0), path)
    with safe_open(path, framework="np") as opened:
        assert sorted(opened.keys()) == ["cores.0", "cores.1"]
        assert json.loads(opened.metadata()["structure"])["class"] == "TT"


def test_nothing_is_left_behind_and_the_old_file_stays(path, monkeypatch):
    value = tk.random_format("tt", (3, 4), rank=2, rng=0)
    save(value, path)

    def broken(tensors, filename, metadata=None):
        with open(filename, "wb") as stream:
            stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tnkit.files.save_file", broken)
    with pytest.raises(tk.FileFormatError, match=r"cannot be written .No space left on device"):
        save(2 * value, path)
    monkeypatch.undo()
    require_same(load(path), value)
    assert list(path.parent.iterdir()) == [path]


def test_an_interrupt_leaves_nothing(path, monkeypatch):
    def interrupted(tensors, filename, metadata=None):
        open(filename, "wb").close()
        raise KeyboardInterrupt

    monkeypatch.setattr("tnkit.files.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(tk.random_format("tt", (3, 4), rank=2, rng=0), path)
    assert list(path.parent.iterdir()) == []


def test_permissions_and_links_stay(path):
    value = tk.random_format("tt", (3, 4), rank=2, rng=0)
    save(value, path)
    plain = path.parent / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode  # as any new file
    path.chmod(0o640)
    link = path.parent / "link.safetensors"
    link.symlink_to(path)
    save(2 * value, link)
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    torch.testing.assert_close(load(path).to_dense(), 2 * value.to_dense())


def cores(*tensors):
    return {"class": "TT", "fields": {"cores": {"tensors": tensors}}}


def reshaped(structure, plan):
    return {"class": "Tensorized", "fields": {"format": {"format": structure}, "plan": {"static": plan}}}


def network(structure, inputs):
    graph = {"topology": {"inputs": inputs, "output": ["i", "j"], "constants": [None, None]}}
    return {"class": "Network", "fields": {"nodes": structure["fields"]["cores"], "graph": {"static": graph}}}


class TestRefused:
    """Each with a message that says what was found and what to do."""

    value = tk.random_format("tt", (3, 4), rank=2, rng=0)

    def refuse(self, path, words):
        with pytest.raises(tk.FileFormatError, match=words) as raised:
            load(path)
        assert path.name in str(raised.value)

    def test_no_file(self, path):
        self.refuse(path, "no such file. Check the path")

    def test_a_folder(self, tmp_path):
        self.refuse(tmp_path, "is a folder")
        with pytest.raises(tk.FileFormatError, match=r"is a folder. Give the path of a file"):
            save(self.value, tmp_path)

    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(tk.FileFormatError, match=r"the folder .* is not there. Make it first"):
            save(self.value, tmp_path / "no" / "value.safetensors")

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
    def test_no_permission(self, path):
        save(self.value, path)
        path.chmod(0)
        self.refuse(path, "may not be read. Check its permissions")

    @pytest.mark.parametrize(
        "content", [b"", b"abc", b"PK\x03\x04" + b"\0" * 100, b"\x93NUMPY" + b"x" * 100, b"{}" * 99]
    )
    def test_something_else(self, path, content):
        path.write_bytes(content)
        self.refuse(path, "is no safetensors file|is cut short")

    def test_half_written(self, path):
        save(self.value, path)
        whole = path.read_bytes()
        for size in range(len(whole)):
            path.write_bytes(whole[:size])
            self.refuse(path, "is cut short|is no safetensors file")
        path.write_bytes(whole)
        require_same(load(path), self.value)

    def test_a_header_that_promises_too_much(self, path):
        path.write_bytes(struct.pack("<Q", 2**60) + b"{" * 50)
        self.refuse(path, "is no safetensors file")

    def test_another_program(self, path):
        save_file({"weight": torch.ones(3)}, path)
        self.refuse(path, "plain tensors of another program .weight.*Read arrays with")

    def test_another_version(self, path):
        self.rewrite(path, version="2")
        self.refuse(path, "written in version '2'.* reads '1'. Install")

    def rewrite(self, path, change=None, drop=None, **metadata):
        save(self.value, path)
        with safe_open(path, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys() if name != drop}  # noqa: SIM118
            found = {**opened.metadata(), **metadata}
        if change is not None:
            found["structure"] = json.dumps(change(json.loads(found["structure"])))
        save_file(tensors, path, metadata=found)

    @pytest.mark.parametrize(
        "change",
        [
            lambda s: {**s, "class": "Nothing"},
            lambda s: {**s, "class": "Tucker"},
            lambda s: {"class": "TT", "fields": {}},
            lambda s: cores(["cores.0", "torch.float64"]),
            lambda s: cores(["cores.1", "torch.float64"], ["cores.0", "torch.float64"]),
            lambda s: cores(["cores.9", "torch.float64"]),
            lambda s: cores(["cores.0", "torch.float32"], ["cores.1", "torch.float64"]),
            lambda s: cores(["cores.0", "torch.complex128"], ["cores.1", "torch.float64"]),
            lambda s: {"class": "TT", "fields": {"cores": {"pickle": "gASV"}}},
            lambda s: {"class": "TensorRing", "fields": {"cores": {"static": [1, 2]}}},
            lambda s: reshaped(s, 3),
            lambda s: reshaped(s, {"tensorization": {"shape": [3, 4], "moves": [["pad", [9, 9]]]}}),
            lambda s: reshaped(s, {"tensorization": {"shape": [3, 4], "moves": [["exec", "rm"]]}}),
            lambda s: network(s, ["iab", "ajb"]),
            lambda s: network(s, [["a", "i", "b"], ["b", "j", "a", "c"]]),
            lambda s: [],
            lambda s: None,
            lambda s: "TT",
        ],
    )
    def test_a_changed_structure(self, path, change):
        self.rewrite(path, change)
        self.refuse(path, "does not fit its tensors .*The file was changed")

    def test_a_tensor_gone_or_too_many(self, path):
        self.rewrite(path, drop="cores.1")
        self.refuse(path, "does not fit its tensors")
        self.rewrite(path, lambda s: {"class": "TT", "fields": {"cores": {"tensors": []}}})
        self.refuse(path, "does not fit its tensors")

    def test_metadata_that_is_no_json(self, path):
        self.rewrite(path, structure="{")
        self.refuse(path, "does not fit its tensors")

    def test_no_format(self, path):
        with pytest.raises(
            tk.OptionError, match=r"save takes a tnkit format .*not dict. Of a result, save its .tensor"
        ):
            operations.save({}, path)


@pytest.mark.parametrize(
    "value",
    [
        None, True, 3, "text", 2.5, (), (1, (2, "a"), None), ((0, 1), (2, (3, 4))), DFT(4), DFT(3, inverse=True),
        Part(DFT(4), (1, (0, 2))), Topology.parse("ia,aj->ij"),
        Topology((("a", "x"), ("a", "f")), ("x", "f"), (None, DFT(4))),
        Tensorization.start((3, 4)).pad((4, 4)).reshape((2, 2, 4)).permute((2, 0, 1)),
    ],
)  # fmt: skip
def test_static_values_through_json(value):
    assert from_json(json.loads(json.dumps(to_json(value)))) == value


def test_static_values_that_have_no_json():
    with pytest.raises(tk.OptionError, match=r"object values cannot be stored"):
        to_json(object())
    for wrong in ({"what": 1}, {"dft": {"n": 0, "inverse": False}}, {"dft": {"n": True, "inverse": False}}):
        with pytest.raises(ValueError, match=r"unknown kind|a DFT of size"):
            from_json(wrong)
