"""The control endpoints: requests of tests and local users to the simulator over HTTP."""

import ipaddress
import re
import secrets
from typing import Any, Final

from aiohttp import web

from wats.simulator.faults import GraphFault
from wats.simulator.graph import CONTROL_PREFIX, Handler
from wats.simulator.messages import read_json
from wats.simulator.world import World

DEFAULT_NAME: Final = "Test Person"
MAX_INBOUND: Final = 100_000
DEFAULT_PAGE: Final = 100
_NUMBER: Final = re.compile("[0-9]{1,15}")


def is_local(peer: str | None) -> bool:
    """Return whether *peer* is an address of this machine's loopback."""
    try:
        address = ipaddress.ip_address(peer or "")
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


class ControlEndpoints:
    """The endpoints under `/_simulator/`, for peers on loopback only."""

    def __init__(self, world: World) -> None:
        self._world = world

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get(CONTROL_PREFIX + "state", self.state),
            web.get(CONTROL_PREFIX + "messages", self.messages),
            web.post(CONTROL_PREFIX + "inbound", self.inbound),
            web.post(CONTROL_PREFIX + "webhook", self.webhook),
            web.post(CONTROL_PREFIX + "join", self.join),
        ]

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse remote clients, and pages in a browser on this machine."""
        if not request.path.startswith(CONTROL_PREFIX):
            return await handler(request)
        # A page whose name leads to this machine is of the same origin, but its name shows.
        is_named = request.url.host == "localhost" or is_local(request.url.host)
        if not (is_local(request.remote) and is_named) or "origin" in request.headers:
            return web.json_response({"error": "Only for this machine."}, status=403)
        try:
            return await handler(request)
        except GraphFault as fault:
            return web.json_response({"error": fault.details}, status=400)

    async def state(self, _request: web.Request) -> web.StreamResponse:
        """Return the counts."""
        return web.json_response(self._world.state())

    async def messages(self, request: web.Request) -> web.StreamResponse:
        """Return the messages on the phones of all customers, the newest last: `after`, `limit`."""
        query = request.query
        numbers = {key: int(value) for key, value in query.items() if _NUMBER.fullmatch(value)}
        if numbers.keys() != set(query) or not numbers.keys() <= {"after", "limit"}:
            return _refuse("'after' must be a cursor, and 'limit' a number; there is no other.")
        page = self._world.phone.page(numbers.get("after"), numbers.get("limit", DEFAULT_PAGE))
        cursor = page[-1].cursor if page else numbers.get("after", 0)
        messages = [each.as_json() for each in page]
        return web.json_response({"messages": messages, "cursor": cursor})

    async def inbound(self, request: web.Request) -> web.StreamResponse:
        """Send a message as a customer: `{from, text | message, …}`.

        Optional are `name`, `count`, `group_id`, and `number`: the phone number id of the business
        number, if it is not the default number.
        """
        wish = read_json(await request.read())
        count = wish.get("count", 1)
        content = wish.get("message", {"type": "text", "text": {"body": wish.get("text")}})
        if not isinstance(content, dict) or ("message" not in wish and not _text(wish, "text")):
            return _refuse("Give 'text' or 'message'.")
        if not isinstance(count, int) or not 1 <= count <= MAX_INBOUND:
            return _refuse(f"'count' must be 1 to {MAX_INBOUND}.")
        sender, group_id = _text(wish, "from"), _text(wish, "group_id")
        if not sender:
            return _refuse("Give 'from'.")
        name = _text(wish, "name") or DEFAULT_NAME
        number = _text(wish, "number") or ""
        ids = self._world.inbound(
            sender, content, name=name, count=count, group_id=group_id, number=number
        )
        return web.json_response({"ids": ids})

    async def webhook(self, request: web.Request) -> web.StreamResponse:
        """Set the webhook URL: `{url, verify?}`; verified only if `verify` is true."""
        wish = read_json(await request.read())
        url = _text(wish, "url")
        if url is not None and not url.startswith(("http://", "https://")):
            return _refuse("'url' must be an http(s) URL, or null.")
        self._world.courier.webhook_url = url
        if wish.get("verify") is not True:
            return web.json_response({"verified": None})
        verified = await self._world.courier.verify(secrets.token_hex(8))
        return web.json_response({"verified": verified})

    async def join(self, request: web.Request) -> web.StreamResponse:
        """Follow a group's invite link as a participant: `{group_id, from}`."""
        wish = read_json(await request.read())
        group_id, wa_id = _text(wish, "group_id"), _text(wish, "from")
        if not group_id or not wa_id:
            return _refuse("Give 'group_id' and 'from'.")
        self._world.join(group_id, wa_id)
        return web.json_response({})


def _text(wish: dict[str, Any], key: str) -> str | None:
    value = wish.get(key)
    return value if isinstance(value, str) and value else None


def _refuse(reason: str) -> web.Response:
    return web.json_response({"error": reason}, status=400)
