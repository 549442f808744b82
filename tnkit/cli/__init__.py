"""The command line: `tnkit decompose | info | reconstruct | complete | compress`."""

from tnkit.cli.app import app, main

__all__ = ["app", "main"]
