"""Array files: .npy, .npz, .safetensors and images, read without pickle and written by renaming.

A file is written under a temporary name in the same folder and renamed, so an interrupted write leaves the old file or
none. What cannot be read is refused with `FileFormatError`, which says what was found and what to do.

Example:
    >>> import numpy as np, tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "x.npy")
    ...     write_array(path, np.arange(6.0).reshape(2, 3))
    ...     read_array(path).shape
    (2, 3)
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageSequence, UnidentifiedImageError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tnkit.arrays import as_tensor, to_numpy
from tnkit.errors import DTypeError, FileFormatError, UnknownNameError

__all__ = [
    "ARRAY_SUFFIXES",
    "IMAGE_SUFFIXES",
    "PathLikeStr",
    "read_array",
    "read_safetensors",
    "replacing",
    "write_array",
    "write_safetensors",
]

PathLikeStr: TypeAlias = "str | PathLike[str]"
NumPyArray: TypeAlias = "np.ndarray[Any, Any]"
Reader: TypeAlias = "Callable[[Path, str | None], NumPyArray]"

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
#: Suffixes that `read_array` and `write_array` know.
ARRAY_SUFFIXES = (".npy", ".npz", ".safetensors", *IMAGE_SUFFIXES)

#: The metadata key of files that hold more than plain tensors; its value says what.
KIND = "tnkit"
LENGTH_BYTES = 8
MAX_HEADER = 100_000_000


# --- arrays -----------------------------------------------------------------------------------------------------------


def read_array(path: PathLikeStr, name: str | None = None) -> NumPyArray:
    """One array from a file.

    Args:
        path: a .npy, .npz or .safetensors file, or an image.
        name: which array of a .npz or .safetensors file; not needed where there is only one.

    Returns:
        Numbers as they are stored (bfloat16 as float32, which loses nothing). Images: (height, width) or
        (height, width, channels), with a leading axis for the pages of a multi-page TIFF.

    Raises:
        FileFormatError: no such file, a folder, no permission, a suffix that is not known, a file that is cut short or
            no such thing, Python objects instead of numbers.
        UnknownNameError: no array of that name, or several and no name.

    Example:
        >>> read_array("missing.npy")
        Traceback (most recent call last):
        ...
        tnkit.errors.FileFormatError: missing.npy: no such file. Check the path.
    """
    file = Path(path)
    reader: Reader = _by_suffix(file, _READERS, "read")
    require_file(file)
    array = reader(file, name)
    if array.dtype.kind not in "biufc":
        raise FileFormatError(f"{file}: holds {array.dtype} values, which are no numbers. Store a numeric array.")
    return array


def write_array(path: PathLikeStr, array: Any) -> None:
    """Write one array; the suffix of `path` says how.

    Args:
        path: .npy, .npz (under the name "array"), .safetensors (likewise), or an image: (height, width) or (height,
            width, 1 | 3 | 4); values other than 8 or 16 bit integers are rounded and clipped to 0 … 255.
        array: a NumPy array, a torch tensor, or anything that `tnkit` takes as an array.

    Raises:
        FileFormatError: an unknown suffix, a shape that is no image, a folder that is not there, no permission.
        DTypeError: values that are no numbers.
    """
    file = Path(path)
    writer = _by_suffix(file, _WRITERS, "write")
    writer(file, array)


def _by_suffix(file: Path, table: Mapping[str, Any], verb: str) -> Any:
    suffix = file.suffix.lower()
    if suffix not in table:
        raise FileFormatError(
            f"{file}: cannot {verb} files that end with {suffix!r}. Use one of: {', '.join(ARRAY_SUFFIXES)}."
        )
    return table[suffix]


def _read_npy(file: Path, name: str | None) -> NumPyArray:
    with _numpy_errors(file, ".npy"), file.open("rb") as stream:
        array: NumPyArray = np.lib.format.read_array(stream, allow_pickle=False)
        return array


def _read_npz(file: Path, name: str | None) -> NumPyArray:
    with _numpy_errors(file, ".npz"):
        if not zipfile.is_zipfile(file):
            raise zipfile.BadZipFile("it has no table of contents")
        with np.load(file, allow_pickle=False) as archive:
            found = archive[_pick(file, list(archive.files), name)]
            if not isinstance(found, np.ndarray):
                raise ValueError("what stands under that name is no array")
            return found


@contextlib.contextmanager
def _numpy_errors(file: Path, suffix: str) -> Iterator[None]:
    try:
        yield
    except (FileFormatError, UnknownNameError):
        raise
    except OSError as error:
        raise FileFormatError(f"{file}: cannot be read ({error.strerror or error}).") from error
    except (ValueError, EOFError, KeyError, SyntaxError, zipfile.BadZipFile, zlib.error, MemoryError) as error:
        if "Object arrays" in str(error):
            raise FileFormatError(
                f"{file}: holds Python objects, which only pickle can read, and tnkit does not unpickle. "
                "Store the array with a numeric dtype, for example array.astype(float)."
            ) from None
        raise FileFormatError(
            f"{file}: is no whole {suffix} file ({error}). It may be cut short or be something else; write it again."
        ) from None


def _pick(file: Path, names: list[str], name: str | None) -> str:
    if name is not None:
        if name in names:
            return name
        raise UnknownNameError(f"{file}: no array {name!r}. It holds: {', '.join(map(repr, names)) or 'nothing'}.")
    if not names:
        raise FileFormatError(f"{file}: holds no array.")
    if len(names) > 1:
        raise UnknownNameError(
            f"{file}: holds {len(names)} arrays; say which, by name= (--name). It holds: {', '.join(map(repr, names))}."
        )
    return names[0]


def _read_tensor(file: Path, name: str | None) -> NumPyArray:
    tensors, metadata = read_safetensors(file)
    if KIND in metadata:
        raise FileFormatError(
            f"{file}: holds a tnkit {metadata[KIND]}, not a plain array. Read it with tnkit.load(path)."
        )
    return to_numpy(tensors[_pick(file, list(tensors), name)])


def _read_image(file: Path, name: str | None) -> NumPyArray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of notes beside the pixels, such as damaged EXIF data
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                pages = [_pixels(page) for page in ImageSequence.Iterator(image)]
    except UnidentifiedImageError:
        raise FileFormatError(
            f"{file}: is no image that can be read. It may be cut short or be something else."
        ) from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise FileFormatError(f"{file}: is larger than an image should be ({error}). Give it as .npy.") from None
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error) as error:
        raise FileFormatError(f"{file}: cannot be read as an image ({error}). It may be cut short.") from None
    if len({page.shape for page in pages}) > 1:
        raise FileFormatError(f"{file}: its {len(pages)} pages have several sizes. Give one page a file.")
    return pages[0] if len(pages) == 1 else np.stack(pages)


def _pixels(image: Image.Image) -> NumPyArray:
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    elif image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        image = image.convert("RGB")
    elif image.mode == "1":
        image = image.convert("L")
    return np.asarray(image).copy()


def _write_npy(file: Path, array: Any) -> None:
    values = _host_array(array)
    with replacing(file) as temporary, temporary.open("wb") as stream:
        np.lib.format.write_array(stream, values, allow_pickle=False)


def _write_npz(file: Path, array: Any) -> None:
    values = _host_array(array)
    with replacing(file) as temporary, temporary.open("wb") as stream:
        np.savez(stream, array=values)


def _write_tensor(file: Path, array: Any) -> None:
    tensor = array if isinstance(array, Tensor) else torch.from_numpy(np.ascontiguousarray(_host_array(array)))
    write_safetensors(file, {"array": tensor}, {})


def _host_array(array: Any) -> NumPyArray:
    values = to_numpy(array) if isinstance(array, Tensor) else array
    if not isinstance(values, np.ndarray):
        values = to_numpy(as_tensor(values, name="the array").tensor)
    if values.dtype.kind not in "biufc":
        raise DTypeError(f"the array has dtype {values.dtype}, which is not numeric. Convert it, e.g. .astype(float).")
    return values


def _write_image(file: Path, array: Any) -> None:
    values = _host_array(array)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if not (values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (3, 4))) or values.size == 0:
        raise FileFormatError(
            f"{file}: an array of shape {values.shape} is no image. Give (height, width) or (height, width, 3 or 4), "
            "or write .npy."
        )
    if values.dtype.kind == "c":
        raise DTypeError(f"{file}: complex values are no image. Give abs(array), or write .npy.")
    image = Image.fromarray(_levels(values, file))
    if file.suffix.lower() in (".jpg", ".jpeg") and image.mode == "RGBA":
        raise FileFormatError(f"{file}: JPEG has no transparency. Drop the fourth channel, or write .png.")
    kind = Image.registered_extensions()[file.suffix.lower()]
    with replacing(file) as temporary:
        image.save(temporary, format=kind)


def _levels(values: NumPyArray, file: Path) -> NumPyArray:
    """Grey levels: 8 bit as they are, 16 bit where the file takes them, everything else rounded and clipped."""
    deep = values.dtype == np.uint16 and values.ndim == 2 and file.suffix.lower() in (".png", ".tif", ".tiff")
    if values.dtype == np.uint8 or deep:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    finite = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=255.0, neginf=0.0)
    return np.clip(np.round(finite), 0, 255).astype(np.uint8)


_READERS: dict[str, Reader] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".safetensors": _read_tensor,
    **dict.fromkeys(IMAGE_SUFFIXES, _read_image),
}
_WRITERS: dict[str, Callable[[Path, Any], None]] = {
    ".npy": _write_npy,
    ".npz": _write_npz,
    ".safetensors": _write_tensor,
    **dict.fromkeys(IMAGE_SUFFIXES, _write_image),
}


# --- safetensors ------------------------------------------------------------------------------------------------------


def read_safetensors(path: PathLikeStr, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file, and its metadata.

    Raises:
        FileFormatError: no such file, a folder, no permission, no safetensors file, or one that is cut short.
    """
    file = Path(path)
    require_file(file)
    _check_header(file)
    try:
        with safe_open(file, framework="pt", device=str(device)) as opened:
            metadata = opened.metadata() or {}
            return {name: opened.get_tensor(name) for name in opened.keys()}, dict(metadata)  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, AttributeError) as error:
        raise FileFormatError(f"{file}: is no safetensors file that can be read ({error}). Write it again.") from None


