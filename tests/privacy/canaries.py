"""Canaries: unique values, so that every leak of one is detected."""

import base64
import re
import string
from collections.abc import Iterator
from urllib.parse import unquote

_LETTERS = string.ascii_lowercase
_WORD_STRIDE = 86_180_339_887_511
"""Coprime to 26, so that consecutive words have few letters in common."""
_NUMBER_STRIDE = 61_803_398_877

_MARK = "zq"
_TELLTALE = 6
"""This many letters after the mark identify a word, since a truncated word is a leak as well."""

_WORD = re.compile(rf"(?={_MARK}([a-z]{{{_TELLTALE}}}))")
_NUMBER = re.compile(r"(?=(999[0-9]{11}7))")

_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|([^ux]))")
_BETWEEN_DIGITS = re.compile(r"(?<=[0-9])[ .,()/_+'-]{1,3}(?=[0-9])")
_HEX = re.compile(r"[0-9a-fA-F](?:[ :,-]?[0-9a-fA-F]){15,}")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{12,}")


class Canaries:
    """Hands out canaries, each for one place that accepts text, and finds them again.

    A word is `Zq` and ten letters. A number has fifteen digits, the most that a phone number can
    have, and begins with the code of no country.
    """

    def __init__(self) -> None:
        self._words: dict[str, str] = {}
        self._numbers: dict[str, str] = {}
        self._handed_out = 0

    def __len__(self) -> int:
        """Count the canaries that were handed out."""
        return self._handed_out

    def word(self, place: str) -> str:
        """Return a new word for *place*."""
        rest = self._next() * _WORD_STRIDE
        letters = []
        for _ in range(10):
            rest, letter = divmod(rest, 26)
            letters.append(_LETTERS[letter])
        self._words["".join(letters[:_TELLTALE])] = place
        return _MARK.capitalize() + "".join(letters)

    def number(self, place: str) -> str:
        """Return a new phone number, digits only, for *place*."""
        digits = f"999{self._next() * _NUMBER_STRIDE % 10**11:011d}7"
        self._numbers[digits] = place
        return digits

    def _next(self) -> int:
        self._handed_out += 1
        return self._handed_out

    def found_in(self, text: str) -> set[str]:
        """Return the places whose canaries *text* holds, plainly or in any of its readings."""
        found = set()
        for reading in readings(text):
            folded = reading.casefold()
            found.update(self._words.get(letters, "") for letters in _WORD.findall(folded))
            digits = _BETWEEN_DIGITS.sub("", folded)
            found.update(self._numbers.get(number, "") for number in _NUMBER.findall(digits))
        return found - {""}


def readings(text: str) -> Iterator[str]:
    """Yield *text*, and its decodings from escapes, hexadecimal digits and base64."""
    yield text
    plain = unquote(_ESCAPE.sub(_unescaped, text), errors="replace")
    yield plain
    for run in _HEX.findall(text):
        digits = re.sub("[ :,-]", "", run)
        for start in (0, 1):
            even = digits[start : start + (len(digits) - start) // 2 * 2]
            yield bytes.fromhex(even).decode("latin-1")
    for run in _BASE64.findall(plain):
        standard = run.translate(str.maketrans("-_", "+/"))
        for start in range(4):
            whole = standard[start : start + (len(standard) - start) // 4 * 4]
            yield base64.b64decode(whole).decode("latin-1")


def _unescaped(escape: re.Match[str]) -> str:
    code = escape[1] or escape[2]
    return chr(int(code, 16)) if code else escape[3]
