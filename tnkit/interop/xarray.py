"""xarray: after `import tnkit.interop.xarray`, every front door takes a DataArray and gives dense answers back as one.

Names of dimensions, coordinates, attributes and the array's own name stay, wherever the answer has the same shape.

Example:
    >>> import numpy as np, xarray
    >>> import tnkit.interop.xarray
    >>> from tnkit.arrays import as_tensor
    >>> incoming = as_tensor(xarray.DataArray(np.ones((2, 3)), dims=("time", "place")))
    >>> incoming.back(incoming.tensor).dims
    ('time', 'place')
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tnkit.arrays import ARRAY_KINDS, to_numpy
from tnkit.errors import MissingExtraError

try:
    import xarray
except ImportError as error:
    raise MissingExtraError("xarray is not installed. Install it with: pip install 'tnkit[interop]'.") from error

__all__ = ["read_dataarray"]


def read_dataarray(x: Any) -> tuple[np.ndarray[Any, Any], Callable[[Any], Any]] | None:
    """The reader that is registered in `tnkit.arrays.ARRAY_KINDS`.

    Args:
        x: anything.

    Returns:
        The values (of a dask array, computed) and the way back, or None if `x` is no DataArray.
    """
    if not isinstance(x, xarray.DataArray):
        return None

    def back(array: Any) -> Any:
        values = to_numpy(array) if isinstance(array, torch.Tensor) else np.asarray(array)
        return x.copy(data=values) if values.shape == x.shape else xarray.DataArray(values)

    return x.values, back


ARRAY_KINDS.register("xarray", read_dataarray)
