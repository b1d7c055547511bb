"""What happens on the Studies tab, without a browser: what is asked, how it goes on, what is drawn, and what a cell opens."""

import json
from typing import Any

import pytest

from core import links
from core.errors import UserError
from core.pairs import Pair, Stage
from core.run import compare
from core.steps import Stop
from core.study import link, suite
from core.study.results import results
from core.types import DEFAULT_SAMPLING, SIDES
from core.ui.sidebar import Choices
from core.ui.studies import render, session, tab
from core.ui.studies.session import ONE, OWN
from tests.rooms import Guest, House
from tests.scripted import PAIR, ScriptedPool

CHOSEN = Choices(
    pair=PAIR.id, system="Be brief.", sampling=DEFAULT_SAMPLING, framing_base="document", framing_post="chat"
)
HOSTILE = "</p><script>alert(1)</script><img src=x onerror='y'>"


def plan(prompt: str = "Where is the sea?", asked: str = ONE, brought: session.Suite | None = None, **changes):
    given = {"seeds": 8, "tokens": 40, "tests": "contains:Paris", "crossed": True, **changes}
    return session.plan(CHOSEN, asked, prompt, brought, **given)


def views(pool: ScriptedPool, asked=None, before=None, stop: Stop | None = None) -> list[session.View]:
    return list(session.perform(pool, asked or plan(), before, stop or Stop()))


@pytest.fixture(scope="module")
def study():
    *_, last = views(ScriptedPool("The capital is Lyon.", "It is Paris."))
    return last.study


# --- what is asked ----------------------------------------------------------------------------------------------


