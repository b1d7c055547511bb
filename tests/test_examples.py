"""The receipt that the docs ship is a real one of the embedded pair."""

from pathlib import Path

from core import receipts
from core.replay import replay
from core.steps import finish
from core.types import SIDES

EXAMPLE = Path(__file__).parent.parent / "docs" / "examples" / "capital-of-france.json"


def test_the_example_replays_and_is_identical_on_the_machine_kind_it_names(pool):
    receipt = receipts.read(EXAMPLE.read_bytes())
    verdict = finish(replay(pool, receipt))
    assert verdict.outcome != "not replayable", verdict.reasons
    lease = pool.wait(pool.default.id)
    try:
        same_kind = all(lease.side(side).engine.info().same_bits(receipt.side(side).engine) for side in SIDES)
    finally:
        lease.release()
    if same_kind:
        assert verdict.outcome == "identical"
    else:  # other rounding may change a token, and nothing else may
        parted = [side.divergence for side in (verdict.base, verdict.post) if side and side.divergence]
        assert verdict.warnings and all(divergence.within_drift for divergence in parted)
