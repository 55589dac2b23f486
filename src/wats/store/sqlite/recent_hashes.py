"""A filter for the hashes of recent messages, in the memory of a writer.

Nearly all messages are new. A busy service fills a bucket of the index within seconds, so without
the filter each message would be searched in all buckets of several minutes.

It is a Bloom filter with two bits for each hash, in two generations, of which the older one is
dropped in the end.
"""

from collections.abc import Collection, Iterable, Sequence
from itertools import chain, compress
from typing import Final

GENERATION: Final = 1 << 20
"""The number of messages after which a new generation begins."""

FILTER_BITS: Final = 25
"""The number of bits of a generation is two to this power, so it has 4 MiB. At the end of the first
generation one in 270 other hashes seems to be recent, and one in 70 at the end of the second."""

_MULTIPLIER: Final = 0x9E3779B1
_SHIFT: Final = 12


class RecentHashes:
    """The hashes of all messages from the row *first* on.

    Attributes:
        first: The first row id whose message is covered.
    """

    def __init__(
        self, first: int, generation: int = GENERATION, filter_bits: int = FILTER_BITS
    ) -> None:
        self.first = first
        self._generation = generation
        self._began = first  # the first row id of the current generation
        self._count = 0
        self._bytes = 1 << (filter_bits - 3)
        self._current = bytearray(self._bytes)
        self._former = bytearray(self._bytes)

    def add(self, hashes: Collection[int], after: int) -> None:
        """Add *hashes*, those of all messages up to the row *after* that were not added before."""
        current, mask = self._current, self._bytes - 1
        for bit in chain(hashes, _second_bits(hashes)):
            current[bit >> 3 & mask] |= 1 << (bit & 7)
        self._count += len(hashes)
        if self._count >= self._generation:
            self.first, self._began, self._count = self._began, after + 1, 0
            self._former, self._current = self._current, bytearray(self._bytes)

    def select(self, hashes: Collection[int]) -> Sequence[int]:
        """Return those of *hashes* that may belong to a covered message; the others do not."""
        found = list(compress(hashes, self._read(hashes)))
        return list(compress(found, self._read(_second_bits(found))))

    def _read(self, bits: Iterable[int]) -> Sequence[int]:
        current, former, mask = self._current, self._former, self._bytes - 1
        return [
            (current[place := bit >> 3 & mask] | former[place]) >> (bit & 7) & 1 for bit in bits
        ]


def _second_bits(hashes: Collection[int]) -> Sequence[int]:
    return [hash_ * _MULTIPLIER >> _SHIFT for hash_ in hashes]
