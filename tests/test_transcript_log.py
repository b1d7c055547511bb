"""What a running turn writes for its script, drawn as the script draws it; and what the rows of the transcript say."""

import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.prompts import Piece, Prompt
from core.reasoning import Split
from core.reproduce import Code
from core.types import SIDES, Deviation, Dial, Record, Reply, Side, Snapshot, Turn
from core.ui.compare import render, tab
from core.ui.compare.log import Line, Log
from core.ui.compare.session import Live
from core.ui.markdown import markdown, marked
from core.ui.markup import given as given_mark
from core.ui.markup import visible
from tests.values import COMPARISON, ENGINE, record, side_receipt


def marks(drawn: str) -> list[str]:
    """What is marked as given, as it is read."""
    return [Page(found).text for found in re.findall("<mark class='given'[^>]*>(.*?)</mark>", drawn, re.DOTALL)]


def live(base: Reply, post: Reply, ends=None) -> Live:
    return Live(COMPARISON, Snapshot(base=base, post=post), {}, ends or {}, "")


def units(text: str, count: int) -> str:
    """The first `count` UTF-16 code units, by which a script counts."""
    return text.encode("utf-16-le")[: 2 * count].decode("utf-16-le")


class Script:
    """What transcript.js keeps of a running turn, line by line."""

    def __init__(self) -> None:
        self.rows: list[str] = []
        self.heads = self.caption = self.breaks = self.words = self.waiting = ""
        self.blocks: list[str] = []
        self.children: list[str] = []  # the elements of the post-trained reply
        self.facts: dict[Side, str] = {}
        self.thoughts: dict[Side, str] = dict.fromkeys(SIDES, "")
        self.ended: dict[str, object] = {}

    def follow(self, line: Line) -> None:
        if "row" in line:
            self.rows.append(line["row"])
        for name in ("waiting", "heads", "caption", "again", "breaks", "base", "thought", "facts", "post"):
            if name in line:
                getattr(self, f"_{name}")(line[name])
        if "end" in line or "error" in line:
            self.ended = line

    def _waiting(self, text):
        self.waiting = text

    def _heads(self, text):
        self.waiting, self.heads = "", text

    def _caption(self, text):
        self.caption = text

    def _again(self, _):
        self.breaks = self.words = ""

    def _breaks(self, marks):
        self.breaks += marks

    def _base(self, text):
        self.words += text

    def _thought(self, thoughts):
        for side, (stays, rest) in thoughts.items():
            self.thoughts[side] = units(self.thoughts[side], stays) + rest

    def _facts(self, facts):
        self.facts |= facts

    def _post(self, change):
        first, stays, rest, *more = change
        before = self.blocks[first] if first < len(self.blocks) else ""
        fresh = [units(before, stays) + rest, *more]
        self.blocks[first:] = fresh
        self.children[first:] = [block for block in fresh if block]

    def shows(self, snapshot: Snapshot, ends=None) -> None:
        """What it shows is what the row would say if the turn ended here."""
        base, post = snapshot.base, snapshot.post
        breaks, words = render.opening(base.text)
        assert (self.breaks, self.words) == (breaks if words else "", words)
        if base.text.strip():
            assert self.breaks + html.escape(self.words) == render.body("base", base, None)
        assert "".join(self.children) == markdown(post.text)
        if post.text.strip():
            assert "".join(self.children) == render.body("post", post, None)
        for side in SIDES:
            reply = snapshot.reply(side)
            assert self.thoughts[side] == reply.reasoning.lstrip("\n")
            assert self.facts[side] == render.said(reply, (ends or {}).get(side))


# --- a running turn -----------------------------------------------------------------------------------

PARTS = ["\n", "\n", "\n\n", "a", " word", "<b>", "&amp;", "\u00e9", "\U0001f642", "\U0001f469\u200d\U0001f4bb", "- ", "# ", "```\n"]  # fmt: skip
PARTS += ["| a | b |\n", "|---|---|\n", "**", "`", "1. ", "> ", "\r\n", "\u2028", "\x00", '"', "\\"]
TEXTS = st.lists(st.sampled_from(PARTS), max_size=16).map("".join)
LENGTHS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 2)), min_size=1, max_size=8).map(sorted)


