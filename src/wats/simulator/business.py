"""The templates, flows and profile of the simulated account, in memory. No I/O."""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from wats.simulator.faults import GraphFault, invalid, missing_object

MAX_OBJECTS: Final = 10_000
"""The limit of templates, and that of flows."""

_TEMPLATE_NAME: Final = re.compile("[a-z0-9_]{1,512}")
_CATEGORIES: Final = ("AUTHENTICATION", "MARKETING", "UTILITY")
_TEMPLATE_FILTERS: Final = ("name", "language", "status", "category")
_TEMPLATE_CHANGES: Final = (
    *("category", "components", "message_send_ttl_seconds", "parameter_format"),
)
_PROFILE: Final = ("about", "address", "description", "email", "vertical", "websites")
_EXISTS: Final = 2388024
_MISSING_TEMPLATE: Final = 2593002
_UPDATED_AT: Final = "2026-01-01T00:00:00+0000"


@dataclass(slots=True)
class Flow:
    """A flow; *json* is its content, if it has any."""

    name: str
    categories: list[str]
    status: str = "DRAFT"
    json: str | None = field(default=None, repr=False)
    endpoint_uri: str | None = None


class BusinessObjects:
    """Every operation of templates, flows and the business profile."""

    def __init__(self) -> None:
        self._templates: dict[str, dict[str, Any]] = {}
        self._flows: dict[str, Flow] = {}
        self._profile: dict[str, Any] = {"messaging_product": "whatsapp", "vertical": "OTHER"}

    def __contains__(self, object_id: object) -> bool:
        return object_id in self._templates or object_id in self._flows

    def get(self, object_id: str) -> dict[str, Any]:
        """Return a template or a flow."""
        if object_id in self._templates:
            return self._templates[object_id]
        return _shown(object_id, self._flow(object_id))

    def update(self, object_id: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Change a template or a flow."""
        template = self._templates.get(object_id)
        if template is not None:
            template.update({key: payload[key] for key in _TEMPLATE_CHANGES if key in payload})
            names = ("id", "name", "category")
            return {"success": True, **{name: template[name] for name in names}}
        flow = self._flow(object_id)
        flow.name = str(payload.get("name", flow.name))
        flow.categories = _categories(payload.get("categories", flow.categories))
        return {"success": True}

    def delete(self, object_id: str) -> dict[str, Any]:
        """Delete a flow that is a draft; a template is deleted by its name."""
        if self._flow(object_id).status != "DRAFT":
            raise GraphFault(400, 139004)
        del self._flows[object_id]
        return {"success": True}

    def create_template(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Create a template, which is approved immediately."""
        name, language, category = (payload.get(key) for key in ("name", "language", "category"))
        if not isinstance(name, str) or _TEMPLATE_NAME.fullmatch(name) is None:
            raise invalid("The parameter name is invalid.")
        if category not in _CATEGORIES or not isinstance(language, str):
            raise invalid("The parameters category and language are required.")
        if not isinstance(payload.get("components"), list):
            raise invalid("The parameter components is required.")
        present = {(each["name"], each["language"]) for each in self._templates.values()}
        if (name, language) in present:
            raise GraphFault(400, 100, subcode=_EXISTS)
        template_id = _new_id(self._templates)
        self._templates[template_id] = {
            "parameter_format": "POSITIONAL",
            **payload,
            "id": template_id,
            "status": "APPROVED",
        }
        return {name: self._templates[template_id][name] for name in ("id", "status", "category")}

    def templates(self, query: Mapping[str, str]) -> list[dict[str, Any]]:
        """Return the templates that *query* selects."""
        wanted = {name: query[name].split(",") for name in _TEMPLATE_FILTERS if name in query}
        return [
            each
            for each in self._templates.values()
            if all(each[name] in values for name, values in wanted.items())
        ]

    def delete_templates(self, query: Mapping[str, str]) -> dict[str, Any]:
        """Delete the templates of a name, or one of them by its id."""
        found = [
            template_id
            for template_id, each in self._templates.items()
            if each["name"] == query.get("name") and query.get("hsm_id") in (None, template_id)
        ]
        if not found:
            raise GraphFault(400, 100, subcode=_MISSING_TEMPLATE)
        for template_id in found:
            del self._templates[template_id]
        return {"success": True}

    def create_flow(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Create a flow, and publish it if the request demands that."""
        name, content = payload.get("name"), payload.get("flow_json")
        if not isinstance(name, str) or not name:
            raise invalid("The parameter name is required.")
        flow_id = _new_id(self._flows)
        flow = Flow(name, _categories(payload.get("categories")), json=content)
        flow.endpoint_uri = payload.get("endpoint_uri")
        self._flows[flow_id] = flow
        if payload.get("publish"):
            self.publish(flow_id)
        return {"id": flow_id, "success": True, "validation_errors": []}

    def flows(self) -> list[dict[str, Any]]:
        """Return all flows."""
        return [_shown(flow_id, flow) for flow_id, flow in self._flows.items()]

    def set_flow_json(self, flow_id: str, content: str) -> dict[str, Any]:
        """Change the content of a flow that is not published."""
        flow = self._flow(flow_id)
        if flow.status != "DRAFT":
            raise GraphFault(400, 139001)
        flow.json = content
        return {"success": True, "validation_errors": []}

    def assets(self, flow_id: str, base_url: str) -> list[dict[str, Any]]:
        """Return the files of a flow; their address below *base_url* serves nothing."""
        if self._flow(flow_id).json is None:
            return []
        asset = {"name": "flow.json", "asset_type": "FLOW_JSON"}
        return [{**asset, "download_url": f"{base_url}/_assets/{flow_id}"}]

    def publish(self, flow_id: str) -> dict[str, Any]:
        """Publish a draft that has content."""
        flow = self._flow(flow_id)
        if flow.status != "DRAFT" or flow.json is None:
            raise GraphFault(400, 139002)
        flow.status = "PUBLISHED"
        return {"success": True}

    def deprecate(self, flow_id: str) -> dict[str, Any]:
        """Deprecate a published flow."""
        flow = self._flow(flow_id)
        if flow.status != "PUBLISHED":
            raise GraphFault(400, 139003)
        flow.status = "DEPRECATED"
        return {"success": True}

    def profile(self) -> dict[str, Any]:
        """Return the business profile."""
        return {"data": [self._profile]}

    def set_profile(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Change the given fields of the business profile."""
        self._profile.update({name: payload[name] for name in _PROFILE if name in payload})
        return {"success": True}

    def _flow(self, flow_id: str) -> Flow:
        flow = self._flows.get(flow_id)
        if flow is None:
            raise missing_object()
        return flow


def _shown(flow_id: str, flow: Flow) -> dict[str, Any]:
    return {
        "id": flow_id,
        "name": flow.name,
        "status": flow.status,
        "categories": flow.categories,
        "validation_errors": [],
        "updated_at": _UPDATED_AT,
        **({"endpoint_uri": flow.endpoint_uri} if flow.endpoint_uri is not None else {}),
    }


def _categories(value: Any) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise invalid("The parameter categories must be a list of names.")
    return value


def _new_id(present: Mapping[str, Any]) -> str:
    if len(present) >= MAX_OBJECTS:
        raise GraphFault(400, 80007)
    return str(secrets.randbelow(9 * 10**14) + 10**14)
