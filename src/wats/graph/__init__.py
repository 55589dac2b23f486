"""The Graph API: one client, and the meaning of its errors."""

from wats.graph.client import GraphClient
from wats.graph.errors import RULES, Action, ErrorRule, classify, find_rule
from wats.graph.responses import GraphResponse, OperationRecorder

__all__ = [
    "RULES",
    "Action",
    "ErrorRule",
    "GraphClient",
    "GraphResponse",
    "OperationRecorder",
    "classify",
    "find_rule",
]
