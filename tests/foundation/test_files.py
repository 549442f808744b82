"""Array files: what is read, what is written, and what is refused."""

import os
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import tnkit as tk
from tnkit.array_files import ARRAY_SUFFIXES, read_array, write_array
from tnkit.files import read_safetensors, replacing, write_safetensors
from tnkit.formats import save

X = np.arange(24.0).reshape(2, 3, 4) / 7


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".NPY"])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i4", "u1", "?", "c8"])
def test_round_trip(suffix, dtype, tmp_path):
    path = tmp_path / f"x{suffix}"
    array = (10 * X).astype(dtype)
    write_array(path, array)
    found = read_array(path)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
def test_tensors_lists_and_odd_memory(suffix, tmp_path):
    path = tmp_path / f"x{suffix}"
    for value in (torch.from_numpy(X), X.transpose(2, 0, 1), X[::-1, ::2], X.tolist()):
        write_array(path, value)
        np.testing.assert_array_equal(read_array(path), np.asarray(value))
    write_array(path, torch.ones(3, dtype=torch.bfloat16))
    np.testing.assert_array_equal(read_array(path), np.ones(3, dtype=np.float32))


def test_fortran_order_and_other_byte_orders(tmp_path):
    np.save(tmp_path / "f.npy", np.asfortranarray(X))
    np.save(tmp_path / "b.npy", X.astype(">f8"))
    np.testing.assert_array_equal(read_array(tmp_path / "f.npy"), X)
    np.testing.assert_array_equal(read_array(tmp_path / "b.npy"), X)


class TestNames:
    """Files of several arrays."""

    @pytest.fixture(params=[".npz", ".safetensors"])
    def path(self, request, tmp_path):
        path = tmp_path / f"many{request.param}"
        if request.param == ".npz":
            np.savez_compressed(path, a=X, b=2 * X)
        else:
            save_file({"a": torch.from_numpy(X), "b": torch.from_numpy(2 * X)}, path)
        return path

    def test_by_name(self, path):
        np.testing.assert_array_equal(read_array(path, "b"), 2 * X)

    def test_no_name(self, path):
        with pytest.raises(
            tk.UnknownNameError, match=r"holds 2 arrays; say which, by name= \(--name\)\. It holds: 'a', 'b'"
        ):
            read_array(path)

    def test_another_name(self, path):
        with pytest.raises(tk.UnknownNameError, match=r"no array 'c'. It holds: 'a', 'b'"):
            read_array(path, "c")


class TestImages:
    """Pixels as they are."""

    @pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
    @pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
    def test_round_trip(self, suffix, shape, tmp_path):
        path = tmp_path / f"x{suffix}"
        pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
        write_array(path, pixels)
        found = read_array(path)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, pixels)

    def test_deep_grey_and_transparency(self, tmp_path):
        deep = (np.arange(35).reshape(5, 7) * 1800).astype(np.uint16)
        clear = np.random.default_rng(0).integers(0, 256, (5, 7, 4)).astype(np.uint8)
        for name, pixels in (("deep.png", deep), ("clear.png", clear)):
            write_array(tmp_path / name, pixels)
            np.testing.assert_array_equal(read_array(tmp_path / name), pixels)

    def test_floats_are_rounded_and_clipped(self, tmp_path):
        write_array(tmp_path / "x.png", np.array([[-3.0, 0.4, 0.6], [254.6, 300.0, np.nan]]))
        np.testing.assert_array_equal(read_array(tmp_path / "x.png"), [[0, 0, 1], [255, 255, 0]])

    def test_jpeg(self, tmp_path):
        pixels = np.full((16, 16, 3), 100, dtype=np.uint8)
        write_array(tmp_path / "x.jpg", pixels)
        assert np.abs(read_array(tmp_path / "x.jpg").astype(int) - 100).max() < 5

    def test_palettes_bits_and_pages(self, tmp_path):
        colours = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).convert("P")
        colours.save(tmp_path / "p.png")
        assert read_array(tmp_path / "p.png").shape == (3, 4, 3)
        Image.new("1", (4, 3), 1).save(tmp_path / "1.png")
        assert read_array(tmp_path / "1.png").max() == 255
        pages = [Image.new("L", (4, 3), k) for k in range(5)]
        pages[0].save(tmp_path / "m.tif", save_all=True, append_images=pages[1:])
        assert read_array(tmp_path / "m.tif")[:, 0, 0].tolist() == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize("shape", [(5,), (5, 7, 2), (2, 5, 7, 3), (0, 3)])
    def test_shapes_that_are_no_images(self, shape, tmp_path):
        with pytest.raises(tk.FileFormatError, match=r"is no image. Give"):
            write_array(tmp_path / "x.png", np.zeros(shape))

    def test_values_that_are_no_images(self, tmp_path):
        with pytest.raises(tk.DTypeError, match=r"complex values are no image"):
            write_array(tmp_path / "x.png", np.zeros((3, 4), dtype=complex))
        with pytest.raises(tk.FileFormatError, match=r"JPEG has no transparency"):
            write_array(tmp_path / "x.jpg", np.zeros((3, 4, 4)))


