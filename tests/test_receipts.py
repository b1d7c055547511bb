"""Receipts: what goes into the file comes out of it, and whatever was changed in between is named."""

import json
from contextlib import suppress
from copy import deepcopy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import canonical, receipts, schemas
from core.errors import UserError
from core.types import Conversation, Dial, SideReceipt, Turn
from tests import values


def file_of(receipt) -> bytes:
    return receipts.write(receipt).encode()


def data_of(receipt) -> dict:
    return canonical.dump(receipt)


def refused(data) -> str:
    """The sentence with which these bytes, or this JSON data, are refused as a receipt."""
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    with pytest.raises(UserError) as refusal:
        receipts.read(raw)
    return str(refusal.value)


def test_the_smallest_margin_ignores_tokens_that_had_no_rival():
    assert receipts.smallest_margin((None, 0.5, 0.25, None)) == 0.25
    assert receipts.smallest_margin((None,)) is None


@pytest.mark.parametrize("failed", ["base", "post"])
def test_a_turn_with_one_failed_side_has_no_receipt_and_the_turns_beside_it_have(failed):
    chat = (values.record("One"), values.record("Two", failed=failed), values.record("Three"))
    with pytest.raises(UserError, match="Turn 2 has no receipt"):
        receipts.of_turn(chat, 1)
    third = receipts.of_turn(chat, 2)
    assert third.comparison == chat[2].comparison(chat[:2])
    assert (third.base, third.post) == (chat[2].base, chat[2].post)


# --- identities ---------------------------------------------------------------------------------------

MARGINS = st.one_of(st.none(), st.floats(0, 1e300))


@settings(deadline=None, max_examples=60)
@given(values.COMPARISONS, st.lists(st.tuples(st.integers(0, 200_000), MARGINS), max_size=20))
def test_receipt_to_file_to_receipt_is_the_identity(comparison, tokens):
    ids, margins = tuple(id for id, _ in tokens), tuple(margin for _, margin in tokens)
    known = [margin for margin in margins if margin is not None]
    receipt = values.receipt(comparison, base=ids, margins=(), smallest_margin=None)
    side = receipt.base.model_copy(update={"margins": margins, "smallest_margin": min(known, default=None)})
    receipt = receipts.make(comparison, side, receipt.post)
    assert receipts.read(file_of(receipt)) == receipt
    assert file_of(receipts.read(file_of(receipt))) == file_of(receipt)


def test_a_file_that_passed_through_another_json_writer_is_the_same_receipt():
    """JavaScript writes 1.0 as 1, escapes what it likes and knows no order of keys."""
    receipt = values.receipt(values.COMPARISON.model_copy(update={"prompt": "caf\u00e9 \U0001f30a\0 \u2028"}))

    def rewritten(value):
        if isinstance(value, dict):
            return {key: rewritten(value[key]) for key in reversed(value)}
        if isinstance(value, list):
            return [rewritten(item) for item in value]
        return int(value) if isinstance(value, float) and value.is_integer() else value

    assert receipts.read(json.dumps(rewritten(data_of(receipt)), indent=1).encode()) == receipt


def test_lists_of_numbers_stay_on_one_line():
    text = receipts.write(values.receipt(base=range(300)))
    assert len(text.splitlines()) < 250


# --- tampering ----------------------------------------------------------------------------------------

_TURN = Turn(prompt="a", base="b", post="c")
_TALK = values.COMPARISON.model_copy(
    update={"conversation": Conversation(system="Be kind.", turns=(_TURN,)), "dial": Dial(amount=0.5)}
)
_ONE_SIDED = values.one_sided(_TALK, prompt_ids=(1, 2), stops=("a", "b"))
_FIELDS = canonical.leaves(data_of(values.receipt(_TALK)))


