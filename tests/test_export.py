"""Exports: what TRL and datasets read, and what people read."""

import json

from core import export
from tests.values import record


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.split("\n") if line]


CHAT = (
    record("One", base="b1", post="p1", system="Be kind.", mark="post"),
    record("Two", base="b2", post="p2", system="Be kind.", mark="base"),
    record("Three", base="b3", post="p3", system="Be kind.", mark="tie"),
    record("Four", base="b4", post="p4", system="Be kind.", mark="neither"),
    record("Five", base="b5\u2028x", post="p5\n`````\n", system="Be kind."),
)


def test_each_side_is_one_record_of_messages_with_its_own_replies():
    base, post = lines(export.messages(CHAT))
    for found, letter in ((base, "b"), (post, "p")):
        assert found["messages"][0] == {"role": "system", "content": "Be kind."}
        assert [message["role"] for message in found["messages"][1:]] == ["user", "assistant"] * 5
        assert all(message["content"].startswith(letter) for message in found["messages"][2::2])
    assert (base["side"], post["side"]) == ("base", "post")


def test_a_mark_that_was_made_blind_says_so_and_which_side_stood_first():
    blind = record("One", mark="post").model_copy(update={"blind": "post"})
    [found] = lines(export.preferences((blind,)))
    assert (found["blind"], found["first"]) == (True, "post")
    assert "marked while the models were not named (post-trained first)" in export.markdown((blind,))


def test_preferences_are_the_turns_where_one_reply_was_better():
    first, second = lines(export.preferences(CHAT))
    assert first == {
        "prompt": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "One"}],
        "chosen": [{"role": "assistant", "content": "p1"}],
        "rejected": [{"role": "assistant", "content": "b1"}],
    }
    assert second["chosen"][0]["content"] == "b2"
    assert second["rejected"][0]["content"] == "p2"
    assert [message["content"] for message in second["prompt"]] == ["Be kind.", "One", "b1", "Two"], (
        "the history of the side that was preferred"
    )


def test_markdown_holds_every_text_exactly():
    text = export.markdown(CHAT)
    for turn in (each.turn for each in CHAT):
        for part in (turn.prompt, turn.base, turn.post):
            assert f"\n{part}\n" in text
    assert "``````text\np5" in text, "a longer fence than the one inside"
    assert text.count("Better reply") == 4
    assert "seed 1234" in text


def test_an_empty_conversation_exports_to_nothing():
    assert export.messages(()) == ""
    assert export.preferences(()) == ""
