"""The settings of a simulator, and its counts. No I/O."""

from dataclasses import dataclass, field

from wats.privacy import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedNumber:
    """A business number.

    Attributes:
        access_token: The bearer token for its objects; `None` if the one of all is accepted.
    """

    phone_number_id: str
    waba_id: str
    display_phone_number: str = ""
    access_token: Secret | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorSettings:
    """The settings of a simulator.

    Attributes:
        app_secret: Signs every webhook.
        verify_token: Sent in the challenge of the verification.
        access_token: The bearer token that is accepted; `None` accepts any that is not empty.
        host: The address to listen on.
        port: The port to listen on; 0 takes a free one.
        waba_id: The WhatsApp Business Account of the webhooks.
        phone_number_id: The default business number, which also has all groups.
        display_phone_number: That number as shown to people.
        numbers: Further business numbers.
        app_id: The app of the access token.
        token_type: The kind of the access token.
        token_scopes: The permissions of the access token.
        token_expires_at: The end of the access token, in seconds since 1970; 0 if it has none.
        is_subscribed: Whether the app is subscribed to the webhooks of the account.
        number_status: The status of the business number.
        webhook_url: The target of webhooks; without one they are dropped. Can be changed while
            running.
        seed: The start of the random numbers that select duplicates and pauses before retries.
        duplicate_rate: The share of delivered items that are delivered once more, from 0 to 1.
        answer_delay_seconds: The response time of Graph for a message.
        slow_answer_seconds: The response time for the slow recipient.
        status_delay_seconds: The pause before each status of a message.
        media_url_seconds: How long the URL of a file is valid.
        batch_size: The most items that one webhook POST holds.
        couriers: The limit of concurrent webhook POSTs.
        webhook_timeout_seconds: The time limit of a receiver's response.
        messages_per_second: The rate limit of each number, above which a message is refused with
            130429; 0 for no limit.
        pair_burst: The number of messages that one recipient gets without a pause; more are refused
            with 131056 until `pair_seconds` have passed for each. 0 for no limit.
        pair_seconds: The pause between further messages to one recipient.
        time_factor: How long a second of Meta's retry timetable lasts, in seconds. At 1 the first
            retry is after about ten seconds and the last after seven days.
    """

    app_secret: Secret
    verify_token: Secret
    access_token: Secret | None = None
    host: str = "127.0.0.1"
    port: int = 0
    waba_id: str = "100000000000001"
    phone_number_id: str = "200000000000002"
    display_phone_number: str = "15550001111"
    numbers: tuple[SimulatedNumber, ...] = ()
    app_id: str = "300000000000003"
    token_type: str = "SYSTEM_USER"  # noqa: S105  # a kind of token
    token_scopes: tuple[str, ...] = ("whatsapp_business_messaging", "whatsapp_business_management")
    token_expires_at: int = 0
    is_subscribed: bool = True
    number_status: str = "CONNECTED"
    webhook_url: str | None = None
    seed: int = 0
    duplicate_rate: float = 0.0
    answer_delay_seconds: float = 0.0
    slow_answer_seconds: float = 5.0
    status_delay_seconds: float = 0.05
    media_url_seconds: float = 300.0
    batch_size: int = 20
    couriers: int = 4
    webhook_timeout_seconds: float = 10.0
    messages_per_second: float = 0.0
    pair_burst: int = 0
    pair_seconds: float = 6.0
    time_factor: float = 0.01

    def number(self, phone_number_id: str) -> SimulatedNumber | None:
        """Return the number with this id, or `None`."""
        default = SimulatedNumber(
            phone_number_id=self.phone_number_id,
            waba_id=self.waba_id,
            display_phone_number=self.display_phone_number,
        )
        known = (default, *self.numbers)
        return next((each for each in known if each.phone_number_id == phone_number_id), None)

    @property
    def waba_ids(self) -> frozenset[str]:
        """The accounts of all numbers."""
        return frozenset({self.waba_id, *(each.waba_id for each in self.numbers)})

    def accepts(self, token: str, phone_number_id: str | None = None) -> bool:
        """Return whether *token* is accepted, for the objects of a number or for any others."""
        own = [each for each in self.numbers if each.access_token is not None]
        if found := [each for each in own if each.phone_number_id == phone_number_id]:
            return _matches(found[0].access_token, token)
        if self.access_token is None:
            return bool(token.strip())
        wanted = [self.access_token]
        if phone_number_id is None:
            wanted += [each.access_token for each in own if each.access_token is not None]
        return any(_matches(each, token) for each in wanted)


def _matches(wanted: Secret | None, token: str) -> bool:
    return wanted is not None and wanted.matches(token.encode())


@dataclass(slots=True, kw_only=True)
class Counts:
    """The counts since the start.

    Attributes:
        requests: Requests to Graph.
        sends: Messages that Graph accepted, also those whose response never arrived.
        refusals: Requests that failed.
        number_limits: Messages that exceeded the rate limit of the number.
        pair_limits: Messages that exceeded the rate limit of their recipient.
        read_marks: Messages that were marked as read.
        uploads: Files that Graph stored.
        inbound: Messages that customers wrote.
        webhooks: Webhook POSTs.
        webhook_failures: Webhooks without a 200 response.
        delivered: Items that were delivered in a POST with a 200 response, duplicates included.
        duplicates: Delivered items that had been delivered before on purpose.
        redeliveries: Items that were queued again because their POST failed.
        dropped: Items without a recipient: there was no webhook, or it failed for seven days.
    """

    requests: int = 0
    sends: int = 0
    refusals: int = 0
    number_limits: int = 0
    pair_limits: int = 0
    read_marks: int = 0
    uploads: int = 0
    inbound: int = 0
    webhooks: int = 0
    webhook_failures: int = 0
    delivered: int = 0
    duplicates: int = 0
    redeliveries: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedMessage:
    """A message that Graph accepted, from the business number with the phone number id *number*."""

    wamid: str
    recipient: str
    payload: dict[str, object] = field(repr=False)
    number: str = ""
