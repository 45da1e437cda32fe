"""The providers, one module each; a further one is found by itself, here or through an entry point.

A provider's module exports `PROVIDER`, a class of the module's name that satisfies `Plugin`. One outside this
package names its module in the entry point group `marketd.providers`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Protocol

from marketd.errors import ConfigError, ProviderError
from marketd.http_client import Auth
from marketd.provider import Provider

GROUP = "marketd.providers"
_NEEDED = (
    "name",
    "all_sizes",
    "images",
    "currencies",
    "credentials_type",
    "options_type",
    "authorize",
    "classify",
    "fetch",
)


class Plugin(Provider, Protocol):
    """A provider as its module exports it: all that the daemon needs to know about it."""

    def __init__(self, options: Any) -> None:
        """`options` is an instance of `options_type`."""
        ...

    def authorize(self, credentials: Any, *, token_url: str | None, token_file: Path) -> Auth:
        """What proves who we are, from `credentials_type`; a minted token may be kept in the file.

        Raises ValueError when `token_url` is needed and missing; the configuration is then refused.
        """
        ...

    @staticmethod
    def classify(status: int, headers: Mapping[str, str], body: Any) -> ProviderError | None:
        """This provider's own meaning of an answer that is not 2xx; None for the usual one."""
        ...


def discover() -> dict[str, type[Plugin]]:
    """All providers by name. ConfigError for one that cannot be loaded, is not whole, or whose name is taken."""
    found: dict[str, type[Plugin]] = {}
    for name, origin, plugin in _candidates():
        missing = [need for need in _NEEDED if not hasattr(plugin, need)]
        if missing or not isinstance(plugin, type):
            raise ConfigError(
                [f"{origin} must export PROVIDER, a class with {', '.join(missing or _NEEDED)}"]
            )
        given = getattr(plugin, "name", None)
        if given != name:
            raise ConfigError([f"{origin}: PROVIDER.name is {given!r}, the module's name is {name!r}"])
        if name in found:
            raise ConfigError([f"{origin}: there is a provider {name!r} already"])
        found[name] = plugin
    return found


def _candidates() -> Iterator[tuple[str, str, Any]]:
    for info in iter_modules(__path__):
        origin = f"{__name__}.{info.name}"
        yield info.name, origin, getattr(import_module(origin), "PROVIDER", None)
    for entry in entry_points(group=GROUP):
        try:
            loaded = entry.load()
        except (
            Exception
        ) as error:  # someone else's module: whatever it raises, the operator must learn whose it is
            raise ConfigError([f"entry point {entry.value}: {type(error).__name__}: {error}"]) from error
        yield entry.name, f"entry point {entry.value}", getattr(loaded, "PROVIDER", loaded)
