"""Requests as bytes: all different, made cheaply while the load runs."""

import hashlib
import hmac
import random
import secrets
import time
from collections.abc import Iterator
from itertools import count, cycle, islice

import msgspec

PHONE_NUMBER_ID = "200000000000002"
WABA_ID = "100000000000001"
SENDERS = 100_000
_STRIDE = 0x9E3779B97F4A7C15

# The shape of a message from a customer whose user id and number are both known.
_BODY = (
    b'{"object":"whatsapp_business_account","entry":[{"id":"' + WABA_ID.encode() + b'","changes":'
    b'[{"value":{"messaging_product":"whatsapp","metadata":{"display_phone_number":"15550001111",'
    b'"phone_number_id":"' + PHONE_NUMBER_ID.encode() + b'"},"contacts":[{"profile":{"name":"%b"},'
    b'"wa_id":"%b","user_id":"US.100%b"}],"messages":[{"from":"%b","from_user_id":"US.100%b",'
    b'"id":"%b","timestamp":"%d","text":{"body":"%b"},"type":"text"}]},"field":"messages"}]}]}'
)
_STATUS_BODY = (
    b'{"object":"whatsapp_business_account","entry":[{"id":"' + WABA_ID.encode() + b'","changes":'
    b'[{"value":{"messaging_product":"whatsapp","metadata":{"display_phone_number":"15550001111",'
    b'"phone_number_id":"' + PHONE_NUMBER_ID.encode() + b'"},"statuses":[{"id":"%b","status":"%b",'
    b'"timestamp":"%d","recipient_id":"%b","conversation":{"id":"%032x","expiration_timestamp":'
    b'"1999999999","origin":{"type":"utility"}},"pricing":{"billable":true,"pricing_model":"PMP",'
    b'"category":"utility","type":"regular"}}]},"field":"messages"}]}]}'
)
STATUSES = (b"sent", b"delivered", b"read")
_STATUS_BLOCK = 1000
"""How many messages are sent before the first one is delivered, and then before it is read."""
_NAMES = (b"Ada Fiction", b"Jos\\u00e9 Inventado", b"Test Person", b"Maria", b"Sample & Sons Ltd.")
_WORDS = (
    b"hello when will the parcel that was ordered last week arrive at our shop because the tracking"
    b" page says it left the depot on Monday and nobody has seen it since then thank you so much"
    b" \\ud83d\\ude4f could you also send the invoice again to the same address as before please"
).split()
_TEXT_BYTES = range(180, 350)


def _texts(chosen: random.Random) -> list[bytes]:
    texts = []
    for _ in range(97):
        text = b""
        wanted = chosen.choice(_TEXT_BYTES)
        while len(text) < wanted:
            text += b" " + chosen.choice(_WORDS)
        texts.append(text.strip())
    return texts


class _Varied:
    """The varying parts of requests: no combination repeats."""

    def __init__(self) -> None:
        chosen = random.Random(1)
        self.texts = cycle(_texts(chosen))
        self.names = cycle(_NAMES)
        phones = [b"1555%07d" % number for number in range(SENDERS)]
        chosen.shuffle(phones)
        self.phones = cycle(phones)
        self.numbers = count()
        # Unique to this process: two processes must not send the same.
        self.run = secrets.token_hex(8).encode()


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """*count* sent messages, with ids that no other *run* has."""

    run: str
    count: int

    def ids(self) -> Iterator[str]:
        """Yield the WhatsApp ids, in no order."""
        for number in range(self.count):
            yield f"wamid.HBgLMTU1NTAwMDExMTEVAgARGBI{number * _STRIDE % 2**64:016x}{self.run}AA=="


class _Signed:
    """Makes requests to the webhook."""

    def __init__(self, *, path: str, app_secret: str) -> None:
        self._keyed = hmac.new(app_secret.encode(), digestmod=hashlib.sha256)
        self._head = (
            b"POST " + path.encode() + b" HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: */*\r\n"
            b"user-agent: facebookexternalua\r\naccept-encoding: deflate, gzip\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n"
            b"x-hub-signature-256: sha256=%b\r\n\r\n%b"
        )

    def request(self, body: bytes) -> bytes:
        """Return the request that posts *body*."""
        digest = self._keyed.copy()
        digest.update(body)
        return self._head % (len(body), digest.hexdigest().encode(), body)


class Webhooks(_Signed):
    """Makes signed webhooks, each with a text message, of 700 to 900 bytes."""

    def __init__(self, *, path: str, app_secret: str) -> None:
        super().__init__(path=path, app_secret=app_secret)
        self._varied = _Varied()
        self._wamid = b"wamid.HBgLMTU1NTAwMDExMTEVAgASGBQ%016x" + self._varied.run + b"AA=="

    def make(self) -> bytes:
        """Return the next request."""
        varied = self._varied
        phone = next(varied.phones)
        who = next(varied.names), phone, phone, phone, phone
        # Each number occurs once, in random order: real ids fall all over the index of ids, too.
        wamid = self._wamid % (next(varied.numbers) * _STRIDE % 2**64)
        return self.request(_BODY % (*who, wamid, int(time.time()), next(varied.texts)))


class Statuses(_Signed):
    """Makes signed webhooks, each with a status of one of the messages *sent*: three for each.

    The statuses of a message are some thousand requests apart, as they are some seconds in reality.
    """

    def __init__(self, *, path: str, app_secret: str, sent: Sent) -> None:
        super().__init__(path=path, app_secret=app_secret)
        self._varied = _Varied()
        self._statuses = _in_blocks(sent.ids())

    def make(self) -> bytes:
        """Return the next request.

        Raises:
            StopIteration: Every message has its three statuses.
        """
        wamid, status = next(self._statuses)
        varied = self._varied
        values = int(time.time()), next(varied.phones), next(varied.numbers)
        return self.request(_STATUS_BODY % (wamid.encode(), status, *values))


def _in_blocks(ids: Iterator[str]) -> Iterator[tuple[str, bytes]]:
    while block := list(islice(ids, _STATUS_BLOCK)):
        for status in STATUSES:
            for wamid in block:
                yield wamid, status


class Sends:
    """Makes requests to send a text, each with an `Idempotency-Key` of its own if *keyed*."""

    def __init__(self, *, path: str, token: str, keyed: bool) -> None:
        self._varied = _Varied()
        self._head = (
            b"POST " + path.encode() + b" HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: */*\r\n"
            b"authorization: Bearer " + token.encode() + b"\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n%b\r\n%b"
        )
        self._key = b"idempotency-key: order-" + self._varied.run + b"-%d\r\n" if keyed else b""

    def make(self) -> bytes:
        """Return the next request."""
        varied = self._varied
        body = b'{"to":"%b","text":"%b"}' % (next(varied.phones), next(varied.texts))
        key = self._key % next(varied.numbers) if self._key else b""
        return self._head % (len(body), key, body)


class TextPayloads:
    """Makes the payloads that a gateway sends to Graph for such requests."""

    def __init__(self) -> None:
        self._varied = _Varied()

    def make(self) -> bytes:
        """Return the next payload."""
        return b'{"messaging_product":"whatsapp","to":"%b","type":"text","text":{"body":"%b"}}' % (
            next(self._varied.phones),
            next(self._varied.texts),
        )
