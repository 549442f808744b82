"""tnkit is imported before pytest collects its doctests: a module that is collected first would run twice."""

import tnkit  # noqa: F401
