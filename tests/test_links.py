"""Links: a comparison survives its link, and nothing else gets in by one."""

import base64
import json
import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import canonical, links
from core.errors import UserError
from core.links import Shared
from core.types import Conversation, Turn
from tests import values

SHARED = links.of_receipt(values.receipt())


def packed(data: bytes) -> str:
    return links.PREFIX + base64.urlsafe_b64encode(zlib.compress(data)).decode().rstrip("=")


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
    for prompt in (noise, "a" * 400_000):
        turns = (Turn(prompt=prompt, base=prompt, post=prompt),) * (4 if prompt[0] == "a" else 1)
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


def test_a_kept_turn_links_to_the_comparison_that_it_was():
    chat = (values.record("One"), values.record("Two"), values.record("Three", failed="post"))
    shared = links.of_turn(chat, 1)
    assert shared.comparison.prompt == "Two"
    assert [turn.prompt for turn in shared.comparison.conversation.turns] == ["One"]
    assert shared.base.sha256 == chat[1].base.output_sha256
    assert links.of_turn(chat, 2).post is None


# --- strangers' links ---------------------------------------------------------------------------------


def bomb() -> str:
    return packed(b" " * 60_000_000)


HOSTILE = {
    "nothing": "",
    "only the prefix": "#c=",
    "not base64": "#c=<script>alert(1)</script>",
    "base64 with a space": "#c=" + links.encode(SHARED)[3:50] + " " + links.encode(SHARED)[50:],
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
    "a receipt": packed(json.dumps(canonical.dump(values.receipt())).encode()),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_links_get_one_sentence(name):
    assert refused(HOSTILE[name]).count(". ") <= 1


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


def test_a_reply_that_was_stopped_is_compared_as_far_as_it_went():
    stopped = links.of_receipt(values.receipt(base=(5, 6), finish_reason="stopped"))
    assert "base" not in links.differences(stopped, here())
    assert "base" in links.differences(stopped, here(base=(5, 7, 7)))
