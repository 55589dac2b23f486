"""The addresses that a subscriber may have, checked when a connection is made.

The check is made on the address of each connection and not on the host of the URL, so it holds for
every spelling of an address, and for names that resolve to another address each time.
"""

import ipaddress
import socket
from typing import Final

from aiohttp import AddrInfoType

from wats.inbound.failures import EndpointFailure

_GLOBAL_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
"""The only IPv6 addresses of the public internet; all others, NAT64 included, are refused."""

_TRANSLATED: Final = (
    ipaddress.IPv6Network("2001::/23"),  # special purposes, such as Teredo
    ipaddress.IPv6Network("2002::/16"),  # 6to4, which holds an IPv4 address
    ipaddress.IPv6Network("3fff::/20"),  # documentation; unknown to older versions of Python
)

_SPECIAL: Final = (
    ipaddress.IPv4Network("192.0.0.0/24"),  # special purposes
    ipaddress.IPv4Network("192.88.99.0/24"),  # relays of 6to4
)


class AddressRefused(EndpointFailure, OSError):
    """The address of a subscriber is not public, and `allowPrivateNetwork` is not set."""


def is_public(address: str) -> bool:
    """Return whether *address* is a unicast address of the public internet."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        networks: tuple[ipaddress.IPv6Network, ...] = _TRANSLATED
        is_special = found not in _GLOBAL_UNICAST or any(found in each for each in networks)
    else:
        is_special = found.is_multicast or any(found in each for each in _SPECIAL)
    return found.is_global and not is_special


def public_socket(address: AddrInfoType) -> socket.socket:
    """Return a socket to connect to *address*.

    Raises:
        AddressRefused: It is not public.
    """
    family, kind, protocol, _, place = address
    if not is_public(str(place[0])):
        raise AddressRefused
    return socket.socket(family, kind, protocol)
