"""What happens when somebody presses a button on the Compare tab, as views: no page, no browser."""

import threading
from datetime import date

import pytest

from core import chat_template, links
from core.errors import UserError
from core.links import Shared
from core.run import Run
from core.steps import Stop
from core.types import (
    DEFAULT_SAMPLING,
    MAX_TURNS,
    SIDE_NAMES,
    SIDES,
    Chat,
    Conversation,
    Dial,
    Failure,
    LensChoice,
    Started,
    Token,
    Turn,
)
from core.ui.compare import session
from core.ui.compare.render import Model
from core.ui.compare.session import Banner, View
from core.ui.sidebar import Choices
from core.ui.visitor import Opened, Session
from tests.pairs import changed
from tests.scripted import PAIR, ScriptedPool, Ticket
from tests.values import record

CHOICES = Choices(
    pair=PAIR.id, system="Be brief.", sampling=DEFAULT_SAMPLING, framing_base="document", framing_post="chat"
)
CHAT = tuple(record(prompt, pair=PAIR.id) for prompt in ("One", "Two"))


@pytest.fixture
def pool() -> ScriptedPool:
    return ScriptedPool("a base reply", "a post-trained reply")


def last(views) -> View:
    *_, view = views
    return view


def failing(monkeypatch, pool: ScriptedPool, *sides) -> None:
    """These sides fail after their first token from now on."""
    for side in sides:
        engine = pool.engines[side]

        def submit(request, emit, engine=engine, say=f"The {side} model broke."):
            for event in (Started(), Token(step=0, id=engine.ids[0], logprob=-1.0, margin=0.5), Failure(message=say)):
                emit(event)
            return Ticket(threading.Event())

        monkeypatch.setattr(engine, "submit", submit)


# --- compare ----------------------------------------------------------------------------------------------


def test_a_prompt_is_sent_after_the_chat_with_what_is_chosen_beside_it(pool):
    views = list(session.compare(pool, CHAT, "Three", CHOICES))
    assert all(view.busy and view.chat == CHAT for view in views[:-1])
    asked = views[-1].chat[-1]
    assert views[-1].chat[:-1] == CHAT and views[-1].changed and not views[-1].busy
    assert asked.turn == Turn(prompt="Three", base="a base reply", post="a post-trained reply")
    assert Choices.of(asked) == CHOICES and asked.today == date.today().isoformat()
    assert asked.base is not None and asked.post is not None


def test_while_it_runs_the_page_knows_what_was_asked_by_whom_it_is_answered_and_how_far_that_is(pool):
    *_, view, end = session.compare(pool, CHAT, "Three", CHOICES)
    for live in (view.live, end.live):
        assert (live.comparison, live.caveats) == (end.chat[-1].comparison(CHAT), "")
        assert {side: (model.name, model.weights_sha256) for side, model in live.models.items()} == {
            "base": (PAIR.base, "b" * 64),
            "post": (PAIR.post, "c" * 64),
        }
    assert (view.box, end.box) == (None, None), "the box is the visitor's own"
    assert end.live.snapshot.post.text == "a post-trained reply"
    assert set(end.live.ends) == set(SIDES), "both ended by themselves"


@pytest.mark.parametrize("prompt", ["", " \n"])
def test_nothing_is_sent_where_nothing_was_typed(pool, prompt):
    [view] = session.compare(pool, CHAT, prompt, CHOICES)
    assert view == View(CHAT, notice="Type a prompt first.", tone="error", box=prompt)


def test_a_value_that_cannot_be_is_a_sentence_and_the_prompt_stays_in_its_box(pool):
    [view] = session.compare(pool, CHAT, "Three \ud800", CHOICES)
    assert "half of a surrogate pair" in view.notice and (view.tone, view.chat) == ("error", CHAT)