def test_it_asks_what_is_chosen_beside_it_and_replies_are_as_long_as_is_said_here():
    asked = plan(tests="contains:Paris\n\n number:3..5 ", crossed=False)
    assert asked.prompts[0].conversation.system == "Be brief." and asked.pairs == (PAIR.id,)
    assert asked.sampling == DEFAULT_SAMPLING.model_copy(update={"max_new_tokens": 40})
    assert [str(check) for check in asked.checks] == ["contains:Paris", "number:3..5"]
    assert (asked.seeds, asked.crossed, asked.framing_post) == (8, False, "chat")
    assert plan(asked="everyday", seeds=2).prompts == suite.own_suite("everyday")
    assert (session.seeds_for(ONE), session.seeds_for("everyday")) == (64, 4)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"prompt": " "}, "Type a prompt first"),
        ({"asked": OWN}, "drop its file again"),
        ({"seeds": None}, "Seeds is empty; type a number"),
        ({"tokens": None}, "Longest reply is empty"),
        ({"seeds": 7}, "one prompt needs 8 to 1,024 seeds"),
        ({"seeds": 8.5}, "seeds: "),
        ({"tokens": 0}, "max_new_tokens: "),
        ({"tests": "Paris"}, "'Paris' is no test; write contains:"),
        ({"tests": "number:5..3"}, "a range of numbers is written as"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_is_one_sentence(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        plan(**changes)


def test_a_suite_that_is_dropped_is_read_and_the_servers_copy_is_gone(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("prompt,expect\nOne?,1\nTwo?,2\n")
    brought = session.take(file)
    assert not file.exists() and brought.name == "mine.csv"
    assert [row.prompt for row in plan(asked=OWN, brought=brought, seeds=1).prompts] == ["One?", "Two?"]
    file.write_text("prompt,expect\nOne?,1\n,2\n")
    with pytest.raises(UserError, match=r"Row 2 of mine\.csv"):
        session.take(file)
    assert not file.exists()


# --- how it goes on ---------------------------------------------------------------------------------------------


def test_it_says_how_far_it_is_and_ends_with_what_was_counted(monkeypatch):
    monkeypatch.setattr(session, "PERIOD", 0)
    first, *under_way, last = views(ScriptedPool("Lyon", "Paris", loading=0.1))
    assert first.busy and first.progress is None and all(view.busy for view in under_way)
    assert under_way[0].progress.loading == "Downloading Scripted-Base (12 MB) 50%"
    assert [view.progress.done for view in under_way] == sorted(view.progress.done for view in under_way)
    assert not last.busy and last.mistake == "" and last.study.report.results.done == 32
    assert "about" in render.progress(under_way[-2].progress) and "of 32 replies" in render.progress(
        under_way[-2].progress
    )
    assert "Downloading" in render.progress(under_way[0].progress) and "Waiting" in render.progress(None)


def test_a_mistake_and_a_stop_are_one_sentence():
    *_, last = views(ScriptedPool(), plan(tests="regex:("))
    assert "no regular expression" in last.mistake and last.study is None
    stop = Stop()
    stop.press()
    *_, last = views(ScriptedPool(), stop=stop)
    assert last.mistake == "Stopped before anything had come back." and last.study is None


def test_closing_the_page_ends_what_is_under_way(monkeypatch):
    pool = ScriptedPool("one two three four", "one two three four", pause=1)
    tickets = []
    for engine in pool.engines.values():
        submit = engine.submit
        monkeypatch.setattr(
            engine, "submit", lambda *given, submit=submit: tickets.append(submit(*given)) or tickets[-1]
        )
    running = session.perform(pool, plan(), None, Stop())
    while not tickets:
        next(running)
    running.close()
    assert all(ticket.stopped.is_set() for ticket in tickets)


# --- what is drawn ------------------------------------------------------------------------------------------------


def test_the_rates_the_difference_and_both_under_either_framing_are_shown(study):
    shown = render.found(study)
    assert "0 of 8" in shown and "8 of 8" in shown and "68% to 100%" in shown
    assert "+100 (+54 to +100)" in shown and "McNemar&#x27;s p 0.0078" in shown.replace("'s p", "&#x27;s p")
    assert "Two overlapping intervals are no test" in shown
    assert "Weights or template?" in shown and """<th scope="row">post-trained</th>""" in shown
    assert "Weights or template?" not in render.found(views(ScriptedPool("a", "b"), plan(crossed=False))[-1].study)


def test_equal_replies_stand_together_and_each_seed_is_a_cell(study):
    shown = render.replies(study, 0)
    assert shown.count("<b>8 of 8</b>") == 4 and shown.count("<button") == 4 * 8 + 8, "and those that flip"
    assert "At 8 seeds the two differ on contains:Paris" in shown
    assert shown.count("tabindex='0'") == 4 + 1, "one of each group is reached by Tab"
    assert "passes" in shown and "fails" in shown


def test_what_models_and_people_write_is_escaped():
    *_, last = views(ScriptedPool(HOSTILE, HOSTILE), plan(HOSTILE, tests=f"contains:{HOSTILE}"))
    for shown in (render.found(last.study), render.replies(last.study, 0)):
        assert "<script" not in shown and "<img" not in shown and "&lt;script&gt;" in shown


def test_the_stages_of_a_lineage_are_each_held_against_the_first_and_the_base_is_asked_once():
    pool: Any = ScriptedPool("Lyon", "Paris")
    stages = tuple(Stage(name=name, source=f"lab/{name.lower()}") for name in ("Base", "SFT", "Final"))
    pool.pairs = (PAIR, Pair(id="lab", title="Lab", base="lab/base", post="lab/final", stages=stages))
    pool.add = lambda pair: setattr(pool, "pairs", (*pool.pairs, pair))
    assert session.stages_told(pool.pairs[1]).endswith("against the first: Base, SFT, Final")
    ids = session.stages(pool, "lab")
    assert ids == ("lab/base | lab/sft", "lab/base | lab/final")
    assert [(pair.base, pair.post) for pair in pool.pairs[2:]] == [("lab/base", "lab/sft"), ("lab/base", "lab/final")]
    *_, last = views(pool, plan(pairs=ids))
    shown, replies = render.found(last.study), render.replies(last.study, 0)
    assert "From stage to stage" in shown and "Scripted-Base: 0%; Scripted-Chat: 100%; Scripted-Chat: 100%." in shown
    for id in ids:
        assert f"<small>{id}, 8 seeds</small>" in shown and f"Replies: Post-trained, chat template, {id}" in replies
    assert pool.engines["base"].asked == 2 * 8, "under two framings, for both pairs together"
    with pytest.raises(UserError, match="No stages are known of Scripted pair"):
        session.stages(pool, PAIR.id)
    names = [name for name, _ in session.lenses(pool, last.study.plan)]
    assert names == ["Compare", *(f"The lens between lab/{a} and lab/{b}" for a, b in (("base", "sft"), ("base", "final"), ("sft", "final")))]  # fmt: skip
    written = last.study.written()
    for arm in range(len(last.study.plan.arms())):
        _, at = session.cell(last.study, [0, 3, arm])
        opened = session.between(pool, last.study, at, "1,2")
        assert opened.comparison.pair == "lab/sft | lab/final" and opened.lens.context == "identical"
        assert opened.comparison.framing_base == opened.comparison.framing_post == "chat"
        assert opened.comparison.sampling.seed == last.study.plan.seed(0, 3)
        for which, contrast in zip(SIDES, last.study.plan.own(), strict=True):
            assert opened.output(which).token_ids == written[at._replace(arm=contrast.post)].token_ids
        assert opened.lens.side == ("base" if at.arm == last.study.plan.own()[0].post else "post")
    assert pool.pairs[-1].base == "lab/sft" and session.lenses(pool, plan()) == [("Compare", "")]
    for wrong in ("2,1", "1,3", "x", "0,0"):
        with pytest.raises(UserError, match="no such two stages"):
            session.between(pool, last.study, at, wrong)


def test_of_a_suite_a_prompt_is_chosen_those_that_flip_first():
    rows = suite.read_suite("s.jsonl", b'{"prompt": "One?", "expect": "Lima"}\n{"prompt": "Two?", "expect": "Paris"}\n')
    *_, last = views(
        ScriptedPool("Lyon", "Paris"), plan(asked=OWN, brought=session.Suite("s", rows), seeds=2, tests="")
    )
    assert render.prompts(last.study) == [("2. Two?", 1), ("1. One?", 0)]
    assert "Two?" in render.replies(last.study, 1) and "One?" not in render.replies(last.study, 1)
    assert "By prompt" in render.found(last.study)


def test_at_temperature_0_there_is_one_cell_without_an_interval():
    greedy = CHOSEN.model_copy(update={"sampling": DEFAULT_SAMPLING.model_copy(update={"temperature": 0.0})})
    asked = session.plan(greedy, ONE, "Where?", None, seeds=64, tokens=40, tests="contains:Paris", crossed=False)
    *_, last = views(ScriptedPool("Lyon", "Paris"), asked)
    assert last.study.report.results.done == 2 and "Asked once, at temperature 0" in render.found(last.study)


# --- what a cell opens ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", range(4))
def test_a_cell_opens_as_a_comparison_that_gives_the_same_replies(study, arm):
    found, at = session.cell(study, [0, 3, arm])
    shared = session.shared(found, at)
    assert shared.carries_replies and shared.comparison.sampling.seed == study.plan.seed(0, 3)
    assert shared.comparison.framing(at.arm.side) == at.arm.framing
    result = compare(ScriptedPool("The capital is Lyon.", "It is Paris.").lease, shared.comparison)
    for side in SIDES:
        assert shared.output(side).token_ids == result.side(side).token_ids


def test_a_cell_whose_sibling_is_missing_opens_with_what_there_is(study, monkeypatch):
    written = {cell: reply for cell, reply in study.written().items() if cell.arm.side == "base"}
    monkeypatch.setattr(type(study), "written", lambda self: written)
    shared = session.shared(*session.cell(study, [0, 0, 0]))
    assert shared.base is not None and shared.post is None
    assert results(study.plan, written).whole.contrasts[0].pairs == 0
    assert "Replies" in render.replies(study, 0)


@pytest.mark.parametrize(
    "data", [None, "x", [], [0, 0], [0, 8, 0], [0, 0, 4], [-1, 0, 0], [1, 0, 0], ["0", 0, 0], [0.0, 0, 0]]
)
def test_a_cell_that_is_not_there_is_one_sentence(study, data):
    with pytest.raises(UserError, match="no such reply"):
        session.cell(study, data)


# --- the room ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def house():
    return House(ScriptedPool("The capital is Lyon.", "It is Paris."))


def test_a_visitor_runs_it_opens_a_reply_and_takes_the_files_along(house):
    guest, room = Guest(house), house.rooms["studies"]
    guest.arrive()
    guest.values[room.seeds] = 8
    begun, *_, last = guest.watch(room._run(guest.values))
    assert begun[room.start]["interactive"] is False and last[room.start]["interactive"] is True
    assert last[room.results]["visible"] and "8 of 8" in last[room.rates] and "It is Paris." in last[room.replies]
    assert not guest.session.busy(tab.NAME)
    assert room._shared({**guest.values, tab.CELL: [0, 0, 0]}).comparison.prompt == tab._EXAMPLE
    for _, name, kind, write in tab.FILES:
        parcel, _ = room._packing(name, kind, write)(guest.values, None)
        assert parcel["name"] == name and len(parcel["text"]) > 500
    assert json.loads(parcel["text"])["kind"] == "study"
    guest.values[room.seeds] = 7
    [refused] = guest.watch(room._run(guest.values))
    assert "8 to 1,024 seeds" in refused[room.notice]
    assert guest.values[room.found] is not None, "what was counted before stays"


def test_a_study_whose_session_was_lost_says_so(house):
    guest, room = Guest(house), house.rooms["studies"]
    guest.arrive()
    guest.values[room.row] = 0
    assert "no longer in memory" in room._choose(guest.values)[room.notice]
    with pytest.raises(UserError, match="no longer in memory"):
        room._shared({**guest.values, tab.CELL: [0, 0, 0]})


def test_a_suite_is_chosen_by_dropping_it(house, tmp_path):
    guest, room = Guest(house), house.rooms["studies"]
    file = tmp_path / "mine.csv"
    file.write_text("prompt\nOne?\n")
    guest.values[room.file] = str(file)
    update = room._take(guest.values)
    assert update[room.asked]["choices"][-1] == ("mine.csv: 1 prompt", OWN) and update[room.asked]["value"] == OWN
    assert (
        update[room.seeds] == 4
        and update[room.tests] == ""
        and update[room.prompt]["visible"] is False
        and update[room.file] is None
    )
    file.write_text("prompt\n\n")
    assert "mine.csv has no row" in room._take(guest.values)[room.notice]


# --- a link to all of it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        plan(tests="contains:Paris\nnumber:3..5", branching=True),
        plan(asked="claims", seeds=2, tests="", crossed=False),
        plan(asked=OWN, brought=session.Suite("s", suite.read_suite("s.jsonl", b'{"prompt": "One?", "expect": "1"}'))),
        plan(pairs=("lab/base | lab/sft", "lab/base | lab/final")),
    ],
    ids=["one prompt", "a suite that ships", "a suite of one's own", "stages"],
)
def test_the_fields_of_a_page_that_a_link_opened_ask_the_same_study(asked):
    pool: Any = ScriptedPool("Lyon", "Paris")
    stages = tuple(Stage(name=name, source=f"lab/{name}") for name in ("base", "sft", "final"))
    pool.pairs = (PAIR, Pair(id="lab", title="Lab", base="lab/base", post="lab/final", stages=stages))
    pool.add = lambda pair: setattr(pool, "pairs", (*pool.pairs, pair))
    asked = asked.model_copy(update={"today": "2001-02-03"})
    report = views(pool if len(asked.pairs) == 1 else staged(pool), asked)[-1].study.report
    shared = link.decode("https://a.example/?x=1" + link.encode(report.receipt))
    assert shared.plan == asked and "every one" in shared.told(report.receipt)
    found = session.fields(pool, shared.plan)
    again = session.plan(
        found.chosen,
        found.asked,
        found.prompt,
        found.brought,
        seeds=asked.seeds,
        tokens=asked.sampling.max_new_tokens,
        tests="\n".join(map(str, asked.checks)),
        crossed=asked.crossed,
        branching=asked.branching,
        pairs=session.stages(pool, found.chosen.pair) if found.staged else (),
    )
    assert again != asked and session.as_shared(again, shared) == (asked, shared), "but for the day"
    other = again.model_copy(update={"seeds": 9})
    assert session.as_shared(other, shared) == (other, None) and session.as_shared(other, None) == (other, None)


def staged(pool):
    session.stages(pool, "lab")
    return pool


def test_a_link_says_whether_the_replies_are_those_that_were_shared(study):
    shared = link.SharedStudy.of(study.report.receipt)
    *_, other = views(ScriptedPool("The capital is Lyon.", "It is not."))
    assert "the machine or its libraries differ" in shared.told(other.study.report.receipt)
    writers = study.report.receipt.writers
    foreign = writers[0].model_copy(
        update={"fingerprint": writers[0].fingerprint.model_copy(update={"weights_sha256": "0" * 64})}
    )
    changed = other.study.report.receipt.model_copy(update={"writers": (foreign, *writers[1:])})
    assert "other weights wrote them" in shared.told(changed)
    digests = (None, *study.report.receipt.digests[1:])
    assert "not whole" in shared.told(study.report.receipt.model_copy(update={"digests": digests}))


def test_a_link_that_cannot_be_used_is_one_sentence_and_opens_the_tab(house, study):
    room = house.rooms["studies"]
    sound = link.encode(study.report.receipt)
    foreign = study.report.receipt.model_copy(update={"plan": plan(pairs=("nobody",))})
    several = study.report.receipt.model_copy(update={"plan": plan(pairs=("a", "b"))})
    for address, sentence in (
        (sound[:-9], "damaged or was cut short"),
        (link.PREFIX + links.encode(session.shared(*session.cell(study, [0, 0, 0])))[len(links.PREFIX) :], "a study that this version"),
        (link.encode(foreign), "There is no pair"),
        (link.encode(several), "run it on the command line"),
    ):  # fmt: skip
        update = room._arrive(address)
        assert sentence in update[room.notice] and len(update) == 2
    assert room._arrive("") == room._arrive(None) and len(room._arrive("")) == 1
    assert room._arrive(sound)[room.seeds] == 8