@settings(max_examples=120)
@given(TEXTS, TEXTS, TEXTS, LENGTHS)
def test_whatever_is_written_the_script_shows_what_the_row_would(base, post, reasoning, views):
    """Also where the end is replaced (bytes that were no character yet)."""
    log, script = Log(3, "Hello"), Script()
    for length, broken in [*views, (99, 0)]:
        rest = "\ufffd" * broken
        snapshot = Snapshot(
            base=Reply(phase="writing", text=base[:length] + rest, token_ids=(1,) * length),
            post=Reply(phase="writing", text=post[:length] + rest, reasoning=reasoning[:length] + rest),
        )
        script.follow(log.view(live(snapshot.base, snapshot.post), ""))
        script.shows(snapshot)
    assert script.rows == [render.running_row(3, "Hello")]


@settings(max_examples=60)
@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=5))
def test_texts_that_have_nothing_in_common_replace_each_other(texts):
    log, script = Log(0, "Hello"), Script()
    for base, post, reasoning in texts:
        snapshot = Snapshot(base=Reply(text=base, reasoning=reasoning), post=Reply(text=post))
        script.follow(log.view(live(snapshot.base, snapshot.post), ""))
        script.shows(snapshot)


def test_a_view_is_one_line_that_holds_what_is_new():
    log = Log(2, "Hello")
    waiting = log.waiting("Downloading")
    first = log.view(live(Reply(phase="queued", ahead=1), Reply(phase="reading")), "<li>heads</li>")
    second = log.view(live(Reply(phase="writing", text="\n\nOnce"), Reply(phase="writing", text="One.\n\nTw")), "")
    third = log.view(live(Reply(phase="writing", text="\n\nOnce upon"), Reply(phase="writing", text="One.\n\nTwo")), "")
    same = log.view(live(Reply(phase="writing", text="\n\nOnce upon"), Reply(phase="writing", text="One.\n\nTwo")), "")
    told = [waiting, first, second, third, same]
    assert [line.pop("turn") for line in told] == [2] * 5
    assert waiting == {"row": render.running_row(2, "Hello"), "waiting": "Downloading"}
    assert first == {
        "heads": "<li>heads</li>",
        "caption": render.caption(COMPARISON),
        "facts": {"base": "Waiting, 1 ahead", "post": "Reading prompt"},
    }
    assert second["base"] == "Once" and second["breaks"].count("\u21b5") == 2
    assert second["post"] == [0, 0, "<p>One.</p>", "<p>Tw</p>"]
    assert third == {"base": " upon", "post": [1, 5, "o</p>"]}
    assert same == {}


def test_what_stays_is_counted_as_the_script_counts():
    log = Log(0, "Hello")
    texts = ("\U0001f642\U0001f642 a\ufffd", "\U0001f642\U0001f642 a\u00e9")
    for text in texts:
        told = log.view(live(Reply(text="", reasoning=text), Reply(text=text)), "")
    assert told["thought"] == {"base": [6, "\u00e9"]}
    assert told["post"] == [0, len("<p>") + 6, "\u00e9</p>"]


def test_a_base_reply_whose_end_was_no_character_yet_is_written_again():
    log = Log(0, "Hello")
    log.view(live(Reply(text="\ncaf\ufffd"), Reply()), "")
    told = log.view(live(Reply(text="\ncaf\u00e9 au"), Reply()), "")
    assert (told["again"], told["base"]) == (True, "caf\u00e9 au") and "1 line break'" in told["breaks"]


def test_how_a_turn_ended_is_a_line_of_its_own_without_the_row_that_was_running():
    assert Log(1, "Hello").end(end="<li></li>", rest=0) == {"turn": 1, "end": "<li></li>", "rest": 0}


def test_nothing_in_a_line_is_markup_of_a_stranger():
    line = Log(0, "<img src=x>").view(live(Reply(text=""), Reply(text="<img src=x>", phase="done")), "")
    assert "row" in line and "<img" not in json.dumps(line)


# --- rows -------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """A row as elements with their attributes, and all of its text."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.values: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        self.values += [value or "" for _, value in attrs]

    def handle_data(self, data):
        self.text += data


def silent(reply: Reply, side: Side = "base", end: str | None = "<|end|>") -> str:
    return Page(render.body(side, reply, end)).text


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(phase="done", finish_reason="eos", token_ids=(7,)), "Ended at once with <|end|>"),
        (Reply(phase="done", text=" \n", finish_reason="eos", token_ids=(1, 2, 7)), "Only white space, then <|end|>"),
        (Reply(phase="done", text="\n\n", finish_reason="length", token_ids=(1, 2)), "Only white space It drew 2 tok"),
        (Reply(phase="done", text="", finish_reason="stopped"), "Stopped before the first word"),
        (Reply(phase="done", reasoning="Hm.", finish_reason="length", token_ids=(1,)), "It ended before an answer"),
        (Reply(phase="failed", error="It <b>broke."), "This side failed. It <b>broke."),
        (Reply(phase="failed"), "This side failed. The other reply is whole"),
    ],
)
@pytest.mark.parametrize("side", SIDES)
def test_a_reply_without_words_is_said_in_words(reply, said, side):
    assert silent(reply, side).startswith(said)


