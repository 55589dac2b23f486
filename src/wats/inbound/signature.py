"""The sender of a webhook: its signature, and the challenge of its set-up. No I/O."""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from wats.errors import WebhookRefused
from wats.privacy import Secret

_FORMAT = re.compile(r"sha256=[0-9a-f]{64}")

_BLOCK_BYTES = 64
_INNER_PAD = bytes(byte ^ 0x36 for byte in range(256))
_OUTER_PAD = bytes(byte ^ 0x5C for byte in range(256))

KeyedHashes: TypeAlias = "tuple[hashlib._Hash, hashlib._Hash]"


class SignatureCheck:
    """Recognizes the bodies that Meta signed.

    Every secret is tried, so that an app secret can be replaced while both are valid. The two
    keyed hashes of each (HMAC, RFC 2104) are prepared once and copied for each body, which takes
    less time than a copy of an `hmac` object.

    Args:
        app_secrets: The app secrets that Meta may sign with; at least one.

    Raises:
        ValueError: There is no secret, so no body could be verified.
    """

    def __init__(self, app_secrets: Sequence[Secret]) -> None:
        if not app_secrets:
            msg = "A signature check needs at least one app secret."
            raise ValueError(msg)
        self._keyed = tuple(keyed_hashes(secret.reveal().encode()) for secret in app_secrets)

    def verify(self, body: bytes, header: str | None) -> None:
        """Return if *header* holds the signature of exactly these bytes.

        Args:
            body: The request body as it was received. Meta signs bytes, not JSON: decoding and
                encoding it again would change them.
            header: The value of `X-Hub-Signature-256`, `None` if there was no such header.

        Raises:
            WebhookRefused: `missing_signature`, `invalid_signature_format` or
                `signature_mismatch`.
        """
        if header is None:
            raise WebhookRefused("missing_signature", "Missing X-Hub-Signature-256 header.", 401)
        if self._is_signed(body, header.encode(errors="surrogatepass")):
            return
        if _FORMAT.fullmatch(header) is None:
            raise WebhookRefused(
                "invalid_signature_format", "X-Hub-Signature-256 must be 'sha256=<64 hex chars>'."
            )
        raise WebhookRefused(
            "signature_mismatch", "X-Hub-Signature-256 does not match payload digest.", 401
        )

    def _is_signed(self, body: bytes, header: bytes) -> bool:
        matches = False
        for keyed in self._keyed:
            signature = b"sha256=" + keyed_digest(keyed, body).hex().encode()
            # No early exit: the time must not reveal which of the secrets matched.
            matches |= hmac.compare_digest(signature, header)
        return matches


def keyed_hashes(key: bytes) -> KeyedHashes:
    """Return the inner and the outer hash of HMAC-SHA-256 for *key*, each after its first block."""
    short = hashlib.sha256(key).digest() if len(key) > _BLOCK_BYTES else key
    block = short.ljust(_BLOCK_BYTES, b"\0")
    return (
        hashlib.sha256(block.translate(_INNER_PAD)),
        hashlib.sha256(block.translate(_OUTER_PAD)),
    )


def keyed_digest(keyed: KeyedHashes, *parts: bytes) -> bytes:
    """Return the HMAC-SHA-256 of *parts*; copies of the hashes take less time than new ones."""
    inner, outer = keyed[0].copy(), keyed[1].copy()
    for part in parts:
        inner.update(part)
    outer.update(inner.digest())
    return outer.digest()


def answer_challenge(query: Mapping[str, str], verify_token: Secret) -> str:
    """Return the response to the challenge that Meta sends when a webhook is configured.

    Args:
        query: The query parameters of the GET request, the first value of each.
        verify_token: The token that was entered in Meta's dashboard.

    Raises:
        WebhookRefused: `invalid_mode`, `invalid_verify_token` or `missing_challenge`.
    """
    if query.get("hub.mode") != "subscribe":
        raise WebhookRefused("invalid_mode", "Webhook challenge mode must be 'subscribe'.")
    token = query.get("hub.verify_token")
    if token is None or not verify_token.matches(token.encode(errors="surrogatepass")):
        raise WebhookRefused(
            "invalid_verify_token", "Webhook verify token does not match configured token.", 401
        )
    challenge = query.get("hub.challenge")
    if not challenge:
        raise WebhookRefused("missing_challenge", "Webhook challenge must be a non-empty string.")
    return challenge
