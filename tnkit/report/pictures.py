"""Arrays as pictures: values to grey or colour, PNG bytes, and data URIs for pages that stand alone.

Example:
    >>> import numpy as np
    >>> from tnkit.report.pictures import png, stretched
    >>> png(stretched(np.arange(12.0).reshape(3, 4)))[1:4]
    b'PNG'
"""

from __future__ import annotations

import base64
import io
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from tnkit.errors import ShapeError

__all__ = ["data_uri", "limits", "png", "psnr", "stretched", "with_holes"]

Array: TypeAlias = "np.ndarray[Any, Any]"
HOLE = (0.86, 0.16, 0.46)  # a colour that photographs seldom have


def limits(*arrays: Any, cut: float = 0.02) -> tuple[float, float]:
    """Values to be drawn black and white, for all the arrays alike.

    Args:
        arrays: of any shape; values that are not finite do not count.
        cut: this share of the values is let go at either end, so that a few extreme ones do not darken the rest.

    Returns:
        (low, high) with low < high.
    """
    values = np.concatenate([np.asarray(a, dtype=np.float64).ravel() for a in arrays])
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    low, high = (float(v) for v in np.quantile(values, [cut, 1.0 - cut]))
    return (low, high) if high > low else (low, low + 1.0)


def stretched(image: Any, low: float | None = None, high: float | None = None) -> Array:
    """Values brought to 0 … 1, where `low` is black and `high` is white.

    Args:
        image: (h, w) or (h, w, 3); the real part of complex values is drawn.
        low: black; by default from `limits`.
        high: white; by default from `limits`.

    Returns:
        float64 of the same shape; NaN stays NaN.
    """
    values = np.real(np.asarray(image)).astype(np.float64)
    found = limits(values) if low is None or high is None else (low, high)
    low, high = (found[0] if low is None else low), (found[1] if high is None else high)
    return np.clip((values - low) / (high - low if high > low else 1.0), 0.0, 1.0)


def with_holes(image: Any, observed: Any) -> Array:
    """A picture in which what was not observed has a colour of its own.

    Args:
        image: (h, w) or (h, w, 3) of values 0 … 1.
        observed: (h, w) or (h, w, 3); a pixel counts as observed if any of its channels is.

    Returns:
        (h, w, 3) of values 0 … 1.
    """
    values: Array = np.asarray(image, dtype=np.float64)
    seen: Array = np.asarray(observed, dtype=bool)
    seen = np.any(seen, axis=2) if seen.ndim == 3 else seen
    colour = np.repeat(values[:, :, None], 3, axis=2) if values.ndim == 2 else values
    return np.where(seen[:, :, None], colour, np.asarray(HOLE))


def psnr(image: Any, truth: Any, *, peak: float = 1.0) -> float:
    """Peak signal-to-noise ratio in decibels: 10·log10(peak² / mean squared error).

    Example:
        >>> round(psnr(np.full((2, 2), 0.1), np.zeros((2, 2))), 6)
        20.0
    """
    difference = np.asarray(image, dtype=np.float64) - np.asarray(truth, dtype=np.float64)
    mean = float(np.mean(difference**2))
    return float("inf") if mean == 0 else float(10 * np.log10(peak**2 / mean))


def png(image: Any, *, least_width: int = 0) -> bytes:
    """A PNG file of a picture.

    Args:
        image: (h, w) or (h, w, 3), of values 0 … 1 or of uint8; NaN is drawn as a hole.
        least_width: smaller pictures are enlarged by a whole factor, without smoothing, to at least this width.

    Raises:
        ShapeError: it has another shape.
    """
    values = np.asarray(image)
    if not (values.ndim == 2 or (values.ndim == 3 and values.shape[2] == 3)) or values.size == 0:
        raise ShapeError(f"A picture is (h, w) or (h, w, 3); this array has shape {values.shape}. Take a slice of it.")
    if values.dtype != np.uint8:
        numbers = values.astype(np.float64)
        known = np.isfinite(numbers)
        numbers = with_holes(np.where(known, numbers, 0.0), known) if not known.all() else numbers
        values = np.round(np.clip(numbers, 0.0, 1.0) * 255).astype(np.uint8)
    factor = max(1, -(-least_width // values.shape[1]))
    drawn = Image.fromarray(values)
    if factor > 1:
        drawn = drawn.resize((values.shape[1] * factor, values.shape[0] * factor), Image.Resampling.NEAREST)
    out = io.BytesIO()
    drawn.save(out, format="PNG", optimize=True)
    return out.getvalue()


def data_uri(image: Any, *, least_width: int = 0) -> str:
    """The picture as the `src` of an HTML image that needs no file."""
    return "data:image/png;base64," + base64.b64encode(png(image, least_width=least_width)).decode("ascii")
