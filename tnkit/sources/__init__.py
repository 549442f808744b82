"""Arrays that are not a dense tensor in memory: functions of the indices, sparse coordinates, data read in slabs."""

from tnkit.sources.base import SOURCE_KINDS, Asked, Source, as_bytes, as_source
from tnkit.sources.entries import Entries
from tnkit.sources.slabs import Slabs
from tnkit.sources.sparse import SparseTensor

__all__ = ["SOURCE_KINDS", "Asked", "Entries", "Slabs", "Source", "SparseTensor", "as_bytes", "as_source"]
