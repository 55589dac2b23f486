from random import Random

from hypothesis import given
from hypothesis import strategies as st

from wats.store.sqlite.recent_hashes import GENERATION, RecentHashes

HASHES = st.integers(0, 2**31 - 1)
BATCHES = st.lists(st.lists(HASHES, max_size=9), max_size=12)


@given(BATCHES, st.integers(1, 20), st.integers(0, 1000), st.integers(3, 12))
def test_all_hashes_from_the_first_row_on_are_selected_and_at_least_one_generation_is_covered(
    batches: list[list[int]], generation: int, first: int, filter_bits: int
) -> None:
    recent = RecentHashes(first, generation, filter_bits)
    rows: list[int] = []
    for hashes in batches:
        rows += hashes
        recent.add(hashes, first + len(rows) - 1)

    covered = rows[recent.first - first :]
    assert recent.select(covered) == covered
    assert len(covered) >= min(len(rows), generation)


def test_few_hashes_of_other_messages_are_selected() -> None:
    random = Random(1)
    recent = RecentHashes(1)
    others = [random.getrandbits(31) for _ in range(10_000)]
    rows = 0
    for end, selected in (GENERATION - 1, len(others) // 250), (2 * GENERATION - 1, 170):
        while rows < end:
            hashes = [random.getrandbits(31) for _ in range(min(4096, end - rows))]
            rows += len(hashes)
            recent.add(hashes, rows)

        assert len(recent.select(others)) < selected
        assert recent.first == 1