def test_a_conversation_that_holds_no_more_is_a_sentence_and_can_go_on_as_a_new_one(pool):
    chat = CHAT[:1] * (MAX_TURNS + 1)
    [view] = session.compare(pool, chat, "Three", CHOICES)
    assert view == View(
        chat, notice="turns: there are more than 1,000; start a new chat.", tone="error", box="Three", full=True
    )


def test_while_the_models_are_loaded_the_chat_stays_and_the_line_says_how_far_that_is(pool):
    pool.say("a", "b", loading=0.1)
    first, *_ = session.compare(pool, CHAT, "Three", CHOICES)
    assert first == View(CHAT, notice="Downloading Scripted-Base (12 MB) 50%", busy=True)


def test_a_reply_that_is_too_long_for_a_conversation_leaves_the_chat_as_it_was(pool, monkeypatch):
    monkeypatch.setattr(session, "MAX_CHARACTERS", 12)
    view = last(session.compare(pool, CHAT, "Three", CHOICES))
    assert "The post-trained side wrote more than 12 characters" in view.notice
    assert (view.chat, view.box, view.tone, view.changed) == (CHAT, "Three", "error", False)
    for turn in range(len(CHAT)):
        assert last(session.retry(pool, CHAT, turn, CHOICES)).chat == CHAT


@pytest.mark.parametrize("failed", SIDES)
def test_a_turn_is_kept_when_one_side_fails_and_says_which(pool, monkeypatch, failed):
    failing(monkeypatch, pool, failed)
    view = last(session.compare(pool, CHAT, "Three", CHOICES))
    kept = view.chat[-1]
    assert (kept.receipt(failed), view.tone, view.changed) == (None, "error", True)
    assert view.notice.endswith(f"side failed: The {failed} model broke.")
    [other] = set(SIDES) - {failed}
    assert kept.receipt(other) is not None and kept.turn.prompt == "Three"


def test_a_turn_that_failed_on_both_sides_is_not_kept_and_its_prompt_comes_back(pool, monkeypatch):
    failing(monkeypatch, pool, *SIDES)
    view = last(session.compare(pool, CHAT, "Three", CHOICES))
    assert (view.chat, view.box, view.tone, view.changed) == (CHAT, "Three", "error", False)
    assert view.notice.count("model broke.") == 2


# --- a turn that is run again ----------------------------------------------------------------------------------


def prompts(view: View) -> list[str]:
    return [each.turn.prompt for each in view.chat]


@pytest.fixture
def ran(pool) -> Chat:
    """Three turns that were run here."""
    chat: Chat = ()
    for prompt in ("One", "Two", "Three"):
        chat = last(session.compare(pool, chat, prompt, CHOICES)).chat
    return chat


def test_a_retry_takes_the_place_of_its_turn_once_it_runs(pool, monkeypatch):
    views = list(session.retry(pool, CHAT, 1, CHOICES))
    assert views[0].chat == CHAT[:1], "the turn that is run again is shown as under way"
    assert prompts(views[-1]) == ["One", "Two"]
    assert views[-1].chat[-1].turn.post == "a post-trained reply"
    failing(monkeypatch, pool, *SIDES)
    failed = last(session.retry(pool, CHAT, 1, CHOICES))
    assert (failed.chat, failed.box, failed.changed) == (CHAT, None, False)


def test_a_retry_that_comes_to_the_same_leaves_the_later_turns(pool, ran):
    for turn in range(3):
        view = last(session.retry(pool, ran, turn, CHOICES))
        assert prompts(view) == ["One", "Two", "Three"] and view.changed
        assert view.chat[turn + 1 :] == ran[turn + 1 :]


def test_how_long_it_took_and_the_day_make_no_other_result(pool, ran):
    first = ran[0].model_copy(update={"today": "2020-02-02", "mark": "tie"})
    slow = first.base.model_copy(update={"usage": first.base.usage.model_copy(update={"seconds_decoding": 99.0})})
    chat = (first.model_copy(update={"base": slow}), *ran[1:])
    assert prompts(last(session.retry(pool, chat, 0, CHOICES))) == ["One", "Two", "Three"]