def test_what_could_be_done_about_it_is_offered_where_something_can():
    silent_one = Reply(phase="done", finish_reason="eos", token_ids=(7,))
    assert "data-do='reseed'" in render.body("post", silent_one, None)
    assert "data-do='reframe'" not in render.body("post", silent_one, None)
    assert "data-do='reframe'" in render.body("base", silent_one, None)
    assert "data-do" not in render.body("base", Reply(phase="done", finish_reason="stopped"), None)
    assert "its end of text" in silent(silent_one, end=None)


@pytest.mark.parametrize("phase", ["idle", "queued", "reading", "writing"])
def test_a_reply_that_has_not_ended_is_not_called_silent(phase):
    assert render.body("base", Reply(phase=phase, text="\n"), None) == ""


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(phase="queued"), "Waiting, next"),
        (Reply(phase="queued", ahead=None), "Waiting for a free machine"),
        (Reply(phase="writing", token_ids=(1,)), "Writing, 1 token"),
        (Reply(phase="writing", token_ids=(1,) * 1200, reasoning_tokens=900), "Writing, 1,200 tokens (900 of reasoning)"),
        (Reply(phase="done", token_ids=(1, 2), finish_reason="length"), "Wrote 2 tokens \u00b7 hit max tokens"),
        (Reply(phase="done", token_ids=(1, 2), finish_reason="eos"), "Wrote 2 tokens \u00b7 ended with <b>"),
        (Reply(phase="failed"), "Failed"),
        (Reply(), ""),
    ],
)  # fmt: skip
def test_how_a_reply_stands(reply, said):
    assert Page(render.said(reply, "<b>")).text == said


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({}, "seed 1234 \u00b7 temperature 0.7"),
        ({"framing_base": "transcript"}, "base framed as transcript"),
        ({"framing_post": "document"}, "post-trained framed as document"),
        ({"dial": Dial(amount=0.5, space="weights")}, "dial 0.5 in weights"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "enable_thinking False"),
        ({"system": "Be\nbrief."}, "system prompt \u201cBe brief.\u201d"),
        ({"system": "x" * 100}, "system prompt \u201c" + "x" * 47 + "\u2026\u201d"),
    ],
)
def test_the_caption_says_what_is_not_as_the_page_opens_with(changes, facts):
    usual = Page(render.caption(record("Hello"))).text
    text = Page(render.caption(record("Hello", **changes))).text
    assert text == facts or text == f"{usual} \u00b7 {facts}"


@pytest.mark.parametrize(
    ("name", "value", "facts"),
    [
        ("max_new_tokens", 2000, "max new tokens 2000"),
        ("top_p", 0.9, "top p 0.9"),
        ("top_k", 40, "top k 40"),
        ("min_p", 0.05, "min p 0.05"),
        ("repetition_penalty", 1.1, "repetition penalty 1.1"),
    ],
)
def test_the_caption_says_how_a_token_was_drawn(name, value, facts):
    asked = record("Hello", sampling=COMPARISON.sampling.model_copy(update={name: value}))
    assert Page(render.caption(asked)).text.endswith(f" \u00b7 {facts}")


def test_a_comparison_that_runs_has_the_caption_of_the_turn_that_it_becomes():
    asked = COMPARISON.model_copy(update={"dial": Dial(amount=1.5), "framing_base": "chat", "prefill_base": (1,)})
    kept = Record.of(asked, Turn(prompt="", base="", post=""), side_receipt(1), None)
    assert render.caption(asked) == render.caption(kept)


@pytest.mark.parametrize("failed", SIDES)
def test_a_side_that_failed_is_said_beside_what_it_had_written(failed):
    turn = Turn(prompt="Hello", base="half", post="half")
    text = Page(render.row(0, record("Hello", failed=failed, turn=turn), {})).text
    assert text.count("Failed") == 1 and text.count("half") == 2
    empty = turn.model_copy(update={failed: ""})
    assert "This side failed." in Page(render.row(0, record("Hello", failed=failed, turn=empty), {})).text
    assert "data-do='receipt'" not in render.row(0, record("Hello", failed=failed), {})


GIVEN = Split("", "**The** capital is le", "**The** capital is le")


