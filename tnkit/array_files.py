"""Array files: .npy, .npz, .safetensors and images, read without pickle and written by renaming.

What cannot be read is refused with `FileFormatError`, which says what was found and what to do. `import tnkit` does not
load this module, which brings in the image library.

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
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageSequence, UnidentifiedImageError
from torch import Tensor

from tnkit.arrays import as_tensor, to_numpy
from tnkit.errors import DTypeError, FileFormatError, UnknownNameError
from tnkit.files import KIND, PathLikeStr, read_safetensors, replacing, require_file, write_safetensors

__all__ = ["ARRAY_SUFFIXES", "IMAGE_SUFFIXES", "read_array", "write_array"]

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"
Reader: TypeAlias = "Callable[[Path, str | None], NumPyArray]"

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
#: Suffixes that `read_array` and `write_array` know.
ARRAY_SUFFIXES = (".npy", ".npz", ".safetensors", *IMAGE_SUFFIXES)


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
