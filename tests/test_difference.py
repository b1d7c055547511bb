"""Why did it change: every input that differs is named, and nothing else is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import wording
from core.difference import Detokenized, _comparison, difference, stretches
from core.errors import UserError
from core.types import SIDES, Comparison, Conversation, Turn
from tests import values
from tests.values import COMPARISON, ENGINE, receipt

SAMPLING = COMPARISON.sampling
TALK = Conversation(system="Be kind.", turns=(Turn(prompt="a", base="b", post="c"),))
WITH_HISTORY = COMPARISON.model_copy(update={"conversation": TALK})


def after(**changes):
    return receipt(COMPARISON.model_copy(update=changes))


def words(first, second) -> str:
    return "\n".join(wording.difference_lines(difference(first, second)))


ONE_CHANGE = {
    "prompt": (receipt(), after(prompt="What is the big sea?")),
    "system prompt": (receipt(), after(conversation=Conversation(system="Be brief."))),
    "history, number of turns": (receipt(), after(conversation=Conversation(turns=TALK.turns))),
    "history, turn 1, post-trained reply": (
        receipt(WITH_HISTORY),
        after(conversation=Conversation(system="Be kind.", turns=(Turn(prompt="a", base="b", post="d"),))),
    ),
    "framing (base)": (receipt(), after(framing_base="transcript")),
    "framing (post-trained)": (receipt(), after(framing_post="document")),
    "date": (receipt(), after(today="2027-01-01")),
    "pair": (receipt(), after(pair="other")),
    "weights (base)": (receipt(), values.receipts.make(COMPARISON, values.side_receipt(5, 6, 7, weights="f"), receipt().post)),
    "engine (base and post-trained), dtype": (receipt(), receipt(engine=ENGINE.model_copy(update={"dtype": "bfloat16"}))),
    "engine (base and post-trained), torch": (
        receipt(),
        receipt(engine=ENGINE.model_copy(update={"versions": {**ENGINE.versions, "torch": "2.14.0"}})),
    ),
    "token ids sent (base)": (
        receipt(),
        values.receipts.make(COMPARISON, values.side_receipt(5, 6, 7, prompt_sha256="e" * 64), receipt().post),
    ),
    **{
        name.replace("_", " "): (receipt(), after(sampling=SAMPLING.model_copy(update={name: value})))
        for name, value in {
            "seed": 5, "temperature": 0.9, "top_k": 40, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.2, "max_new_tokens": 9,
        }.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("name", ONE_CHANGE)
def test_one_changed_input_is_named_and_no_other(name):
    first, second = ONE_CHANGE[name]
    found = difference(first, second)
    assert [change.name for change in found.inputs] == [name]
    assert not found.unexplained
    assert name in words(first, second)


@pytest.mark.parametrize("field", Comparison.model_fields)
def test_every_field_of_a_comparison_is_an_input(field):
    """Also one that is added to the vocabulary later."""
    other = {"conversation": TALK, "sampling": SAMPLING.model_copy(update={"seed": 1})}.get(field, "something else")
    assert list(_comparison(COMPARISON, COMPARISON.model_copy(update={field: other}), SIDES))


def test_nothing_differs_between_a_run_and_its_repetition():
    found = difference(receipt(), receipt())
    assert (found.inputs, found.divergences, found.unexplained) == ((), (), False)
    assert "No input differs, and the replies are the same" in words(receipt(), receipt())


def test_other_replies_to_the_same_inputs_are_called_out():
    found = difference(receipt(), receipt(base=(5, 6, 1)))
    assert found.unexplained
    assert "must not happen" in words(receipt(), receipt(base=(5, 6, 1)))


def test_a_reply_that_somebody_stopped_is_an_input_too():
    """Pressing Stop is no contradiction."""
    found = difference(receipt(), receipt(base=(5, 6), finish_reason="stopped"))
    assert not found.unexplained
    assert "Stop (base)" in [change.name for change in found.inputs]


@pytest.mark.parametrize(
    "base, step, ids",
    [((5, 1, 7), 1, (6, 1)), ((5, 6), 2, (7, None)), ((5, 6, 7, 8), 3, (None, 8)), ((), 0, (5, None))],
)
def test_the_step_where_replies_part_is_the_first(base, step, ids):
    divergence = difference(receipt(), after(prompt="x") if base is None else receipt(base=base)).divergences[0]
    assert (divergence.side, divergence.step, divergence.first_id, divergence.second_id) == ("base", step, *ids)


def test_where_replies_part_the_tokens_are_shown_as_text_with_their_ids():
    read = Detokenized(token=lambda side, id: {6: " sea", 1: " \u200b"}[id])
    (found,) = difference(receipt(), receipt(base=(5, 1, 7)), (read, read)).divergences
    assert (found.first_text, found.second_text) == (" sea", " \u200b")
    assert "diverge at token 2: ' sea' (id 6) and ' \\u200b' (id 1)" in wording.divergence_sentence(found)
    (ended,) = difference(receipt(), receipt(base=(5, 6))).divergences
    assert "diverge at token 3: the token with id 7 and the end" in wording.divergence_sentence(ended)


@settings(deadline=None)
@given(values.TEXTS, values.TEXTS, st.booleans())
def test_the_stretches_of_a_diff_join_to_both_texts(a, b, long):
    a, b = (a * 40 + b, a * 40) if long else (a, b)
    parts = list(stretches(a, b))
    assert "".join(part.text for part in parts if part.kind != "added") == a
    assert "".join(part.text for part in parts if part.kind != "removed") == b


def test_a_diff_shows_the_change_and_leaves_out_what_is_far_from_it():
    common = "word " * 400
    parts = tuple(stretches(f"{common}old {common}", f"{common}new {common}"))
    line = wording.marked(parts)
    assert "[-" in line and "old" in line and "new" in line
    assert len(line) < 400
    assert "characters" in line


def test_the_texts_that_were_sent_are_compared_whole():
    found = difference(receipt(), after(prompt="x"), (Detokenized({"base": "a b c"}), Detokenized({"base": "a d c"})))
    assert wording.marked(found.sent["base"]) == "a[- b-]{+ d+} c"


# --- one side alone -------------------------------------------------------------------------------------


def test_receipts_of_one_side_differ_in_what_that_side_was_asked():
    alone = values.one_sided()
    assert difference(alone, alone).inputs == difference(alone, receipt()).inputs == ()
    history = values.one_sided(COMPARISON.model_copy(update={"conversation": TALK, "framing_base": "transcript"}))
    assert [each.name for each in difference(alone, history).inputs] == ["system prompt", "history, number of turns"]
    stopped = values.one_sided(ids=(8,), stops=("a", "b"), finish_reason="stopped")
    found = difference(alone, stopped)
    assert [each.name for each in found.inputs] == ["stop strings", "Stop (post-trained)"]
    assert [(each.side, each.step) for each in found.divergences] == [("post", 1)]


def test_receipts_of_two_sides_have_nothing_in_common():
    with pytest.raises(UserError, match="choose two of one side"):
        difference(values.one_sided(), values.one_sided(writer="base"))


def test_token_ids_that_were_sent_as_they_are_are_an_input():
    sent = [values.one_sided(prompt_ids=ids) for ids in ((1, 2), (1, 3))]
    assert [each.name for each in difference(*sent).inputs] == ["token ids sent (post-trained)"]
