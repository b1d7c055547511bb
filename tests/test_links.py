"""Links: a comparison survives its link, and nothing else gets in by one."""

import base64
import json
import random
import zlib
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from core import canonical, links
from core.checkpoints.tokenizers import read_tokenizer
from core.errors import UserError
from core.links import Shared
from core.pairs import HOME
from core.types import Conversation, LensChoice, Side, Turn
from tests import values

SHARED = links.of_receipt(values.receipt())


def packed(data: bytes, level: int = 6) -> str:
    return links.PREFIX + base64.urlsafe_b64encode(zlib.compress(data, level)).decode().rstrip("=")


def data_of(shared: Shared) -> dict:
    return canonical.dump(shared)


def refused(fragment: str) -> str:
    with pytest.raises(UserError) as refusal:
        links.decode(fragment)
    sentence = str(refusal.value)
    assert len(sentence) < 500
    return sentence


# --- identities ---------------------------------------------------------------------------------------

OUTPUTS = st.one_of(st.none(), st.just(SHARED.base))


@settings(deadline=None, max_examples=80)
@given(values.COMPARISONS, OUTPUTS, OUTPUTS)
def test_comparison_to_link_to_comparison_is_the_identity(comparison, base, post):
    shared = Shared(comparison=comparison, base=base, post=post)
    assert links.decode(links.encode(shared)) == shared


@pytest.mark.parametrize(
    "characters",
    [
        [chr(i) for i in range(32, 127)],
        [chr(i) for i in range(0, 32)],
        [chr(i) for i in (*range(0, 0xD800), *range(0xE000, 0x110000))],
    ],
    ids=["printable ASCII", "control characters", "all of Unicode"],
)
def test_a_prompt_of_100_kB_that_hardly_compresses_fits(characters):
    draw, prompt = random.Random(1), ""
    while len(prompt.encode()) < 99_000:
        prompt += "".join(draw.choices(characters, k=250))
    shared = SHARED.model_copy(update={"comparison": values.COMPARISON.model_copy(update={"prompt": prompt})})
    assert links.decode(links.encode(shared)) == shared


def test_a_history_of_fifty_turns_fits():
    draw = random.Random(2)
    words = [f"{''.join(draw.choices('etaoinshrdlu', k=draw.randrange(2, 9)))}" for _ in range(3000)]
    turns = tuple(
        Turn(
            prompt=" ".join(draw.choices(words, k=12)),
            base=" ".join(draw.choices(words, k=60)),
            post=" ".join(draw.choices(words, k=60)),
        )
        for _ in range(50)
    )
    comparison = values.COMPARISON.model_copy(update={"conversation": Conversation(turns=turns)})
    shared = SHARED.model_copy(update={"comparison": comparison})
    assert links.decode(links.encode(shared)) == shared


def test_too_long_a_conversation_is_refused_with_its_size_and_the_receipt_offered():
    noise = random.Random(3).randbytes(150_000).hex()
    for prompt in (noise, "\U0001f600" * 400_000):
        turns = (Turn(prompt=prompt, base=prompt, post=prompt),)
        comparison = values.COMPARISON.model_copy(update={"conversation": Conversation(turns=turns)})
        with pytest.raises(UserError, match=r"too long for a link \([\d,]+ characters.*receipt"):
            links.encode(SHARED.model_copy(update={"comparison": comparison}))


def test_a_link_of_just_the_longest_length_is_made_and_read(monkeypatch):
    link = links.encode(SHARED)
    monkeypatch.setattr(links, "MAX_CHARACTERS", len(link))
    assert links.decode(links.encode(SHARED)) == SHARED
    monkeypatch.setattr(links, "MAX_CHARACTERS", len(link) - 1)
    for act in (lambda: links.encode(SHARED), lambda: links.decode(link)):
        with pytest.raises(UserError, match=f"{len(link) - 1:,} "):
            act()


def test_a_link_is_safe_in_a_url_and_deterministic():
    link = links.encode(SHARED)
    assert link == links.encode(Shared.model_validate(data_of(SHARED)))
    assert set(link.removeprefix("#c=")) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


