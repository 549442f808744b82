"""Models that do not fit in memory: read tensor by tensor from their files, written shard by shard."""

from tnkit.nn.large.compress_files import compress_files
from tnkit.nn.large.paging import paged
from tnkit.nn.large.tensor_files import ShardWriter, TensorFiles

__all__ = ["ShardWriter", "TensorFiles", "compress_files", "paged"]
