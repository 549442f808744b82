"""Arrays that are not a dense tensor in memory: functions of the indices, sparse coordinates, data read in slabs."""

from tnkit.sources.base import SOURCE_KINDS, Asked, Source, as_bytes, as_source

__all__ = ["SOURCE_KINDS", "Asked", "Source", "as_bytes", "as_source"]
