"""The receipt of a study: all of it in one file that cannot be changed unseen, and a replay that says what it covered."""

import json

import pytest

from core.errors import UserError
from core.steps import finish
from core.study import receipt as receipts
from core.study import store
from tests.test_study_plan import plan
from tests.test_study_run import Typist, perform


@pytest.fixture(scope="module")
def made() -> receipts.StudyReceipt:
    asked = plan("One?", "Two?", seeds=4)
    with store.opened(None) as kept:
        perform(asked, kept, Typist())
        return receipts.make(asked, kept, kept.written(asked))


def replayed(made: receipts.StudyReceipt, typist: Typist, **options) -> receipts.StudyVerdict:
    return finish(receipts.replay(made, typist.sit_down, **options))


def test_a_receipt_names_its_writers_once_and_every_cell_by_a_digest(made):
    assert [(writer.pair, writer.side) for writer in made.writers] == [("embedded", "base"), ("embedded", "post")]
    assert len(made.cells()) == made.plan.total == 32
    assert made.commits("embedded") == {"base": "c" * 40, "post": "c" * 40} and made.commits("other") == {}
    assert receipts.read(receipts.dump(made).encode()) == made and receipts.is_one(receipts.dump(made).encode())
    report = f"<!doctype html><p>x</p>{receipts.EMBEDDED}{receipts.dump(made)}</script>".encode()
    assert receipts.is_one(report) and receipts.read(report) == made, "a report carries it"


def test_a_changed_receipt_is_refused(made):
    data = json.loads(receipts.dump(made))
    for change in (
        {"app_version": "9"},
        {"digests": [*data["digests"][1:], data["digests"][0]]},
        {"digests": data["digests"][1:]},
        {"plan": data["plan"] | {"seeds": 5}},
    ):
        with pytest.raises(UserError, match="changed after it was made"):
            receipts.read(json.dumps(data | change).encode())
    with pytest.raises(UserError, match="not a sound receipt of a study; schema_version"):
        receipts.read(json.dumps(data | {"schema_version": 2}).encode())


def test_all_cells_replay(made):
    verdict = replayed(made, typist := Typist())
    assert (verdict.outcome, verdict.covered, verdict.cells, verdict.sample_seed) == ("identical", 32, 32, None)
    assert len(typist.asked) == 32 and not verdict.differ and not verdict.reasons


def test_replies_that_were_kept_are_handed_to_be_read(made):
    with store.opened(None) as kept:
        perform(made.plan, kept, Typist())
        known = dict(list(kept.written(made.plan).items())[:4])
    verdict = replayed(made, typist := Typist(), known=known)
    assert verdict.outcome == "identical" and verdict.covered == 32
    assert sorted(filter(None, typist.shared)) == sorted(reply.token_ids for reply in known.values())


def test_a_sample_is_chosen_by_its_seed_and_says_what_it_covered(made):
    asked = []
    for seed in (1, 1, 2):
        verdict = replayed(made, typist := Typist(), sample=5, sample_seed=seed)
        assert (verdict.outcome, verdict.covered, verdict.cells, verdict.sample_seed) == ("identical", 5, 32, seed)
        asked.append(sorted(typist.asked))
    assert asked[0] == asked[1] != asked[2] and len(asked[0]) == 5
    assert replayed(made, Typist(), sample=99).sample_seed is None, "that is all of them"


def test_a_reply_that_differs_is_named(made):
    def say(comparison, side):
        changed = side == "post" and comparison.prompt == "Two?" and comparison.sampling.seed == made.plan.seed(1, 2)
        return "other" if changed else f"{side} {comparison.sampling.seed % 3}"

    verdict = replayed(made, Typist(say))
    assert verdict.outcome == "diverged"
    assert set(verdict.differ) == {
        f"row 2, repetition 3, the post-trained side of embedded under {framing}" for framing in ("chat", "document")
    }
    assert replayed(made, Typist(finish_reason="length")).outcome == "diverged", "how it ended counts"


def test_other_weights_end_a_replay_and_are_named(made):
    verdict = replayed(made, Typist(weights="c"))
    assert (verdict.outcome, verdict.covered, verdict.differ) == ("not replayable", 0, ())
    assert verdict.reasons[0].startswith("Other weights on the ") and verdict.reasons[0].endswith(f"{'c' * 16} here.")


def test_what_was_not_finished_is_not_in_it(made):
    asked = plan(seeds=8)
    with store.opened(None) as kept:
        perform(asked, kept, Typist())
        few = dict(list(kept.written(asked).items())[:3])
        partly = receipts.read(receipts.dump(receipts.make(asked, kept, few)).encode())
    assert len(partly.digests) == 32 and len(partly.cells()) == 3
    assert replayed(partly, Typist()).covered == 3
