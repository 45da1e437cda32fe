"""How the nouns that every fetch makes by the dozen are declared: immutable to the type checker, cheap to make."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """A dataclass by keywords whose fields nobody assigns: mypy, which reads every line, refuses it.

    `frozen=True` would refuse it at run time as well, and make each of them cost more than twice as much.
    """
    return dataclass(slots=True, kw_only=True, unsafe_hash=True)(cls)