def _check_header(file: Path) -> None:
    """Tell a file that is cut short from one that is something else, which safetensors itself does not."""
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
            header = stream.read(min(length, MAX_HEADER, max(0, size - LENGTH_BYTES)))
    except OSError as error:
        raise FileFormatError(f"{file}: cannot be read ({error.strerror}). Check its permissions.") from error
    if size < LENGTH_BYTES or (header[:1] != b"{" and header[:1] != b""):
        raise FileFormatError(
            f"{file}: is no safetensors file (of {size} bytes). Give one that tnkit or another wrote."
        )
    if size < LENGTH_BYTES + length <= LENGTH_BYTES + MAX_HEADER:
        raise FileFormatError(
            f"{file}: is cut short: its header alone needs {LENGTH_BYTES + length} bytes, and it has "
            f"{size}. Write it again."
        )
    try:
        entries = json.loads(header)
        ends = [int(entry["data_offsets"][1]) for name, entry in entries.items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise FileFormatError(f"{file}: is no safetensors file: its header is not readable. Write it again.") from None
    whole = LENGTH_BYTES + length + max(ends, default=0)
    if size < whole:
        raise FileFormatError(f"{file}: is cut short: it needs {whole} bytes and has {size}. Write it again.")


def write_safetensors(path: PathLikeStr, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata to a safetensors file, all or nothing.

    Args:
        path: the file; one that is there is replaced.
        tensors: of any layout and device; complex ones only where the installed safetensors knows them.
        metadata: text.

    Raises:
        FileFormatError: the folder is not there, `path` is a folder, no permission, no space.
        DTypeError: a dtype that safetensors cannot hold.
    """
    seen: set[int] = set()
    plain = {name: _plain(t, seen) for name, t in tensors.items()}
    file = Path(path)
    with replacing(file) as temporary:
        try:
            save_file(plain, temporary, metadata=dict(metadata) or None)
        except (KeyError, ValueError) as error:
            raise DTypeError(f"{file}: safetensors cannot hold these values ({error}). Convert them first.") from None
        _sort_metadata(temporary)


def _sort_metadata(file: Path) -> None:
    """Put the metadata in order of name, in place: safetensors shuffles it, and equal values make equal files."""
    with file.open("r+b") as stream:
        length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
        header = json.loads(stream.read(length))
        if "__metadata__" in header:
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) <= length:
            stream.seek(LENGTH_BYTES)
            stream.write(text.ljust(length))


def _plain(t: Tensor, seen: set[int]) -> Tensor:
    """Contiguous, on the host, and alone in its memory."""
    plain = t.detach().resolve_conj().resolve_neg().cpu().contiguous()
    memory = plain.untyped_storage()
    if memory.nbytes() != plain.nbytes or memory.data_ptr() in seen:
        plain = plain.clone()
    seen.add(plain.untyped_storage().data_ptr())
    return plain


# --- files ------------------------------------------------------------------------------------------------------------


def require_file(file: Path) -> None:
    """Refuse what is no readable file.

    Raises:
        FileFormatError: nothing there, a folder, no permission.
    """
    if file.is_dir():
        raise FileFormatError(f"{file}: is a folder. Give the path of a file.")
    if not file.exists():
        raise FileFormatError(f"{file}: no such file. Check the path.")
    if not os.access(file, os.R_OK):
        raise FileFormatError(f"{file}: may not be read. Check its permissions.")


@contextlib.contextmanager
def replacing(path: PathLikeStr) -> Iterator[Path]:
    """A temporary path in the same folder, which takes the name `path` when the block ends without an exception.

    The file that was there stays as it was until then, and for good if the block fails.

    Raises:
        FileFormatError: the folder is not there, `path` is a folder, no permission, no space.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder, "a.txt")) as temporary:
        ...         _ = temporary.write_text("whole")
        ...     [p.name for p in Path(folder).iterdir()]
        ['a.txt']
    """
    file = Path(os.path.realpath(path))
    if file.is_dir():
        raise FileFormatError(f"{path}: is a folder. Give the path of a file in it.")
    if not file.parent.is_dir():
        raise FileFormatError(f"{path}: the folder {file.parent} is not there. Make it first.")
    temporary = file.with_name(f".{file.name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        try:
            temporary.touch(exist_ok=False)
            mode = (file if file.exists() else temporary).stat().st_mode
            yield temporary
            temporary.chmod(stat.S_IMODE(mode))  # some writers make a file of their own, for the owner only
            os.replace(temporary, file)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            raise FileFormatError(
                f"{path}: cannot be written ({reason}). Check the folder's permissions and space."
            ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
