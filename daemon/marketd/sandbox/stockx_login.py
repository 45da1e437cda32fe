"""StockX's login: the browser's way to a refresh token, and the refresh grant (an Auth0 tenant)."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

from aiohttp import web

from marketd.sandbox.face import json_response
from marketd.sandbox.tokens import Tokens, account_of, credentials_of

_SCOPES = {"openid", "offline_access"}
_AUDIENCE = "gateway.stockx.com"
_CODE_LIFE_S = 600.0


class Login:
    """Hands out codes and tokens to the accounts that `credentials` name."""

    def __init__(self, tokens: Tokens, credentials: Mapping[str, str]) -> None:
        self._tokens = tokens
        self._credentials = credentials

    async def authorize(self, request: web.Request) -> web.Response:
        """The browser login. It says yes at once and sends the browser back with a code."""
        asked = request.query
        account = account_of(asked.get("client_id"), self._credentials["client_id"])
        target = asked.get("redirect_uri")
        if account is None or not target or asked.get("response_type") != "code":
            return web.Response(
                status=400, text="Unknown client, no redirect_uri, or response_type not code\n"
            )
        if set(asked.get("scope", "").split()) - _SCOPES or asked.get("audience") != _AUDIENCE:
            return web.Response(status=400, text="Login failed\n")
        code = self._tokens.issue("sandbox-code-", account, scopes=frozenset({target}), life_s=_CODE_LIFE_S)
        back = {"code": code} | ({"state": asked["state"]} if "state" in asked else {})
        joint = "&" if "?" in target else "?"
        return web.Response(status=302, headers={"Location": f"{target}{joint}{urlencode(back)}"})

    async def token(self, request: web.Request) -> web.Response:
        """`refresh_token` and `authorization_code` grants; a refresh token is never rotated."""
        form = {name: str(value) for name, value in (await request.post()).items()}
        account = account_of(form.get("client_id"), self._credentials["client_id"])
        secret = account_of(form.get("client_secret"), self._credentials["client_secret"])
        if account is None or account != secret:
            return refusal(401, "access_denied", "Unauthorized")
        match form.get("grant_type"):
            case "refresh_token":
                return self._refreshed(form, account)
            case "authorization_code":
                return self._exchanged(form, account)
            case "client_credentials":
                text = "Grant type 'client_credentials' not allowed for the client."
                return refusal(403, "unauthorized_client", text)
        return refusal(400, "invalid_request", "Missing or unknown grant_type")

    def _refreshed(self, form: Mapping[str, str], account: str) -> web.Response:
        if form.get("audience") != _AUDIENCE:
            return refusal(400, "invalid_request", f"audience must be {_AUDIENCE}")
        if account_of(form.get("refresh_token"), self._credentials["refresh_token"]) != account:
            return withdrawn()
        return _json(
            {
                "access_token": self._tokens.issue("sandbox-access-", account),
                "expires_in": int(self._tokens.life_s),
                "id_token": "sandbox-id-token",
                "scope": "openid email offline_access",
                "token_type": "Bearer",
            }
        )

    def _exchanged(self, form: Mapping[str, str], account: str) -> web.Response:
        code = self._tokens.redeem(form.get("code"))
        if code is None or code.account != account or form.get("redirect_uri") not in code.scopes:
            return refusal(403, "invalid_grant", "Invalid authorization code")
        return _json(
            {
                "access_token": self._tokens.issue("sandbox-access-", account),
                "refresh_token": credentials_of(self._credentials, account)["refresh_token"],
                "id_token": "sandbox-id-token",
                "token_type": "Bearer",
            }
        )


def withdrawn() -> web.Response:
    """The answer to a refresh token that needs a new login. Status and text are Auth0's usual ones."""
    return refusal(403, "invalid_grant", "Unknown or invalid refresh token.")


def refusal(status: int, error: str, description: str) -> web.Response:
    return _json({"error": error, "error_description": description}, status)


def _json(body: Mapping[str, object], status: int = 200) -> web.Response:
    return json_response(body, status, content_type="application/json; charset=utf-8")
