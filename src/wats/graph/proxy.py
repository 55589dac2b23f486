"""The forward proxy of Graph calls, from the config or, if that asks for it, the environment."""

from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from wats.config.checks import ENVIRONMENT
from wats.errors import ConfigError, ConfigIssue


def proxy_for(base_url: str, configured: str | None) -> str | None:
    """Return the URL of the proxy for calls of *base_url*, if they use one.

    Raises:
        ConfigError: The environment names a proxy that is not an http or https URL.
    """
    if configured != ENVIRONMENT:
        return configured
    target = urlsplit(base_url)
    url = getproxies_environment().get(target.scheme)
    if not url or proxy_bypass(target.hostname or ""):
        return None
    url = url if "://" in url else f"http://{url}"
    if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname:
        reason = "is 'environment', whose proxy for Graph must be an http or https URL"
        raise ConfigError([ConfigIssue("invalid_url", "graph.proxy", reason)])
    return url
