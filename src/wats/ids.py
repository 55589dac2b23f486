"""The identifiers of the WhatsApp Business Platform as types. No I/O.

They are all text on the wire, so a plain `str` would permit to confuse them; these types cost
nothing at run time. The valid form of an identifier is defined once, in `is_safe_id`.
"""

import re
from typing import NewType

WabaId = NewType("WabaId", str)
"""A WhatsApp Business Account's id."""

PhoneNumberId = NewType("PhoneNumberId", str)
"""The id of a business phone number: the path of `/messages`. Not the number itself."""

WaId = NewType("WaId", str)
"""A customer's WhatsApp id: today the digits of a phone number. Personal data."""

Bsuid = NewType("Bsuid", str)
"""A business-scoped user id. Personal data."""

Wamid = NewType("Wamid", str)
"""A message's id at WhatsApp. It encodes a phone number, so it is personal data too."""

GroupId = NewType("GroupId", str)
"""The id of a WhatsApp group."""

MAX_ID_LENGTH = 256

_UNSAFE = re.compile("[\x00-\x1f\x7f\u2028\u2029]")


def is_safe_id(text: object) -> bool:
    """Return whether *text* can be an identifier: 1 to 256 characters, not blank, one line.

    Control characters and Unicode line breaks are refused, so that an id cannot change a header, a
    log line or a file name around it.
    """
    return (
        isinstance(text, str)
        and 0 < len(text) <= MAX_ID_LENGTH
        # Printable text is safe; checking that first costs a tenth of the pattern.
        and (text.isprintable() or _UNSAFE.search(text) is None)
        and not text.isspace()
    )
