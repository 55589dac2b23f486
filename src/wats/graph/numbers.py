"""The business numbers of a service, each with the client of Graph that has its token. No I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wats.config import NumberConfig, Profile, Secrets
from wats.errors import ConfigError, ConfigIssue
from wats.graph.client import GraphClient


@dataclass(frozen=True, slots=True)
class BusinessNumber:
    """A configured number.

    Attributes:
        config: Its name, its ids and its limits.
        graph: The client for its Graph calls.
        has_own_token: Whether it has an access token of its own.
    """

    config: NumberConfig
    graph: GraphClient
    has_own_token: bool

    @property
    def id(self) -> str:
        """The phone number id."""
        return self.config.phone_number_id


class BusinessNumbers:
    """All configured numbers.

    Attributes:
        all: The numbers, the default number first.
        default: The number of requests that name none.
        ids: The phone number ids.
        accounts: The ids of their WhatsApp Business Accounts.
        object_ids: The ids of all numbers and their accounts, which are neither files nor groups.
        own_graphs: The clients of the numbers with a token of their own, by phone number id.
    """

    def __init__(self, numbers: Sequence[BusinessNumber]) -> None:
        self.all = tuple(numbers)
        self.default = self.all[0]
        self._by_id = {each.id: each for each in self.all}
        self._by_name = {each.config.name: each for each in self.all}
        self.ids = frozenset(self._by_id)
        self.accounts = frozenset(each.config.waba_id for each in self.all)
        self.object_ids = self.ids | self.accounts
        self.own_graphs: Mapping[str, GraphClient] = {
            each.id: each.graph for each in self.all if each.has_own_token
        }

    def __getitem__(self, phone_number_id: str | None) -> BusinessNumber:
        """Return the number with this id; the default number for `None`."""
        return self.default if phone_number_id is None else self._by_id[phone_number_id]

    def find(self, number: str) -> BusinessNumber | None:
        """Return the number with this phone number id, or with this name."""
        return self._by_id.get(number) or self._by_name.get(number)


def business_numbers(profile: Profile, secrets: Secrets, graph: GraphClient) -> BusinessNumbers:
    """Return the numbers of *profile*; those without a token of their own use *graph*."""
    own = secrets.access_tokens
    return BusinessNumbers(
        [
            BusinessNumber(
                config=each,
                graph=graph.with_token(own[each.name]) if each.name in own else graph,
                has_own_token=each.name in own,
            )
            for each in profile.all_numbers
        ]
    )


def ids_of(profile: Profile, names: Sequence[str]) -> frozenset[str] | None:
    """Return the phone number ids of the numbers with these *names*; `None` without names.

    Raises:
        ConfigError: A name is that of no number, in a profile that was made in code.
    """
    if not names:
        return None
    ids = {each.name: each.phone_number_id for each in profile.all_numbers}
    if not ids.keys() >= set(names):
        reason = "Must have each name that a token or a subscriber uses."
        raise ConfigError([ConfigIssue("invalid_numbers", "numbers", reason)])
    return frozenset(ids[name] for name in names)
