"""Public checks of formats, methods and layers, and hypothesis strategies (extra `testing`), for those who add some.

`tnkit.testing.checks` and `tnkit.testing.layers` need only tnkit; `tnkit.testing.strategies` needs hypothesis.
"""

from tnkit.testing.checks import FORMAT_CHECKS, METHOD_CHECKS, check_format, check_method
from tnkit.testing.layers import LAYER_CHECKS, check_layer

__all__ = ["FORMAT_CHECKS", "LAYER_CHECKS", "METHOD_CHECKS", "check_format", "check_layer", "check_method"]
