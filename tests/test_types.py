"""The vocabulary: values that cannot hold what makes no sense, and sentences that say why."""

import json

import pytest
from pydantic import ValidationError

from core.errors import TooLong, UserError
from core.types import (
    DEFAULT_SAMPLING,
    MAX_CHARACTERS,
    MAX_IN_ALL,
    MAX_SEED,
    MAX_TOKENS,
    MAX_TURNS,
    Comparison,
    Conversation,
    Message,
    Sampling,
    SideReceipt,
    Turn,
    explain,
)
from tests import values

ASKED = {"pair": "embedded", "prompt": "Hello", "sampling": DEFAULT_SAMPLING.model_dump(), "today": "2026-01-31"}


def refusal(kind, value) -> str:
    with pytest.raises(ValidationError) as raised:
        kind.model_validate(value)
    return str(explain(raised.value))


def test_each_side_sees_the_persons_words_and_its_own_replies_only():
    conversation = Conversation(system="Be kind.", turns=(Turn(prompt="Hi", base="B1", post="P1"),))
    assert conversation.messages("base") == (
        Message(role="system", text="Be kind."),
        Message(role="user", text="Hi"),
        Message(role="assistant", text="B1"),
    )
    assert [message.text for message in conversation.messages("post")] == ["Be kind.", "Hi", "P1"]
    assert [message.role for message in Conversation().messages("base")] == [], "no system prompt, no system message"


TURN = Turn(prompt="a", base="b", post="c")
FULL = Turn(prompt="a", base="b" * (MAX_IN_ALL // 5 - 1), post="")


@pytest.mark.parametrize(
    ("longest", "longer", "sentence"),
    [
        ({"turns": [TURN] * MAX_TURNS}, {"turns": [TURN] * (MAX_TURNS + 1)}, "turns: there are more than 1,000; start a new chat."),
        ({"turns": [FULL] * 5}, {"turns": [FULL] * 5, "system": "x"}, "2,000,001 characters, and at most 2,000,000 fit; start a new chat."),
        ({"turns": [FULL] * 5}, {"turns": [*[FULL] * 5, Turn(prompt="", base="", post="", reasoning_post="x")]}, "2,000,001 characters"),
    ],
)  # fmt: skip
def test_a_conversation_has_an_end_in_turns_and_in_characters(longest, longer, sentence):
    assert Conversation.model_validate(longest)
    with pytest.raises(ValidationError) as raised:
        Conversation.model_validate(longer)
    explained = explain(raised.value)
    assert sentence in str(explained) and isinstance(explained, TooLong)


def test_the_turn_behind_more_than_a_conversation_holds_is_refused_in_a_sentence():
    chat = (values.record("One"),) * (MAX_TURNS + 1)
    assert chat[-1].comparison(chat[:-1]).conversation.turns == tuple(record.turn for record in chat[:-1])
    with pytest.raises(TooLong, match="more than 1,000; start a new chat"):
        chat[-1].comparison(chat)


@pytest.mark.parametrize("ids", [[0] * (MAX_TOKENS + 1), [2**32], [-1], [10**400]])
def test_token_ids_are_bounded_wherever_they_stand(ids):
    for kind, value, field in (
        (Comparison, ASKED, "prefill_base"),
        (Comparison, ASKED, "prefill_post"),
        (SideReceipt, values.side_receipt(1, 2).model_dump(), "token_ids"),
    ):
        for given in (ids, tuple(ids)):
            with pytest.raises(ValidationError) as raised:
                kind.model_validate({**value, field: given})
            explained = explain(raised.value)
            assert str(explained).startswith(field) and type(explained) is UserError and len(str(explained)) < 200
    assert Comparison.model_validate({**ASKED, "prefill_base": [0, 2**32 - 1]}).prefill_base == (0, 2**32 - 1)


def test_values_are_frozen():
    comparison = Comparison.model_validate(ASKED)
    with pytest.raises(ValidationError):
        comparison.prompt = "Another"


def test_a_comparison_survives_json_unchanged():
    conversation = {"system": "\U0001f600 \x00 \u202e", "turns": [{"prompt": "a\r\n\tb", "base": "", "post": " c "}]}
    comparison = Comparison.model_validate({**ASKED, "conversation": conversation})
    assert Comparison.model_validate_json(comparison.model_dump_json()) == comparison
    assert Comparison.model_validate(json.loads(json.dumps(comparison.model_dump(mode="json")))) == comparison


@pytest.mark.parametrize("name", Sampling.model_fields)
def test_no_sampling_field_has_a_hidden_default(name):
    settings = DEFAULT_SAMPLING.model_dump()
    del settings[name]
    assert refusal(Sampling, settings) == f"{name}: field required."


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("seed", -1, "greater than or equal to 0"),
        ("seed", MAX_SEED + 1, f"less than or equal to {MAX_SEED}"),
        ("seed", 1.7, "use a whole number"),
        ("temperature", -0.1, "greater than or equal to 0"),
        ("temperature", 2.5, "less than or equal to 2"),
        ("temperature", 0.001, "use 0 (greedy) or at least 0.01"),
        ("temperature", float("nan"), "finite number"),
        ("temperature", float("inf"), "finite number"),
        ("top_p", 0, "greater than 0"),
        ("top_k", -1, "greater than or equal to 0"),
        ("min_p", 1.5, "less than or equal to 1"),
        ("repetition_penalty", 0, "greater than or equal to 0.1"),
        ("max_new_tokens", 0, "greater than or equal to 1"),
        ("max_new_tokens", 10**9, "less than or equal to 32768"),
        ("luck", 1, "not permitted"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(name, value, sentence):
    explained = refusal(Sampling, {**DEFAULT_SAMPLING.model_dump(), name: value})
    assert explained.startswith(f"{name}: ") and sentence in explained and explained.endswith(".")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"pair": ""}, "pair: "),
        ({"prompt": None}, "prompt: "),
        ({"prompt": "x" * (MAX_CHARACTERS + 1)}, f"at most {MAX_CHARACTERS} characters"),
        ({"prompt": "\ud83d"}, "prompt: it holds half of a surrogate pair"),
        ({"today": "yesterday"}, "today: "),
        ({"framing_base": "poem"}, "framing_base: "),
        ({"conversation": {"turns": [{"prompt": "a", "base": "b"}]}}, "conversation.turns.0.post: field required."),
        ({"sampling": {**DEFAULT_SAMPLING.model_dump(), "seed": "many"}}, "sampling.seed: "),
        ({"colour": "red"}, "colour: "),
    ],
)
def test_the_first_mistake_of_a_comparison_is_named(change, sentence):
    explained = refusal(Comparison, {**ASKED, **change})
    assert sentence in explained and "\n" not in explained and len(explained) < 200


