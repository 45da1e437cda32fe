"""/metrics, /healthz, /readyz and the fallback images on one small HTTP server, inside the daemon's own event loop.

`/healthz` says that the loop turns, nothing else; `/readyz` says whether work would be done, and why not.
Being in the loop is the point: a server in a thread of its own would answer while the daemon hangs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import resources

from aiohttp import web

from marketd.errors import CannotListen

_IMAGES = resources.files("marketd") / "images"

Render = Callable[[str], tuple[bytes, str]]
Reasons = Callable[[], Sequence[str]]


class Admin:
    """Serves from `start` to `stop`. `reasons` tells what keeps the daemon from being ready; empty = ready.

    `render` turns an Accept header into the metrics page and its content type; neither callable may block.
    """

    def __init__(self, host: str, port: int, *, render: Render, reasons: Reasons) -> None:
        self._host = host
        self._port = port
        self._render = render
        self._reasons = reasons
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Binds and serves. Raises CannotListen when the address cannot be had."""
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        # The fallback images that market_catalog names, for apps that have no place of their own for them.
        app.router.add_static("/images/fallback", str(_IMAGES))
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
        except OSError as error:
            await runner.cleanup()
            where = f"{self._host}:{self._port}"
            raise CannotListen(
                f"cannot serve /metrics on {where}: {error.strerror}; is another marketd running? (http.port)"
            ) from error
        self._runner = runner

    async def stop(self) -> None:
        """Stops serving; harmless before `start` and when repeated."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    @property
    def port(self) -> int:
        """The bound port, also when 0 was asked for."""
        if self._runner is None or not self._runner.addresses:
            return self._port
        return int(self._runner.addresses[0][1])

    async def _metrics(self, request: web.Request) -> web.Response:
        body, content_type = self._render(request.headers.get("Accept", ""))
        response = web.Response(body=body, headers={"Content-Type": content_type})
        response.enable_compression()
        return response

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"alive": True})

    async def _readyz(self, _: web.Request) -> web.Response:
        reasons = list(self._reasons())
        return web.json_response({"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200)