# --- what mail and chat programs do to addresses -------------------------------------------------------

SEEDED = st.integers(0, 2**53 - 1).map(
    lambda seed: SHARED.model_copy(update={"comparison": values.COMPARISON.model_copy(update={
        "sampling": values.COMPARISON.sampling.model_copy(update={"seed": seed})})})
)  # fmt: skip
BREAKS = " \t\r\n\u00a0\u200b\u200c\u2028\u2060\ufeff\u00ad>|"
BEHIND = BREAKS + ".,;:!?)]}\"'*`~=\u2026\u2014\u201c\u201d\u2018\u2019\u201e\u00ab\u00bb\u3002\uff09-_"
BEFORE = st.sampled_from(
    ["", "https://example.org/", "<http://127.0.0.1:7860/seed/?a=1", "[https://a/#c=eNq](http://a/"]
)


def as_before(shared: Shared) -> str:
    """The link as it was written when it could end in anything."""
    return packed(canonical.text(data_of(shared)).encode(), 9)


@settings(deadline=None, max_examples=60)
@given(SEEDED)
def test_a_link_ends_in_a_letter_or_a_digit_and_says_the_same_as_before(shared):
    link, before = links.encode(shared), as_before(shared)
    assert link[-1].isalnum() and link[-1].isascii()
    assert (link == before) == before[-1].isalnum()
    assert links.decode(link) == links.decode(before) == shared


def ending_otherwise() -> list[Shared]:
    seeds = (values.COMPARISON.sampling.model_copy(update={"seed": seed}) for seed in range(200))
    made = (Shared(comparison=values.COMPARISON.model_copy(update={"sampling": sampling})) for sampling in seeds)
    return [shared for shared in made if as_before(shared)[-1] in "-_"]


def test_a_link_of_before_is_read_with_and_without_the_character_that_programs_leave_out():
    found = ending_otherwise()
    assert {as_before(shared)[-1] for shared in found} == {"-", "_"}
    for shared in found:
        before = as_before(shared)
        assert links.decode(before) == links.decode(before[:-1]) == links.decode(before[:-1] + ".") == shared
        assert links.encode(shared)[-1].isalnum()


@settings(deadline=None, max_examples=120)
@given(
    st.one_of(SEEDED, st.sampled_from(ending_otherwise())),
    st.booleans(),
    BEFORE,
    st.text(st.sampled_from(BEHIND), max_size=6),
    st.lists(st.tuples(st.floats(0, 1), st.text(st.sampled_from(BREAKS), min_size=1, max_size=3)), max_size=4),
    st.integers(0, 2),
)
def test_whatever_a_program_adds_to_a_link_does_not_change_what_it_says(shared, old, before, behind, breaks, escapes):
    link = as_before(shared) if old else links.encode(shared)
    body = link.removeprefix(links.PREFIX)
    for share, added in breaks:
        place = int(share * len(body))
        body = body[:place] + added + body[place:]
    address = before + links.PREFIX + body + behind
    for _ in range(escapes):
        address = quote(address, safe="")
    assert links.decode(address) == shared


@settings(deadline=None, max_examples=60)
@given(st.integers(min_value=0), st.sampled_from("ABCxyz019-_"))
@example(540, "0")  # bits between the compressed text and its checksum, which say nothing
def test_a_letter_that_is_not_the_links_own_is_damage_or_says_nothing(place, letter):
    link = links.encode(SHARED)
    place = len(links.PREFIX) + place % (len(link) - len(links.PREFIX))
    try:
        assert links.decode(link[:place] + letter + link[place + 1 :]) == SHARED
    except UserError as refusal:
        assert "damaged" in str(refusal)


@pytest.mark.parametrize("letter", "xyz")
def test_another_last_letter_is_damage(letter):
    link = links.encode(SHARED)
    assert link[-1] != letter and "damaged" in refused(link[:-1] + letter)


