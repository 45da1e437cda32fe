"""A real HTTP server that behaves as StockX, Alias and eBay do; see `Sandbox`."""

from marketd.sandbox.face import Truth
from marketd.sandbox.faults import KINDS, Fault
from marketd.sandbox.limits import Limits
from marketd.sandbox.server import Sandbox
from marketd.sandbox.wire import Request

__all__ = ["KINDS", "Fault", "Limits", "Request", "Sandbox", "Truth"]
