"""What the first version of the app wrote is read by this one, and written again as it was: files of version 1 in tests/data/v1."""

import json
from pathlib import Path

import pytest

from core import canonical, links, receipts, wording
from core.difference import Difference
from core.experiments import ExperimentVerdict
from core.replay import replay
from core.steps import finish
from core.types import Answer, LensReport, Receipt, Verdict

V1 = Path(__file__).parent / "data" / "v1"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("receipt", Receipt),
        ("answer", Answer),
        ("verdict", Verdict),
        ("difference", Difference),
        ("lens-report", LensReport),
        ("experiment", ExperimentVerdict),
    ],
)
def test_a_value_of_version_1_is_read_and_written_with_its_own_field_names(name, kind):
    written = (V1 / f"{name}.json").read_text("utf-8")
    value = kind.model_validate_json(written)
    assert canonical.dump(value) == json.loads(value.model_dump_json()) == json.loads(written)


def test_the_seals_of_a_receipt_of_version_1_hold():
    data = (V1 / "receipt.json").read_bytes()
    assert receipts.write(receipts.read(data)).encode() == data
    assert receipts.within(json.loads((V1 / "answer.json").read_text("utf-8"))).comparison.prompt == "Name two animals."


def test_a_link_of_version_1_opens_what_was_shared():
    fragment = (V1 / "link.txt").read_text("utf-8").strip()
    shared = links.decode(fragment)
    answer = Answer.model_validate_json((V1 / "answer.json").read_text("utf-8"))
    assert shared.comparison == answer.comparison
    assert shared.lens is not None and shared.lens.context == "own"
    assert links.differences(shared, {"base": answer.receipt.base, "post": answer.receipt.post}) == {}
    assert links.encode(shared) == fragment


def test_a_divergence_of_version_1_is_told_in_words():
    found = Difference.model_validate_json((V1 / "difference.json").read_text("utf-8"))
    assert [divergence.step for divergence in found.divergences] == [2]
    assert "Base replies diverge at token 3" in "\n".join(wording.difference_lines(found))
    verdict = Verdict.model_validate_json((V1 / "verdict.json").read_text("utf-8"))
    assert "at token 3 they diverge" in "\n".join(wording.verdict_lines(verdict))


@pytest.mark.slow
def test_a_receipt_of_an_earlier_embedded_pair_names_the_version_that_has_its_weights(pool):
    verdict = finish(replay(pool, receipts.read((V1 / "receipt.json").read_bytes())))
    assert verdict.outcome == "not replayable" and len(verdict.reasons) == 2
    assert all(", of version 0.1.0 of this app, in the receipt, " in reason for reason in verdict.reasons)
