"""Public checks of formats and methods, and hypothesis strategies (extra `testing`), for those who write their own.

`tnkit.testing.checks` needs nothing more than tnkit; `tnkit.testing.strategies` needs hypothesis.
"""

from tnkit.testing.checks import FORMAT_CHECKS, METHOD_CHECKS, check_format, check_method

__all__ = ["FORMAT_CHECKS", "METHOD_CHECKS", "check_format", "check_method"]
