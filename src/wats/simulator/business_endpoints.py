"""Graph's endpoints of templates, flows and the business profile over HTTP."""

from collections.abc import Mapping
from http import HTTPMethod
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import BodyPartReader, MultipartReader, web

from wats.simulator.faults import invalid, missing_object
from wats.simulator.groups import page_of
from wats.simulator.messages import read_json
from wats.simulator.world import World

_MAX_TEMPLATES: Final = 250


async def open_form(request: web.Request) -> MultipartReader:
    """Return the parts of the form in *request*.

    Raises:
        GraphFault: Its body is not a form.
    """
    if not request.content_type.startswith("multipart/"):
        raise invalid("The body must be a form.")
    return await request.multipart()


class BusinessEndpoints:
    """The endpoints, which query one `World`."""

    def __init__(self, world: World) -> None:
        self._world = world

    def routes(self, version: str) -> list[web.RouteDef]:
        """Return the routes below the pattern of a *version*."""
        account, flow = version + "/{account}", version + "/{flow}"
        return [
            web.route("*", account + "/message_templates", self.templates),
            web.route("*", account + "/flows", self.flows),
            web.route("*", flow + "/assets", self.assets),
            web.post(flow + "/publish", self.publish),
            web.post(flow + "/deprecate", self.deprecate),
            web.route("*", version + "/{number}/whatsapp_business_profile", self.profile),
        ]

    async def templates(self, request: web.Request) -> web.StreamResponse:
        """List, create or delete templates."""
        self._check("account", request, self._world.settings.waba_id)
        objects = self._world.business
        if request.method == HTTPMethod.POST:
            return web.json_response(objects.create_template(read_json(await request.read())))
        if request.method == HTTPMethod.DELETE:
            return web.json_response(objects.delete_templates(request.query))
        listed = objects.templates(request.query)
        summary = {
            "total_count": len(listed),
            "message_template_count": len(listed),
            "message_template_limit": _MAX_TEMPLATES,
            "are_translations_complete": True,
        }
        return web.json_response({**_page(request, listed), "summary": summary})

    async def flows(self, request: web.Request) -> web.StreamResponse:
        """List or create flows."""
        self._check("account", request, self._world.settings.waba_id)
        objects = self._world.business
        if request.method == HTTPMethod.POST:
            return web.json_response(objects.create_flow(read_json(await request.read())))
        return web.json_response(_page(request, objects.flows()))

    async def assets(self, request: web.Request) -> web.StreamResponse:
        """List the files of a flow, or change its content by a form."""
        objects, flow_id = self._world.business, request.match_info["flow"]
        if request.method == HTTPMethod.GET:
            origin = str(request.url.origin())
            return web.json_response(_page(request, objects.assets(flow_id, origin)))
        content: str | None = None
        async for part in await open_form(request):
            if isinstance(part, BodyPartReader) and part.name == "file":
                content = bytes(await part.read()).decode(errors="replace")
        if content is None:
            raise invalid("The parameter file is required.")
        return web.json_response(objects.set_flow_json(flow_id, content))

    async def publish(self, request: web.Request) -> web.StreamResponse:
        """Publish a flow."""
        return web.json_response(self._world.business.publish(request.match_info["flow"]))

    async def deprecate(self, request: web.Request) -> web.StreamResponse:
        """Deprecate a flow."""
        return web.json_response(self._world.business.deprecate(request.match_info["flow"]))

    async def profile(self, request: web.Request) -> web.StreamResponse:
        """Read or change the business profile."""
        self._check("number", request, self._world.settings.phone_number_id)
        objects = self._world.business
        if request.method == HTTPMethod.POST:
            return web.json_response(objects.set_profile(read_json(await request.read())))
        return web.json_response(objects.profile())

    async def one(self, request: web.Request, object_id: str) -> web.StreamResponse:
        """Read, change or delete a template or a flow."""
        objects = self._world.business
        match request.method:
            case HTTPMethod.GET:
                return web.json_response(objects.get(object_id))
            case HTTPMethod.POST:
                payload = read_json(await request.read())
                return web.json_response(objects.update(object_id, payload))
            case HTTPMethod.DELETE:
                return web.json_response(objects.delete(object_id))
            case _:
                raise invalid("Unsupported method.")

    def _check(self, name: str, request: web.Request, wanted: str) -> None:
        if request.match_info[name] != wanted:
            raise missing_object()


def _page(request: web.Request, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a page of *rows*, and a link to the next one, which has the access token as Meta's."""
    page, paging = page_of(rows, request.query)
    end = int(paging["cursors"]["after"])
    if end < len(rows):
        kept: Mapping[str, str] = {**request.query, "after": str(end)}
        token = request.headers["authorization"].partition(" ")[2]
        url = request.url.with_query(None)
        paging["next"] = f"{url}?{urlencode({'access_token': token, **kept})}"
    return {"data": page, "paging": paging}
