"""Optional packages: conversions to and from their objects, and what they provide to tnkit.

Nothing here is imported with tnkit; each module is imported by name, when its package is wanted:
`from tnkit.interop.tensorly import to_tensorly`, `import tnkit.interop.cotengra`.
"""

__all__: list[str] = []
