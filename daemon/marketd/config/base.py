"""What every part of the schema is made of: the frozen base, checked scalars, addresses."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError


class Model(BaseModel):
    """A frozen part of the configuration that knows no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


def fault(reason: str) -> PydanticCustomError:
    """An error about several keys, or about a value not to be shown."""
    return PydanticCustomError("marketd", "{reason}", {"reason": reason})


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


def is_loopback(address: str) -> bool:
    """Whether the host of a URL is this machine: `localhost`, 127.0.0.0/8 or ::1."""
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _address(value: str) -> str:
    """An http(s) address without its trailing slash; its text is never shown if it may hold a password."""
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise fault("expected an address such as https://api.example.com/v1") from None
    if "@" in value:
        raise fault("an address must hold no user name or password; use credentials")
    if parts.scheme not in ("https", "http") or not host or any(c.isspace() for c in value):
        raise ValueError("expected an address such as https://api.example.com/v1")
    if parts.query or parts.fragment:
        raise fault("expected an address without ? and #")
    if parts.scheme == "http" and not is_loopback(value):
        raise ValueError("expected https; plain http is for this machine only (localhost, 127.0.0.0/8, ::1)")
    return value.rstrip("/")


Int = Annotated[int, BeforeValidator(_no_bool)]
Number = Annotated[float, BeforeValidator(_no_bool)]
Address = Annotated[str, AfterValidator(_address)]