class TestRefused:
    """What cannot be read, each with its name and what to do."""

    def refuse(self, path, words, name=None):
        with pytest.raises(tk.FileFormatError, match=words) as raised:
            read_array(path, name)
        assert path.name in str(raised.value)

    @pytest.mark.parametrize("suffix", ARRAY_SUFFIXES)
    def test_no_file_and_a_folder(self, suffix, tmp_path):
        self.refuse(tmp_path / f"x{suffix}", "no such file")
        (tmp_path / f"x{suffix}").mkdir()
        self.refuse(tmp_path / f"x{suffix}", "is a folder")

    @pytest.mark.parametrize("name", ["x.csv", "x", "x.pt", "x.npy.gz"])
    def test_unknown_suffixes(self, name, tmp_path):
        (tmp_path / name).write_bytes(b"1,2")
        self.refuse(tmp_path / name, "cannot read files that end with .*Use one of: .npy")
        with pytest.raises(tk.FileFormatError, match=r"cannot write files that end with"):
            write_array(tmp_path / name, X)

    @pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".png", ".jpg", ".tif", ".bmp"])
    def test_cut_short(self, suffix, tmp_path):
        path = tmp_path / f"x{suffix}"
        write_array(path, np.random.default_rng(0).integers(0, 256, (40, 50)).astype(np.uint8))
        whole = path.read_bytes()
        for size in (0, 1, 7, 20, len(whole) // 2, len(whole) - 30):
            path.write_bytes(whole[:size])
            self.refuse(path, "cut short|is no|cannot be read")

    @pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".png", ".jpg", ".tif", ".bmp"])
    def test_something_else(self, suffix, tmp_path):
        path = tmp_path / f"x{suffix}"
        for content in (b"", b"hello, world" * 20, bytes(range(256)) * 4):
            path.write_bytes(content)
            self.refuse(path, "is no|cannot be read|cut short")

    def test_python_objects(self, tmp_path):
        np.save(tmp_path / "o.npy", np.array([{}, 1], dtype=object), allow_pickle=True)
        self.refuse(tmp_path / "o.npy", "holds Python objects, which only pickle can read")
        np.savez(tmp_path / "o.npz", a=np.array([{}, 1], dtype=object))
        self.refuse(tmp_path / "o.npz", "holds Python objects")

    def test_values_that_are_no_numbers(self, tmp_path):
        np.save(tmp_path / "t.npy", np.array(["a", "b"]))
        self.refuse(tmp_path / "t.npy", "holds <U1 values, which are no numbers")

    def test_damage_inside(self, tmp_path):
        np.savez(tmp_path / "x.npz", a=X)
        content = bytearray((tmp_path / "x.npz").read_bytes())
        content[200] ^= 255
        (tmp_path / "x.npz").write_bytes(content)
        self.refuse(tmp_path / "x.npz", "is no whole .npz file")

    def test_other_archives_and_empty_ones(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "x.npz", "w"):
            pass
        self.refuse(tmp_path / "x.npz", "holds no array")
        with zipfile.ZipFile(tmp_path / "y.npz", "w") as archive:
            archive.writestr("a.txt", "hello")
        self.refuse(tmp_path / "y.npz", "no numbers|is no whole .npz|no array")

    def test_a_saved_format_is_no_array(self, tmp_path):
        save(tk.random_format("tt", (3, 4), rank=2, rng=0), tmp_path / "tt.safetensors")
        self.refuse(tmp_path / "tt.safetensors", "holds a tnkit format, not a plain array. Read it with tnkit.load")

    def test_no_numbers_to_write(self, tmp_path):
        with pytest.raises(tk.DTypeError, match=r"not numeric"):
            write_array(tmp_path / "x.npy", np.array(["a"]))
        assert os.listdir(tmp_path) == []

    def test_no_folder_to_write_to(self, tmp_path):
        with pytest.raises(tk.FileFormatError, match=r"is not there. Make it first"):
            write_array(tmp_path / "no" / "x.npy", X)
        with pytest.raises(tk.FileFormatError, match=r"is a folder"):
            write_array(tmp_path, X) if tmp_path.suffix else replacing(tmp_path).__enter__()


def test_replacing_keeps_the_old_file_until_the_new_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def broken():
        with replacing(path) as temporary:
            temporary.write_text("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert path.read_text() == "old"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_safetensors_with_metadata(tmp_path):
    path = tmp_path / "x.safetensors"
    t = torch.arange(6.0).reshape(2, 3)
    write_safetensors(path, {"t": t, "u": t.mT, "v": t[:1]}, {"note": "ü"})
    tensors, metadata = read_safetensors(path)
    assert metadata == {"note": "ü"}
    assert torch.equal(tensors["u"], t.mT)
    assert torch.equal(tensors["v"], t[:1])
