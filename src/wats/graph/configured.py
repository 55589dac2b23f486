"""The client of Graph that a profile describes."""

import aiohttp

from wats.config import Profile, Secrets
from wats.graph.client import GraphClient
from wats.graph.proxy import proxy_for
from wats.graph.responses import OperationRecorder


def graph_client(
    profile: Profile,
    secrets: Secrets,
    telemetry: OperationRecorder,
    session: aiohttp.ClientSession | None = None,
) -> GraphClient:
    """Return a client with the address, the token and the limits of *profile*.

    Args:
        profile: The settings.
        secrets: The access token and the app secret.
        telemetry: Records every call.
        session: A session to use instead of one of its own.

    Raises:
        ConfigError: An argument is not usable.
    """
    graph = profile.graph
    return GraphClient(
        base_url=graph.base_url,
        version=graph.api_version,
        access_token=secrets.access_token,
        telemetry=telemetry,
        app_secret=secrets.app_secrets[0] if graph.app_secret_proof else None,
        session=session,
        proxy=proxy_for(graph.base_url, graph.proxy),
        connect_seconds=graph.connect_seconds,
        read_seconds=graph.read_seconds,
        total_seconds=graph.timeout_seconds,
        max_connections=graph.max_connections,
    )