# --- the replies ---------------------------------------------------------------------------------------


def test_a_link_carries_the_replies_and_shows_them_without_a_receipt():
    chat = (values.record("One"), values.record("Two", base="A reply", post="Another", prefill_post=(9,)))
    shared = links.decode(links.encode(links.of_turn(chat, 1)))
    assert (shared.base.token_ids, shared.post.token_ids) == ((1, 2, 3), (4, 5)) and shared.carries_replies
    record = links.record(shared)
    assert record == chat[1].model_copy(update={"base": None, "post": None})
    assert record.comparison(chat[:1]) == shared.comparison


def test_a_reply_that_was_stopped_before_its_first_token_is_shared_as_empty():
    record = values.record("One").model_copy(update={"base": values.side_receipt(finish_reason="stopped")})
    record = record.model_copy(update={"turn": Turn(prompt="One", base="", post="Yes")})
    shared = links.decode(links.encode(links.of_turn((record,), 0)))
    assert shared.carries_replies and links.record(shared).turn == record.turn


def test_a_side_that_failed_has_no_text_in_a_link():
    record = links.record(links.of_turn((values.record("One", failed="post", post="Half of"),), 0))
    assert (record.turn.base, record.turn.post) == ("One and so on", "")


def test_a_link_of_before_and_one_without_replies_has_none_to_show():
    for changes in ({"base": None, "post": None}, {"base": SHARED.base.model_copy(update={"token_ids": ()})}):
        shared = SHARED.model_copy(update=changes)
        assert not shared.carries_replies and links.record(shared, lambda: pytest.fail("nobody is asked")) is None


def test_replies_without_texts_are_spelled_where_the_tokenizers_are():
    tokenizer = read_tokenizer(HOME / "Llama-Same-Seed-2-6M-Chat", "the embedded tokenizer")
    texts: dict[Side, str] = {"base": " A sea of words.", "post": "Caf\u00e9 \U0001f600!"}
    ids = {side: tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for side, text in texts.items()}
    begun = values.COMPARISON.model_copy(update={"prefill_post": ids["post"][:2]})
    shared = links.of_receipt(values.receipt(begun, base=ids["base"], post=(*ids["post"][2:], tokenizer.eos_token_id)))
    assert links.record(shared) is None, "nobody to spell them"
    record = links.record(shared, lambda: {"base": tokenizer, "post": tokenizer})
    assert (record.turn.base, record.turn.post) == (texts["base"], texts["post"]), (
        "with what it was given to begin with"
    )
    unknown = begun.model_copy(update={"prefill_base": (10**6,)})
    assert links.record(shared.model_copy(update={"comparison": unknown}), lambda: {"base": tokenizer, "post": tokenizer}) is None  # fmt: skip


def test_replies_that_make_a_link_too_long_are_left_out_and_the_link_still_checks(monkeypatch):
    whole = links.of_turn((values.record("One", base=random.Random(5).randbytes(3000).hex()),), 0)
    assert links.fitting(whole) == whole
    monkeypatch.setattr(links, "MAX_CHARACTERS", len(links.encode(whole)) - 1)
    fitting = links.fitting(whole)
    assert not fitting.carries_replies and links.record(fitting) is None
    assert fitting.base.sha256 == whole.base.sha256 and len(links.encode(fitting)) < 2000
    assert links.decode(links.encode(fitting)) == fitting


def test_a_text_that_is_not_that_of_its_tokens_is_told_once_they_are_run():
    shared = links.of_turn((values.record("One", base="What it said", post="And this"),), 0)
    sides = {"base": values.side_receipt(1, 2, 3), "post": values.side_receipt(4, 5, weights="b")}
    texts: dict[Side, str] = {"base": "What it said", "post": "And this"}
    assert links.differences(shared, sides, texts) == links.differences(shared, sides) == {}
    found = links.differences(shared, sides, {**texts, "post": "And that"})
    assert list(found) == ["post"] and "another text" in found["post"]


