"""Graph's endpoints over HTTP: messages, media, groups and the business number."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPMethod
from typing import Any, Final, TypeAlias

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from wats.outbound.media import MAX_FILE_BYTES
from wats.simulator.business_endpoints import BusinessEndpoints, open_form
from wats.simulator.faults import GraphFault, invalid, missing_object
from wats.simulator.groups import Outcome
from wats.simulator.messages import (
    Addressee,
    check_marketing_message,
    check_message,
    check_product,
    read_json,
    with_decoded_content,
)
from wats.simulator.recipients import Behavior, Refusal, ResponseForm
from wats.simulator.settings import AcceptedMessage, SimulatedNumber
from wats.simulator.world import World

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

CHUNK_BYTES: Final = 64 * 1024
CONTROL_PREFIX: Final = "/_simulator/"
_VERSION: Final = r"/{version:v\d+(?:\.\d+)?}"
_PAGE: Final = "<!DOCTYPE html><html><title>Error</title><body>Try again later.</body></html>"
_BROKEN: Final = '{"messaging_product":"whatsapp","messages":[{"id":"wamid.'


async def read_part(part: BodyPartReader) -> bytes:
    """Return the content of *part*.

    Raises:
        GraphFault: It is larger than any file of Meta.
    """
    content = bytearray()
    while chunk := await part.read_chunk(CHUNK_BYTES):
        content += chunk
        if len(content) > MAX_FILE_BYTES:
            raise GraphFault(400, 131053)
    return bytes(content)


class GraphEndpoints:
    """The endpoints, which query one `World`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._business = BusinessEndpoints(world)

    def routes(self) -> list[web.RouteDef]:
        """Return the routes; the one for a lone id is last."""
        number, group = _VERSION + "/{number}", _VERSION + "/{group}"
        return [
            web.post(number + "/messages", self.messages),
            web.post(number + "/marketing_messages", self.marketing_messages),
            web.post(number + "/media", self.upload),
            web.get("/_media/{media}", self.download),
            web.post(number + "/groups", self.create_group),
            web.get(number + "/groups", self.list_groups),
            web.route("*", group + "/invite_link", self.invite_link),
            web.route("*", group + "/join_requests", self.join_requests),
            web.delete(group + "/participants", self.remove_participants),
            *self._business.routes(_VERSION),
            web.get(_VERSION + "/debug_token", self.debug_token),
            web.get(_VERSION + "/{account}/subscribed_apps", self.subscribed_apps),
            web.route("*", group, self.group),
        ]

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count and authenticate requests, and turn every failure into Graph's response."""
        if request.path.startswith(CONTROL_PREFIX):
            return await handler(request)
        self._world.counts.requests += 1
        try:
            self._authenticate(request)
            return await handler(request)
        except GraphFault as fault:
            return self._refuse(fault)
        except (ValueError, HttpProcessingError):  # of a form that cannot be read
            return self._refuse(invalid("The body is invalid."))
        except web.HTTPException:
            return self._refuse(GraphFault(400, 2500, details="Unknown path components."))

    async def messages(self, request: web.Request) -> web.StreamResponse:
        """Accept a message, or mark one as read."""
        self._check_number(request)
        payload = read_json(await request.read())
        check_product(payload)
        if payload.get("status") == "read":
            message_id, is_typing = payload.get("message_id"), "typing_indicator" in payload
            if not isinstance(message_id, str):
                raise invalid("The parameter message_id is required.")
            number = request.match_info["number"]
            self._world.mark_read(number, message_id, is_typing=is_typing)
            return web.json_response({"success": True})
        return await self._send(request, payload)

    async def marketing_messages(self, request: web.Request) -> web.StreamResponse:
        """Accept a marketing template."""
        self._check_number(request)
        payload = read_json(await request.read())
        check_product(payload)
        check_marketing_message(payload)
        return await self._send(request, payload, message_status="accepted")

    async def _send(
        self, request: web.Request, payload: dict[str, Any], **state: str
    ) -> web.StreamResponse:
        """Send *payload* as its recipient demands; *state* is a part of Graph's response."""
        payload = with_decoded_content(payload)
        addressee = check_message(payload, self._world.groups)
        number = request.match_info["number"]
        self._world.check_limits(addressee, number)
        behavior = self._world.behavior_of(addressee)
        if behavior.refusal is not None:
            return self._refuse_recipient(behavior.refusal, addressee)
        if behavior.answer is ResponseForm.CUT:
            return _cut(request)
        message = self._world.accept(payload, addressee, behavior, number)
        statuses = self._world.statuses_of(message, addressee, behavior)
        if behavior.answer is ResponseForm.AFTER_THE_STATUS:
            await self._world.courier.deliver_now(statuses[:1])
            statuses = statuses[1:]
        self._world.schedule(statuses)
        return await self._answer(request, message, addressee, behavior, state)

    async def upload(self, request: web.Request) -> web.StreamResponse:
        """Store the file of a form."""
        self._check_number(request)
        fields = dict(request.query)
        content = b""
        async for part in await open_form(request):
            if not isinstance(part, BodyPartReader):
                raise invalid("The form must not be nested.")
            data = await read_part(part)
            if part.name == "file":
                fields.setdefault("type", part.headers.get("content-type", ""))
                content = data
            else:
                fields[part.name or ""] = data.decode(errors="replace")
        check_product(fields)
        number = request.match_info["number"]
        media_id = self._world.media.add(content, fields.get("type", ""), number)
        self._world.counts.uploads += 1
        return web.json_response({"id": media_id})

    async def download(self, request: web.Request) -> web.StreamResponse:
        """Return the content of a file."""
        found = self._world.media.open(request.match_info["media"], request.query.get("ticket", ""))
        return web.Response(body=found.content, content_type=found.mime_type)

    def _media(self, request: web.Request) -> web.Response:
        media, media_id = self._world.media, request.match_info["group"]
        media.check_owner(media_id, request.query.get("phone_number_id"))
        match request.method:
            case HTTPMethod.GET:
                return web.json_response(media.describe(media_id, str(request.url.origin())))
            case HTTPMethod.DELETE:
                return web.json_response(media.delete(media_id))
            case _:
                raise invalid("Unsupported method.")

    async def debug_token(self, request: web.Request) -> web.StreamResponse:
        """Describe the access token in `input_token`."""
        settings, token = self._world.settings, request.query.get("input_token", "")
        if not settings.accepts(token) and settings.access_token is not None:
            return web.json_response({"data": {"is_valid": False, "scopes": []}})
        data = {
            "app_id": settings.app_id,
            "type": settings.token_type,
            "is_valid": True,
            "expires_at": settings.token_expires_at,
            "scopes": settings.token_scopes,
        }
        return web.json_response({"data": data})

    async def subscribed_apps(self, request: web.Request) -> web.StreamResponse:
        """List the apps that get the webhooks of the account."""
        settings = self._world.settings
        if request.match_info["account"] not in settings.waba_ids:
            raise missing_object()
        app = {"whatsapp_business_api_data": {"id": settings.app_id, "name": "Simulated app"}}
        return web.json_response({"data": [app] if settings.is_subscribed else []})

    def _number(self, found: SimulatedNumber) -> web.StreamResponse:
        settings = self._world.settings
        number: dict[str, object] = {
            "id": found.phone_number_id,
            "display_phone_number": found.display_phone_number,
            "status": settings.number_status,
        }
        if (url := self._world.courier.webhook_url) is not None:
            number["webhook_configuration"] = {"application": url}
        return web.json_response(number)

    async def create_group(self, request: web.Request) -> web.StreamResponse:
        """Create a group."""
        self._check_number(request)
        payload = read_json(await request.read())
        check_product(payload)
        return self._later(self._world.groups.create(payload))

    async def list_groups(self, request: web.Request) -> web.StreamResponse:
        """List the groups."""
        self._check_number(request)
        return web.json_response(self._world.groups.page(request.query))

    async def group(self, request: web.Request) -> web.StreamResponse:
        """Read, change or delete a group, file, template or flow; or read the business number."""
        if request.match_info["group"] in self._world.media:
            return self._media(request)
        if request.match_info["group"] in self._world.business:
            return await self._business.one(request, request.match_info["group"])
        groups, group_id = self._world.groups, request.match_info["group"]
        number = self._world.settings.number(group_id)
        if number is not None and request.method == HTTPMethod.GET:
            return self._number(number)
        match request.method:
            case HTTPMethod.GET:
                return web.json_response(groups.get(group_id, request.query.get("fields")))
            case HTTPMethod.POST:
                payload = read_json(await request.read())
                check_product(payload)
                return self._later(groups.update(group_id, payload))
            case HTTPMethod.DELETE:
                return self._later(groups.delete(group_id))
            case _:
                raise invalid("Unsupported method.")

    async def invite_link(self, request: web.Request) -> web.StreamResponse:
        """Read or reset the invite link."""
        group_id, reset = request.match_info["group"], request.method == HTTPMethod.POST
        if reset:
            check_product(read_json(await request.read()))
        return web.json_response(self._world.groups.invite_link(group_id, reset=reset))

    async def join_requests(self, request: web.Request) -> web.StreamResponse:
        """List, approve or reject join requests."""
        groups, group_id = self._world.groups, request.match_info["group"]
        if request.method == HTTPMethod.GET:
            return web.json_response(groups.list_join_requests(group_id, request.query))
        payload = read_json(await request.read())
        check_product(payload)
        approve = request.method == HTTPMethod.POST
        return self._later(groups.decide(group_id, payload, approve=approve))

    async def remove_participants(self, request: web.Request) -> web.StreamResponse:
        """Remove people from a group."""
        payload = read_json(await request.read())
        check_product(payload)
        return self._later(self._world.groups.remove(request.match_info["group"], payload))

    def _authenticate(self, request: web.Request) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        settings, match = self._world.settings, request.match_info
        object_id = match.get("number") or match.get("group") or ""
        number = object_id if settings.number(object_id) is not None else None
        if scheme.lower() != "bearer" or not settings.accepts(token, number):
            raise GraphFault(401, 190, details="The access token is invalid.")

    def _check_number(self, request: web.Request) -> None:
        if self._world.settings.number(request.match_info["number"]) is None:
            raise missing_object()

    def _refuse_recipient(self, refusal: Refusal, addressee: Addressee) -> web.Response:
        if refusal.code is None:
            self._world.counts.refusals += 1
            return web.Response(status=refusal.status, text=_PAGE, content_type="text/html")
        return self._refuse(
            GraphFault(
                refusal.status,
                refusal.code,
                subcode=refusal.subcode,
                type_=refusal.type,
                # Meta's texts may quote people; a gateway that passes them on fails here.
                details=f"Made up by the simulator for {addressee.input}.",
                retry_after=refusal.retry_after,
            )
        )

    def _refuse(self, fault: GraphFault) -> web.Response:
        self._world.counts.refusals += 1
        headers = {"retry-after": fault.retry_after} if fault.retry_after is not None else {}
        return web.json_response(fault.payload(), status=fault.status, headers=headers)

    def _later(self, outcome: Outcome) -> web.Response:
        answer, parts = outcome
        self._world.schedule(parts)
        return web.json_response(answer)

    async def _answer(
        self,
        request: web.Request,
        message: AcceptedMessage,
        addressee: Addressee,
        behavior: Behavior,
        state: Mapping[str, str],
    ) -> web.Response:
        if behavior.answer is ResponseForm.CUT_AFTER_ACCEPTING:
            return _cut(request)
        if behavior.answer is ResponseForm.BROKEN_JSON:
            return web.Response(text=_BROKEN, content_type="application/json")
        settings = self._world.settings
        is_slow = behavior.answer is ResponseForm.SLOW
        await asyncio.sleep(
            settings.slow_answer_seconds if is_slow else settings.answer_delay_seconds
        )
        return web.json_response(
            {
                "messaging_product": "whatsapp",
                "contacts": [addressee.contact()],
                "messages": [{"id": message.wamid, **state}],
            }
        )


def _cut(request: web.Request) -> web.Response:
    if request.transport is not None:  # pragma: no branch  # only if the peer hung up first
        request.transport.abort()
    return web.Response()