@pytest.mark.parametrize("draw", [lambda record, ends, begun: render.row(0, record, ends, begun=begun), lambda record, _, begun: render.shared_row(0, record, begun)])  # fmt: skip
def test_what_a_reply_was_given_is_marked_in_its_turn_and_as_it_was_shared(draw):
    turn = Turn(prompt="Hello", base="\n<The> capital is Paris", post=f"{GIVEN.answer}**gs**.\n\n- one\n")
    asked = record("Hello", turn=turn, prefill_base=(1,), prefill_post=(1, 2, 3))
    begun = {"base": Split("", "\n<The>", "\n<The>"), "post": GIVEN}
    row = draw(asked, {}, begun)
    assert marks(row) == [
        "\u21b5 <The>",
        "begins with 1 given token",
        "The",
        " capital is le",
        "begins with 3 given tokens",
    ]
    assert "<strong>gs</strong>" in row and "<li>one</li>" in row, "the rest is set as ever"
    unknown = draw(asked, {}, {})
    assert marks(unknown) == ["begins with 1 given token", "begins with 3 given tokens"], "where it cannot be spelled"
    assert "The</strong> capital is le" in unknown


def test_a_given_beginning_is_marked_in_reasoning_in_a_blind_turn_and_in_what_was_sent():
    turn = Turn(prompt="Hello", base="Yes", post="No", reasoning_post="I am sure")
    begun = {"post": Split("I am", "", "<think>I am")}
    row = render.row(0, record("Hello", turn=turn, prefill_post=(1, 2)), {}, begun=begun)
    assert marks(row) == ["I am", "begins with 2 given tokens"]
    hidden = record("Hello", turn=turn, blind="post")
    assert marks(render.row(0, hidden, {}, begun={"base": Split("", "Ye", "Ye")})) == ["Ye"]
    sent = Prompt((Piece("Is it?", "new"), Piece("<The>", "prefill")), (1, 2), 0, 1)
    assert marks(render.sent({"base": sent})) == ["<The>"]


def test_what_is_given_is_marked_while_the_rest_is_written():
    begun = {"base": Split("", "\n<A> ", "\n<A> "), "post": Split("", "**B", "**B")}
    script, log = Script(), Log(0, "Hello")
    for base, post in (("", ""), ("\n<A> ", "**B"), ("\n<A> b", "**B &"), ("\n<A> b c", "**B & c**")):
        replies = {"base": Reply(phase="writing", text=base), "post": Reply(phase="writing", text=post)}
        script.follow(log.view(replace(live(**replies), begun=begun), ""))
    assert marks(script.breaks) == ["\u21b5 <A> "] and script.words == "b c"
    assert marks("".join(script.blocks)) == ["**B"] and Page("".join(script.blocks)).text == "**B & c**"


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2. Breathe\n3. Rest", 2),
        ("so $x$ is `y`", 9),
        ("[a](http://b.c)", 8),
        ("a $x^2$ b", 4),
        ("```py\nif x:\n```", 8),
    ],
)
def test_a_mark_never_changes_how_a_text_is_set(text, at):
    drawn = marked(text, text[:at], given_mark)
    unmarked = re.sub("</?mark[^>]*>", "", drawn) if drawn else markdown(text)
    assert unmarked == markdown(text)


@settings(max_examples=60, deadline=None)
@given(st.text("ab *_`$\n-1.<&\\[]()|", max_size=30), st.integers(0, 30))
def test_a_mark_changes_nothing_in_any_text(text, at):
    drawn = marked(text, text[:at], given_mark)
    assert drawn is None or re.sub("</?mark[^>]*>", "", drawn) == markdown(text)


def test_a_turn_that_came_with_a_link_offers_nothing_that_needs_a_receipt():
    turn = Turn(prompt="Hello", base="Once", post="Yes")
    came = record("Hello").model_copy(update={"turn": turn, "base": None, "post": None})
    row = render.row(0, came, {})
    assert "how it was made is not known" in row and "<button" not in row and "Failed" not in row
    shared = render.shared_row(0, came)
    assert "as shared, not checked" in shared and shared.count("<button") == 1 and "data-do='check'" in shared


def test_the_actions_of_a_turn_say_where_it_stands():
    plain, other = (render.row(4, record("Hello", mark="tie"), {}, which) for which in ((1, 1), (2, 3)))
    assert plain.count("aria-pressed='true'") == 1 and "data-value='tie' aria-pressed='true'" in plain
    assert "class='versions'" not in plain
    assert "<span>2/3</span>" in other and "data-versions='[1]'" in other and "data-versions='[3]'" in other
    assert "disabled" not in other and render.row(0, record("Hello"), {}, (1, 2)).count(" disabled") == 1
    assert "aria-label='Retry, turn 5'" in plain