def test_a_text_that_was_stopped_inside_a_character_is_the_beginning_of_the_whole():
    stopped = values.record("One", base="Caf\ufffd")
    stopped = stopped.model_copy(update={"base": values.side_receipt(1, 2, finish_reason="stopped")})
    shared, sides = links.of_turn((stopped,), 0), {"base": values.side_receipt(1, 2, 3), "post": stopped.post}
    assert links.differences(shared, sides, {"base": "Caf\u00e9 au lait", "post": stopped.turn.post}) == {}
    assert "base" in links.differences(shared, sides, {"base": "Tea", "post": stopped.turn.post})


# --- one turn --------------------------------------------------------------------------------------------


def test_a_kept_turn_links_to_the_comparison_that_it_was():
    chat = (values.record("One"), values.record("Two"), values.record("Three", failed="post"))
    shared = links.of_turn(chat, 1)
    assert shared.comparison.prompt == "Two"
    assert [turn.prompt for turn in shared.comparison.conversation.turns] == ["One"]
    assert shared.base.sha256 == chat[1].base.output_sha256
    assert links.of_turn(chat, 2).post is None
    assert shared.lens is None
    lens = LensChoice(side="base", context="own")
    assert links.decode(links.encode(links.of_turn(chat, 1, lens))).lens == lens


# --- strangers' links ---------------------------------------------------------------------------------


def bomb() -> str:
    return packed(b" " * 60_000_000)


