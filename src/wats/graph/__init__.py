"""The Graph API: one client, and the meaning of its errors."""

from wats.graph.client import GraphAnswer, GraphClient, OperationRecorder
from wats.graph.errors import RULES, Action, ErrorRule, classify, find_rule

__all__ = [
    "RULES",
    "Action",
    "ErrorRule",
    "GraphAnswer",
    "GraphClient",
    "OperationRecorder",
    "classify",
    "find_rule",
]