def changed(value):
    """Another value of the same kind, so that the schema has nothing to say."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case list() if value and all(isinstance(item, int | float) for item in value):
            return [value[0] + 1, *value[1:]]
        case list():
            return [{"prompt": "p", "base": "b", "post": "c"}]
        case "base" | "post":
            return "base" if value == "post" else "post"
        case list() if value and all(isinstance(item, str) for item in value):
            return [*value, "c"]
        case str() if value and set(value) <= set("0123456789abcdef"):
            return ("0" if value[0] != "0" else "1") + value[1:]
        case "2026-01-02":
            return "2026-01-03"
        case "document" | "chat":
            return "transcript"
        case "logits":
            return "weights"
        case "eos":
            return "length"
        case str():
            return value + "!"
    raise AssertionError(value)


@pytest.mark.parametrize("path", _FIELDS)
def test_a_change_of_any_field_is_caught_and_named(path):
    assert_named(path, data_of(values.receipt(_TALK)))


@pytest.mark.parametrize("path", [path for path in canonical.leaves(data_of(_ONE_SIDED)) if path not in _FIELDS])
def test_a_change_of_any_field_that_only_a_one_sided_receipt_has_is_caught_and_named(path):
    assert_named(path, data_of(_ONE_SIDED))


def assert_named(path, data):
    place = data
    steps = [path.split(".")[0], path.removeprefix("seals.")] if path.startswith("seals.") else path.split(".")
    for step in steps[:-1]:
        place = place[int(step)] if isinstance(place, list) else place[step]
    place[steps[-1]] = changed(place[steps[-1]])
    sentence = refused(data)
    assert path.removeprefix("seals.") in sentence.replace("schema version", "schema_version"), sentence


def test_a_change_of_any_token_or_margin_is_caught_and_named():
    original = data_of(values.receipt(base=range(40)))
    for field in ("token_ids", "margins"):
        for step in range(40):
            data = deepcopy(original)
            data["base"][field][step] += 1
            assert f"base.{field}" in refused(data)


def test_a_field_that_was_added_or_removed_is_named():
    data = data_of(values.receipt())
    assert "base.notes" in refused({**data, "base": {**data["base"], "notes": "x"}})
    assert "prompt" in refused({**data, "comparison": {k: v for k, v in data["comparison"].items() if k != "prompt"}})
    with_turn = {**data["comparison"]["conversation"], "turns": [{"prompt": "p", "base": "b", "post": "c"}]}
    assert "conversation.turns" in refused({**data, "comparison": {**data["comparison"], "conversation": with_turn}})
    versions = {**data["base"]["engine"]["versions"], "cuda": "13"}
    assert "versions.cuda" in refused(
        {**data, "base": {**data["base"], "engine": {**data["base"]["engine"], "versions": versions}}}
    )


@pytest.mark.parametrize(
    "field, value",
    [
        ("token_ids", (5, 6, 1)),
        ("output_sha256", "0" * 64),
        ("smallest_margin", 9.0),
        ("margins", (1.0,)),
        ("sampling", values.DEFAULT_SAMPLING.model_copy(update={"seed": 5})),
    ],
)
def test_fields_that_contradict_each_other_are_named_whoever_sealed_them(field, value):
    sound = values.receipt()
    forged = receipts.make(sound.comparison, sound.base.model_copy(update={field: value}), sound.post)
    sentence = refused(file_of(forged))
    named = {"token_ids": "output_sha256"}.get(field, field)  # what is recomputed from them contradicts them
    assert f"base.{named} is not the original" in sentence
    assert "contradicts" in sentence


def test_a_file_of_4_mib_is_read_and_one_byte_more_is_refused():
    file = file_of(values.receipt())
    padded = file + b" " * (4 * 2**20 - len(file))
    assert receipts.read(padded) == values.receipt()
    assert "at most 4,194,304 are read" in refused(padded + b" ")


def test_the_receipt_is_found_in_an_answer_that_holds_it():
    receipt = values.receipt()
    assert receipts.within({"receipt": data_of(receipt), "base": {}}) == receipts.within(data_of(receipt)) == receipt
    for nothing in (["receipt"], {"receipt": None}, {}):
        with pytest.raises(UserError, match="not a receipt"):
            receipts.within(nothing)


def test_older_and_newer_schemas_are_refused_by_name():
    data = data_of(values.receipt())
    assert "schema version 3" in refused({**data, "schema_version": 3})
    assert "newer" in refused({**data, "schema_version": 3})
    assert "not a sound receipt of schema version 2; " in refused({**data, "schema_version": 2})
    assert "schema version 0" in refused({**data, "schema_version": 0})
    for odd in ("1", 1.0, True, None, [1]):
        assert "schema version" in refused({**data, "schema_version": odd})


# --- hostile files ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data, expected",
    [
        (b"", "JSON"),
        (b"\xff\xfe\x00", "JSON"),
        (b"[" * 100_000, "JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "JSON"),
        (b'{"schema_version": NaN}', "NaN"),
        (b'{"schema_version": 1, "schema_version": 1}', "twice"),
        (b'{"schema_version": 1, "app_version": "\\ud800"}', "surrogate"),
        (b'{"schema_version": 1, "app_version": 1e999}', "an infinity"),
        (b"null", "not a receipt"),
        (b"[]", "not a receipt"),
        (b" " * (receipts.MAX_BYTES + 1), "bytes long"),
    ],
)
def test_hostile_files_get_one_sentence(data, expected):
    assert expected in refused(data)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_but_a_sentence(data):
    assert refused(data)


_GOOD = file_of(values.receipt())


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_no_damage_to_a_good_receipt_raises_anything_but_a_sentence(data):
    start = data.draw(st.integers(0, len(_GOOD)))
    end = data.draw(st.integers(start, min(len(_GOOD), start + 40)))
    damaged = _GOOD[:start] + data.draw(st.binary(max_size=20)) + _GOOD[end:]
    with suppress(UserError):
        assert receipts.read(damaged) == receipts.read(_GOOD), "only what means the same may still be read"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(sorted(data_of(values.receipt()))), JSON)
def test_no_json_in_any_field_raises_anything_but_a_sentence(field, value):
    with pytest.raises(UserError):
        receipts.from_data(
            {**data_of(values.receipt()), field: value if value != data_of(values.receipt())[field] else None}
        )


# --- the schema ---------------------------------------------------------------------------------------


def test_the_schemas_in_docs_are_current():
    kept = {file.name: file.read_text("utf-8") for file in schemas.FOLDER.glob("*.json")}
    assert kept == schemas.documents(), "run: python -m core.schemas"


def test_receipts_hold_no_path_and_no_name_of_the_machine():
    """What may name something local is listed here, so that a new field is looked at."""
    assert set(SideReceipt.model_fields) == {
        "checkpoint", "weights_sha256", "engine", "sampling", "prompt_tokens", "prompt_sha256",
        "token_ids",
        "reasoning_tokens", "output_sha256", "finish_reason", "smallest_margin", "margins", "usage",
    }  # fmt: skip


def test_a_field_that_was_added_is_named_in_part():
    data = data_of(values.receipt())
    data["base"]["engine"]["versions"]["[" * 5_000] = "1"
    with pytest.raises(UserError, match=r"base\.engine\.versions.*was added") as told:
        receipts.from_data(data)
    assert len(str(told.value)) < 250


# --- one side alone -----------------------------------------------------------------------------------


def test_a_receipt_of_one_side_is_read_as_it_was_written_and_holds_nothing_of_the_other():
    for receipt in (_ONE_SIDED, values.one_sided()):
        assert receipts.read(file_of(receipt)) == receipt and file_of(receipts.read(file_of(receipt))) == file_of(
            receipt
        )
    assert "prompt_ids" not in data_of(values.one_sided()) and "stops" not in data_of(values.one_sided())
    with pytest.raises(UserError, match="of one side alone"):
        receipts.within(data_of(values.one_sided()))


def test_token_ids_that_contradict_what_was_sent_are_refused_whoever_sealed_them():
    wrong = values.one_sided(prompt_ids=(1, 2), prompt_sha256="e" * 64)
    assert "reply.prompt_sha256" in refused(data_of(wrong))
