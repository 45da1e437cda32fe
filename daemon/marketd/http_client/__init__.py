"""The only user of an HTTP client: one wire request per grant, charged before it leaves, told afterwards.

`open_session` makes the connection pool of the process, `ProviderHttp` is what one fetch asks a provider
through. What comes back is JSON that can be trusted to be JSON, or one error of `marketd.errors`.
"""

from marketd.http_client.answers import STATUS_CLASSES, Classify
from marketd.http_client.door import Auth, Door, ProviderHttp, Request, Send
from marketd.http_client.pacer import Pacer
from marketd.http_client.session import open_session

__all__ = [
    "STATUS_CLASSES",
    "Auth",
    "Classify",
    "Door",
    "Pacer",
    "ProviderHttp",
    "Request",
    "Send",
    "open_session",
]