@pytest.mark.parametrize("today", ["2024-13-45", "2023-02-29", "\u0662\u0660\u0662\u0664-01-01", "2024-1-1"])
def test_a_day_that_no_calendar_has_is_refused(today):
    with pytest.raises(ValidationError):
        Comparison(pair="p", prompt="x", sampling=DEFAULT_SAMPLING, today=today)


def test_a_long_list_of_mistakes_is_one_mistake():
    data = {
        "pair": "p",
        "prompt": "x",
        "sampling": DEFAULT_SAMPLING,
        "today": "2026-01-01",
        "prefill_base": ["a"] * 1000,
    }
    with pytest.raises(ValidationError) as caught:
        Comparison.model_validate(data)
    assert caught.value.error_count() == 1


def test_a_field_that_nobody_knows_is_named_in_part():
    explained = refusal(Comparison, {**ASKED, "[" * 5_000: 1})
    assert explained.startswith("[[[") and "extra inputs" in explained and len(explained) < 200


@pytest.mark.parametrize("number", [10**400, -(10**400), 2**53 + 1])
def test_a_number_that_nothing_can_be_computed_with_is_refused_wherever_a_receipt_has_one(number):
    kept = values.side_receipt(1, 2, 3).model_dump()
    for place in ("usage", "engine", "checkpoint", None):
        for name, value in (kept[place] if place else kept).items():
            if type(value) is int:
                changed = {**kept, place: {**kept[place], name: number}} if place else {**kept, name: number}
                assert name in refusal(values.SideReceipt, changed)