def test_a_retry_or_an_edit_with_another_result_ends_the_chat_there(pool, ran, monkeypatch):
    seeded = CHOICES.model_copy(update={"sampling": DEFAULT_SAMPLING.model_copy(update={"seed": 99})})
    assert prompts(last(session.retry(pool, ran, 0, seeded))) == ["One"], "the same texts of another seed"
    assert prompts(last(session.compare(pool, ran[:1], "Other", CHOICES, instead_of=ran))) == ["One", "Other"]
    pool.say("a base reply", "another reply")
    assert prompts(last(session.retry(pool, ran, 1, CHOICES))) == ["One", "Two"]
    pool.say("a base reply", "a post-trained reply")
    failing(monkeypatch, pool, "post")
    assert prompts(last(session.retry(pool, ran, 1, CHOICES))) == ["One", "Two"], "one side failed this time"


def test_an_edit_back_to_the_same_prompt_leaves_the_later_turns(pool, ran):
    assert prompts(last(session.compare(pool, ran[:1], "Two", CHOICES, instead_of=ran))) == ["One", "Two", "Three"]


def test_a_retry_repeats_what_is_out_of_sight_of_its_own_pair_alone(pool, ran):
    token_ids = ran[0].base.token_ids
    begun = {"prefill_base": token_ids[:2], "prefill_post": token_ids[:1]}
    chat = (ran[0].model_copy(update=begun), *ran[1:])
    asked = last(session.retry(pool, chat, 0, CHOICES)).chat[0]
    assert {name: getattr(asked, name) for name in begun} == begun
    assert asked.turn.base.startswith(pool.engines["base"].tokenizer.decode(token_ids[:2]))
    plain = last(session.compare(pool, (), "One", CHOICES, instead_of=chat)).chat[0]
    assert (plain.prefill_base, plain.prefill_post) == ((), ()), "an edit begins anew"
    elsewhere = (chat[0].model_copy(update={"pair": "another"}), *ran[1:])
    other = last(session.retry(pool, elsewhere, 0, CHOICES)).chat[0]
    assert (other.pair, other.prefill_base, other.prefill_post) == (PAIR.id, (), ()), "those tokens were another pair's"


def test_the_dial_is_among_what_a_retry_repeats():
    dialled = record("One", pair=PAIR.id, dial=Dial(amount=0.5))
    assert session._comparison((), "One", CHOICES, dialled).dial == dialled.dial
    assert session._comparison((), "One", CHOICES, dialled.model_copy(update={"pair": "another"})).dial is None
    assert session._comparison((), "One", CHOICES).dial is None


def test_a_retry_that_cannot_begin_shows_the_chat_as_it_was_and_leaves_the_box_alone(pool):
    [view] = session.retry(pool, (record(" "),), 0, CHOICES)
    assert (view.chat, view.box) == ((record(" "),), None) and view.notice == "Type a prompt first."


# --- what a view says -------------------------------------------------------------------------------------------


def test_a_reply_that_has_less_room_than_was_asked_for_says_so_on_its_side(pool):
    run = Run(pool.lease, session._comparison((), "Hello", CHOICES))
    asked = run.comparison.sampling.max_new_tokens
    assert session._caveats(run) == ""
    for side, name in SIDE_NAMES.items():
        writer = run._writers[side]
        whole, writer.sampling = writer.sampling, writer.sampling.model_copy(update={"max_new_tokens": 7})
        assert session._caveats(run).startswith(f"The {name} side had room for 7 new tokens, not {asked:,}")
        writer.sampling = whole
    run.stop()


def test_a_machine_that_cannot_be_portable_says_so_under_the_turn(pool):
    lease = changed(pool.lease, "base", lacks=("log", "sin"))
    run = Run(lease, session._comparison((), "Hello", CHOICES))
    assert session._caveats(run) == "Not in portable arithmetic: this machine gives other answers for log, sin."
    run.stop()