def test_a_long_prompt_is_set_smaller():
    assert "class='prompt'" in render.row(0, record("Hello"), {})
    for prompt in ("word " * 60, "line\n" * 7):
        assert "class='prompt long'" in render.row(0, record(prompt), {})


# --- texts of people and models -----------------------------------------------------------------------

HOSTILE = ["<b>'\"&amp;</b>", "${x}{{y}}", "</li></span><script>", "' onclick='x", "<!--", "&lt;"]


def hostile_row(text: str) -> str:
    changes = {"system": text, "chat_template_kwargs": {"name": text}, "pair": text}
    one = record(text, base=text, post=f"`{text}`", **changes)
    return render.row(0, one, dict.fromkeys(SIDES, text), (1, 2)) + render.shared_row(0, one)


@pytest.mark.parametrize("text", HOSTILE)
def test_what_anybody_wrote_is_text_in_every_field_of_a_row(text):
    page = Page(hostile_row(text))
    assert page.elements == Page(hostile_row("word")).elements
    assert page.text == Page(hostile_row("WORD")).text.replace("WORD", text)


@pytest.mark.parametrize("text", HOSTILE)
def test_so_it_is_in_names_in_reasoning_in_errors_in_code_and_in_what_was_sent(text):
    def drawn(text: str) -> str:
        engine = ENGINE.model_copy(update={"deviation": Deviation(nats=0.1, bound=0.5, token=1)})
        names = {side: render.model(side, render.Model(text, "a" * 64, engine)) for side in SIDES}
        thought = Turn(prompt="", base="", post="", reasoning_base=text, reasoning_post=text)
        pieces = (Piece(text, "system"), Piece(text, "template", control=True), Piece(text, "prompt"))
        prompt = Prompt(pieces, (1, 2), 1, notes=(text,), remembers=text)
        return "".join(
            [
                render.heads(names, 0),
                render.running_row(0, text),
                render.row(0, record("Hello").model_copy(update={"turn": thought}), {}),
                render.body("base", Reply(phase="failed", error=text), None),
                render.said(Reply(phase="done", finish_reason="eos", token_ids=(1,)), text),
                render.code(Code(command=text, python=text, http=text)),
                render.sent(dict.fromkeys(SIDES, prompt)),
            ]
        )

    page = Page(drawn(text))
    assert page.elements == Page(drawn("word")).elements
    assert page.text == Page(drawn("WORD")).text.replace("WORD", text)
    assert page.values == Page(drawn("word")).values


@pytest.mark.parametrize("text", [*HOSTILE, "`${1}`\\"])
def test_what_stands_in_the_template_runs_nothing_there(text):
    inert = tab._inert(html.escape(text))
    assert not set("{}$`\\") & set(inert) and html.unescape(inert) == text


# --- what nobody sees --------------------------------------------------------------------------------

UNSEEN = "\u202e\u200b\ufeff\u2028\u2029\u200d\u2066\xad\x7f\x85" + "".join(map(chr, {*range(0x20)} - {9, 10}))


@pytest.mark.parametrize("character", UNSEEN, ids=lambda character: f"U+{ord(character):04X}")
def test_a_character_that_nobody_sees_is_drawn_by_its_number(character):
    shown = visible(f"a{character}b")
    assert character not in shown and Page(shown).text == f"aU+{ord(character):04X}b"


def test_line_breaks_and_tabs_stay_what_they_are():
    assert visible("a\tb") == "a\tb" and Page(visible("a\nb")).text == "a\u21b5\nb"


def test_what_was_sent_turns_nothing_round():
    prompt = Prompt((Piece(f"a{UNSEEN}", "prompt"), Piece("<|x|>", "template", control=True)), (1,), 0)
    shown = render.sent({side: replace(prompt) for side in SIDES})
    assert not set(UNSEEN) & set(shown)
    assert shown.count("<bdi") == 4 and shown.count("<mark class='new'><bdi>&lt;|x|&gt;") == 2


def test_a_turn_says_that_its_arithmetic_was_portable():
    plain = record("One")
    engine = ENGINE.model_copy(update={"arithmetic": "portable-1"})
    sides = {side: plain.receipt(side).model_copy(update={"engine": engine}) for side in SIDES}
    assert "<b>portable</b>" in render.caption(plain.model_copy(update=sides))
    assert "portable" not in render.caption(plain.model_copy(update={"base": sides["base"]}))
    assert "portable" not in render.caption(plain)
