"""The providers of the sandbox, one module each; a further module with `FACE` is found by itself."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from marketd.sandbox.face import Face


def discover() -> dict[str, type[Face]]:
    """All faces by name. TypeError when a module has none, or one under another name."""
    found: dict[str, type[Face]] = {}
    for info in iter_modules(__path__):
        face = getattr(import_module(f"{__name__}.{info.name}"), "FACE", None)
        if not (isinstance(face, type) and issubclass(face, Face) and face.name == info.name):
            raise TypeError(f"{__name__}.{info.name} must export FACE, a Face named {info.name!r}")
        found[info.name] = face
    return found