def test_views_come_less_often_where_the_browser_falls_behind_and_at_least_once_a_second(pool, monkeypatch):
    asked: list[float] = []
    snapshots = Run.snapshots
    monkeypatch.setattr(Run, "snapshots", lambda run, period: asked.append(period()) or snapshots(run, period))
    browser = Session()
    for browser.slower in (1, 2, 16, 40):
        list(session.compare(pool, CHAT, "Three", CHOICES, slower=lambda: browser.slower))
    list(session.compare(pool, CHAT, "Three", CHOICES))
    assert asked == [1 / 16, 1 / 8, 1.0, 1.0, 1 / 16]


# --- what came from elsewhere --------------------------------------------------------------------------------


def shared(pool: ScriptedPool, **changes) -> Shared:
    """A link to what CHOICES ask after one turn, made on another day, with the replies that come."""
    view = last(session.compare(pool, (), "Again", CHOICES))
    made = links.of_turn(view.chat, 0)
    return made.model_copy(update={"comparison": made.comparison.model_copy(update={"today": "2020-02-02", **changes})})


def test_what_was_shared_is_asked_exactly_so_and_the_replies_are_recognised(pool):
    view = last(session.compare(pool, (), "Again", CHOICES, shared=shared(pool)))
    assert view.chat[-1].today == "2020-02-02"
    assert view.banner == Banner("These are the replies that were shared, token for token.", "good")


def without_text(link: Shared) -> Shared:
    return link.model_copy(update={"post": link.post.model_copy(update={"text": None})})


def test_the_verdict_says_what_was_given_and_what_the_model_wrote(pool):
    given = tuple(pool.lease.post.tokenizer("The capital is legs", add_special_tokens=False)["input_ids"])
    link = without_text(shared(pool, prefill_post=given))
    banner = last(session.compare(pool, (), "Again", CHOICES, shared=link)).banner
    assert banner.text.endswith(
        " They begin as whoever shared them chose: the post-trained model was given \u201cThe capital is legs\u201d and wrote \u201ca post-trained reply\u201d."
    )
    assert banner.tone == "info", "it is no praise of what was given"
    pool.say("a base reply", "")
    link = without_text(shared(pool, prefill_post=given))
    banner = last(session.compare(pool, (), "Again", CHOICES, shared=link)).banner
    assert banner.text.endswith("and wrote nothing.")


def test_what_a_turn_was_given_is_spelled_where_its_tokenizers_are_here(pool):
    ids = tuple(pool.lease.base.tokenizer("Once upon", add_special_tokens=False)["input_ids"])
    begun, plain = record("Q", prefill_base=ids, pair=PAIR.id), record("Q", pair=PAIR.id)
    here = {side: pool.lease.side(side).tokenizer for side in SIDES}
    spelled = session.begun_of((begun,), 0, lambda pair: here)
    assert {side: split.answer for side, split in spelled.items()} == {"base": "Once upon"}
    assert session.begun_of((begun,), 0, lambda pair: None) == {}
    alien = begun.model_copy(update={"prefill_base": (10**6,)})
    assert session.begun_of((alien,), 0, lambda pair: here) == {}
    assert session.begun_of((plain,), 0, lambda pair: pytest.fail("is not asked for")) == {}


def test_other_replies_than_were_shared_are_told_with_the_side_and_the_reason(pool):
    link = shared(pool)
    pool.say("a base reply", "another reply")
    banner = last(session.compare(pool, (), "Again", CHOICES, shared=link)).banner
    assert banner.tone == "bad"
    assert banner.text.startswith("These are not the replies that were shared. Post-trained: the same weights")
    assert "so the link was changed, or the machine or its libraries differ" in banner.text
    assert banner.text.endswith("(shared: \u201ca post-trained reply\u201d, here: \u201canother reply\u201d).")
    pool.say("a base reply", "a post-trained reply, whose end alone is another one")
    banner = last(session.compare(pool, (), "Again", CHOICES, shared=link)).banner
    assert banner.text.endswith(
        "(shared: \u201ca post-trained reply\u201d, here: \u201ca post-trained reply, whose end alone is another one\u201d)."
    )
    without = link.model_copy(update={"base": None, "post": None})
    banner = last(session.compare(pool, (), "Again", CHOICES, shared=without)).banner
    assert banner == Banner("This link was shared without replies to compare with.")
    half = link.model_copy(update={"post": None})
    assert last(session.compare(pool, (), "Again", CHOICES, shared=half)).banner.tone == "good"