HOSTILE = {
    "nothing": "",
    "only the prefix": "#c=",
    "not base64": "#c=<script>alert(1)</script>",
    "only its beginning": "#c",
    "a word inside": "#c=" + links.encode(SHARED)[3:50] + " and " + links.encode(SHARED)[50:],
    "a sentence behind": links.encode(SHARED) + " Have a look!",
    "percent signs": "#c=" + "%25" * 90_000,
    "dashes": "#c=" + "-_" * 70_000,
    "cut short": links.encode(SHARED)[:-9],
    "not zlib": "#c=" + base64.urlsafe_b64encode(b"hello there").decode().rstrip("="),
    "more behind the end": "#c=" + base64.urlsafe_b64encode(zlib.compress(b"{}") + b"more").decode().rstrip("="),
    "a zlib bomb": bomb(),
    "10 MB": "#c=" + "A" * 10_000_000,
    "not JSON": packed(b"hello"),
    "not UTF-8": packed(b"\xff\xfe"),
    "deeply nested": packed(b"[" * 50_000),
    "NaN": packed(json.dumps(data_of(SHARED)).replace("0.7", "NaN").encode()),
    "an infinity": packed(json.dumps(data_of(SHARED)).replace("0.7", "1e999").encode()),
    "another version": packed(json.dumps({**data_of(SHARED), "version": 2}).encode()),
    "a list": packed(b"[1]"),
    "null": packed(b"null"),
    "an unknown field": packed(json.dumps({**data_of(SHARED), "admin": True}).encode()),
    "an unknown field inside": packed(json.dumps(data_of(SHARED)).replace('"prompt"', '"run": 1, "prompt"').encode()),
    "a key twice": packed(json.dumps(data_of(SHARED)).replace('"version": 1', '"version": 1, "version": 1').encode()),
    "half a surrogate pair": packed(json.dumps(data_of(SHARED)).replace("What is", "\\ud800 What is").encode()),
    "a huge temperature": packed(json.dumps(data_of(SHARED)).replace("0.7", "1e30").encode()),
    "a number as text": packed(json.dumps(data_of(SHARED)).replace("0.7", '"0.7"').encode()),
    "token ids of another reply": packed(json.dumps(data_of(SHARED)).replace("[5, 6, 7]", "[5, 6, 8]").encode()),
    "a token less than it says": packed(json.dumps(data_of(SHARED)).replace('"tokens": 3', '"tokens": 4').encode()),
    "no number of tokens": packed(json.dumps(data_of(SHARED)).replace('"tokens": 3, ', "").encode()),
    "less than no tokens": packed(json.dumps(data_of(SHARED)).replace('"tokens": 3', '"tokens": -3').encode()),
    "a seed of 1.7": packed(json.dumps(data_of(SHARED)).replace("1234", "1.7").encode()),
    "a receipt": packed(json.dumps(canonical.dump(values.receipt())).encode()),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_links_get_one_sentence(name):
    assert refused(HOSTILE[name]).count(". ") <= 1


def test_the_sentence_says_what_is_wrong():
    assert "unpacks to more than" in refused(bomb())
    assert "another version" in refused(HOSTILE["another version"])
    assert "longer than" in refused(HOSTILE["10 MB"])
    for altered in ("token ids of another reply", "a token less than it says", "less than no tokens"):
        assert "was altered or damaged" in refused(HOSTILE[altered])


def test_a_link_of_many_turns_is_refused_where_the_reading_of_it_has_come_to_enough_of_them():
    turn = {"prompt": "a", "base": "b", "post": "c"}
    asked = {**canonical.dump(values.COMPARISON), "conversation": {"system": "", "turns": [turn] * 90_000}}
    data = json.dumps({**data_of(SHARED), "comparison": asked}).encode()
    assert len(packed(data, 9)) < 20_000
    assert "more than 5,000 objects" in refused(packed(data))
    assert "more than 5,000 objects" in refused(packed(data[:-1000])), "it never came to where this is no JSON"
    few = {**asked, "conversation": {"system": "", "turns": [turn] * 1001}}
    assert "turns: there are more than 1,000" in refused(
        packed(json.dumps({**data_of(SHARED), "comparison": few}).encode())
    )
    most = {**asked, "conversation": {"system": "", "turns": [turn] * 1000}}
    assert links.decode(packed(json.dumps({**data_of(SHARED), "comparison": most}).encode()))


@settings(deadline=None, max_examples=300)
@given(
    st.one_of(
        st.text(max_size=200),
        st.binary(max_size=200).map(packed),
        st.binary(max_size=200).map(lambda b: "#c=" + base64.urlsafe_b64encode(b).decode()),
    )
)
def test_no_text_raises_anything_but_a_sentence(text):
    assert refused(text)


# --- are these the replies that were shared? ------------------------------------------------------------


def here(base=(5, 6, 7), post=(8, 9), **changes):
    receipt = values.receipt(base=base, post=post, **changes)
    return {"base": receipt.base, "post": receipt.post}


def test_the_replies_that_were_shared_are_recognised():
    assert links.differences(SHARED, here()) == {}


@pytest.mark.parametrize(
    "sides, side, why",
    [
        (here(base=(5, 6, 8)), "base", "the same weights wrote something else"),
        (here(post=(8,), finish_reason="stopped"), "post", "stopped here"),
        (
            {**here(), "post": values.side_receipt(1, weights="e")},
            "post",
            "other weights (bbbbbbbb when it was shared, eeeeeeee here)",
        ),
        ({**here(), "base": None}, "base", "failed here"),
    ],
)
def test_other_replies_are_told_with_the_reason(sides, side, why):
    found = links.differences(SHARED, sides)
    assert list(found) == [side]
    assert why in found[side]


def test_the_version_that_has_the_weights_of_an_earlier_embedded_pair_is_named():
    earlier = json.loads((Path(__file__).parent / "data" / "v1" / "receipt.json").read_text("utf-8"))
    output = SHARED.base.model_copy(update={"weights_sha256": earlier["base"]["weights_sha256"]})
    found = links.differences(SHARED.model_copy(update={"base": output}), here(base=(5, 6, 8)))
    assert found["base"] == "other weights (440ce88f, of version 0.1.0 of this app, when it was shared, aaaaaaaa here)"


def test_a_reply_that_was_stopped_is_compared_as_far_as_it_went():
    stopped = links.of_receipt(values.receipt(base=(5, 6), finish_reason="stopped"))
    assert "base" not in links.differences(stopped, here())
    assert "base" in links.differences(stopped, here(base=(5, 7, 7)))
