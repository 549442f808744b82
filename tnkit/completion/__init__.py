"""Completion of arrays that are observed in part."""

__all__: list[str] = []