@pytest.mark.parametrize(
    "changes",
    [{"prompt": "Other"}, {"framing_base": "chat"}, {"framing_post": "document"}, {"conversation": Conversation()}],
    ids=str,
)
def test_whoever_changes_what_is_in_sight_asks_something_of_their_own(pool, changes):
    link = shared(pool, **changes)
    view = last(session.compare(pool, (), "Again", CHOICES, shared=link))
    assert view.banner is None and view.chat[-1].today == date.today().isoformat()


def test_what_has_arrived_waits_with_its_prompt_in_the_box_and_says_what_it_is(pool):
    visitor = Session()
    assert session.stands(visitor) == View(())
    visitor.notice = "This link is damaged."
    assert session.stands(visitor) == View((), notice="This link is damaged.", tone="error")
    visitor.notice = ""
    one, two = (Conversation(turns=(Turn(prompt="Q", base="b", post="p"),) * count) for count in (1, 2))
    for conversation, said in ((Conversation(), "a prompt, with"), (one, "1 earlier turn,"), (two, "2 earlier turns,")):
        link = shared(pool, conversation=conversation)
        visitor.opened = Opened(shared=link, source="receipt")
        view = session.stands(visitor)
        assert view.box == "Again" and view.banner.text.startswith("Loaded from a receipt: ")
        assert said in view.banner.text and view.banner.text.endswith("those that were shared.")


def test_what_came_with_a_link_and_is_in_no_field_of_the_page_is_said(pool):
    link = shared(pool, prefill_post=(40, 41, 42), dial=Dial(amount=0.25, space="weights"))
    visitor = Session()
    visitor.opened = Opened(
        shared=link.model_copy(update={"lens": LensChoice(side="base", context="own")}), source="link"
    )
    said = session.stands(visitor).banner.text
    assert "The post-trained reply begins with 3 given tokens." in said and "The base reply begins" not in said
    assert "dialled to 0.25 in the space of weights." in said
    assert said.endswith("Then look at the base reply on the Token lens tab.")


# --- what can be had of a turn ------------------------------------------------------------------------------


def test_what_was_sent_for_a_turn_is_rebuilt_where_its_models_are_in_memory(pool, monkeypatch):
    for turn in range(2):
        expected = CHAT[turn].comparison(CHAT[:turn])
        assert session.prompts_of(pool, CHAT, turn) == {side: pool.lease.prompt(expected, side) for side in SIDES}
    with pytest.raises(UserError, match="not in memory now; ask them something and look again"):
        session.prompts_of(pool, (record("One", pair="another"),), 0)
    monkeypatch.setattr(pool, "peek", lambda id: None)
    for of in (session.prompts_of, session.lenses_of):
        with pytest.raises(UserError, match="not in memory now"):
            of(pool, CHAT, 1)


def test_a_lens_of_a_turn_has_the_sides_that_wrote_something(pool, ran):
    lenses = session.lenses_of(pool, ran, 1)
    for side in SIDES:
        shifts = lenses[side].shifts
        assert "".join(shift.text for shift in shifts) == ran[1].turn.reply(side)
        assert len(shifts) == len(ran[1].receipt(side).token_ids)
    half = (*ran[:1], ran[1].model_copy(update={"base": None}))
    assert set(session.lenses_of(pool, half, 1)) == {"post"}


