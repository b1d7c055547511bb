"""Whatever is handed over is read, or refused in one sentence: a thousand cases here, as many as one likes by tools/fuzz.py."""

from collections import Counter

import pytest

from tests import fuzzing

EACH = 80


@pytest.mark.slow
def test_damaged_links_receipts_conversations_bodies_and_files_are_read_or_refused_in_a_sentence():
    with fuzzing.readers() as readers:
        others = fuzzing.others(readers)
        assert EACH * len(readers) >= 1_000
        ended = Counter(fuzzing.run(reader, number, others) for reader in readers for number in range(EACH))
    assert min(ended["read"], ended["refused"]) > 200, "the damage is neither none nor all there is"
