"""Safetensors files, and files of any kind written by renaming.

A file is written under a temporary name in the same folder and renamed, so an interrupted write leaves the old file or
none. What cannot be read is refused with `FileFormatError`, which says what was found and what to do.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tnkit.errors import DTypeError, FileFormatError

__all__ = ["KIND", "PathLikeStr", "read_safetensors", "replacing", "require_file", "require_place", "write_safetensors"]

PathLikeStr: TypeAlias = "str | PathLike[str]"

#: The metadata key of files that hold more than plain tensors; its value says what.
KIND = "tnkit"
LENGTH_BYTES = 8
MAX_HEADER = 100_000_000


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


def require_place(path: PathLikeStr) -> Path:
    """The file that a path names, of a folder that is there; before any work whose result is to be written to it.

    Raises:
        FileFormatError: the folder is not there, or `path` is a folder.
    """
    file = Path(os.path.realpath(path))
    if file.is_dir():
        raise FileFormatError(f"{path}: is a folder. Give the path of a file in it.")
    if not file.parent.is_dir():
        raise FileFormatError(f"{path}: the folder {file.parent} is not there. Make it first.")
    return file


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
    file = require_place(path)
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