def test_the_token_that_ended_a_reply_is_known_where_its_tokenizer_is_in_memory(pool, ran, monkeypatch):
    known = session.ends_of(pool, (*ran, record("Elsewhere", pair="another")))
    assert known[0] == known[2] and set(known[0]) == set(SIDES) and known[3] == {}
    monkeypatch.setattr(pool, "peek", lambda id: None)
    assert session.ends_of(pool, ran) == [{}, {}, {}]


def test_who_wrote_a_turn_is_told_by_its_receipts_and_else_by_the_pair():
    half = record("One", failed="base")
    models = session.models_of(half, lambda pair, side: f"{pair} {side}")
    assert models["base"] == Model("embedded base")
    assert models["post"] == Model("Tiny", "b" * 64, half.post.engine)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (Model("A", "a" * 64), Model("A", "a" * 64), True),
        (Model("A", "a" * 64), Model("A", "b" * 64), False),
        (Model("A", "a" * 64), Model("A"), True),
        (Model("A"), Model("A"), True),
        (Model("A", "a" * 64), Model("B", "a" * 64), False),
    ],
)
def test_two_models_are_one_where_nothing_known_tells_them_apart(one, other, same):
    assert session.same_model(one, other) == session.same_model(other, one) == same


def test_the_switches_of_a_pair_are_known_while_it_is_in_memory(pool, monkeypatch):
    monkeypatch.setattr(chat_template, "switches", lambda tokenizer: ("enable_thinking",))
    assert session.switches_of(pool, PAIR.id) == ("enable_thinking",)
    monkeypatch.setattr(pool, "peek", lambda id: None)
    assert session.switches_of(pool, PAIR.id) is None


# --- blind ------------------------------------------------------------------------------------------------


def test_a_blind_turn_is_hidden_until_it_is_marked_unless_a_side_failed():
    view = View(CHAT, changed=True)
    blind = session.blinded(view, 1, "post")
    assert [record.blind for record in blind.chat] == [None, "post"] and blind.chat[1].hidden
    assert not session.mark(blind.chat, 1, "tie")[1].hidden
    for same in (session.blinded(view, 1, None), session.blinded(View(CHAT), 1, "post")):
        assert same.chat == CHAT
    failed = (*CHAT[:1], record("Two", pair=PAIR.id, failed="base"))
    assert session.blinded(View(failed, changed=True), 1, "base").chat == failed


def test_marks_are_counted_with_their_interval():
    assert session.tally(CHAT) == ""
    marked = [
        record("x").model_copy(update={"mark": mark}) for mark in ("post",) * 9 + ("base", "tie", "neither", None)
    ]
    assert session.tally(tuple(marked)) == (
        "Marks so far: base 1, post-trained 9, ties 1, both bad 1."
        " The post-trained reply is better in 9 of 10 (60% to 98% with 95% confidence)."
    )
    assert session.tally(tuple(marked[10:11])).endswith("ties 1, both bad 0.")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"branch": {"side": "neither", "step": 0, "token": 1}}, "Choose one of the tokens"),
        ({"branch": {"side": "base", "step": "0", "token": 1}}, "Choose one of the tokens"),
        ({"branch": {"side": "base", "step": 900, "token": 1}}, "choose one of them"),
        ({"handover": {"tokens": None}}, "Choose one of the tokens"),
        ({"dial": {"amount": 7}}, "less than or equal to 1.5"),
        ({"dial": 1}, "or a setting of the dial"),
    ],
)
def test_what_a_turn_does_not_suggest_is_a_sentence_and_changes_nothing(pool, ran, asked, said):
    view = last(session.suggested(pool, ran, 1, asked, stop=Stop()))
    assert said in view.notice and view.tone == "error"
    assert view.chat == ran and not view.changed


def test_a_handover_begins_each_reply_with_the_others_first_tokens(pool, ran):
    view = last(session.suggested(pool, ran, 1, {"handover": {"tokens": 2}}, stop=Stop()))
    made = view.chat[1]
    assert (made.prefill_base, made.prefill_post) == (ran[1].post.token_ids[:2], ran[1].base.token_ids[:2])
    assert view.changed and len(view.chat) == 2
