"""One visitor over all rooms: a lost session, links that arrive, what the browser is told to keep."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from core import links, receipts
from core.types import SIDES, Conversation, Dial, Turn
from core.ui.versions import Aside
from core.ui.visitor import Kept, Opened, Session
from tests.pairs import PAIR, OnePair, tiny_lease
from tests.rooms import Guest, House, event
from tests.values import COMPARISON, record

OPENS = links.encode(links.Shared(comparison=COMPARISON.model_copy(update={"pair": PAIR.id})))


@pytest.fixture(scope="module")
def pool() -> Iterator[OnePair]:
    with tiny_lease() as lease:
        yield OnePair(lease)


@pytest.fixture(scope="module")
def house(pool) -> House:
    """One page for all tests: what a visitor does is in the session alone."""
    return House(pool)


@pytest.fixture
def guest(house) -> Guest:
    """A visitor with two turns."""
    guest = Guest(house)
    guest.arrive()
    guest.values[house.visitor.sidebar.max_new_tokens] = 6
    for prompt in ("One", "Two"):
        guest.ask(prompt)
    return guest


# --- a lost session --------------------------------------------------------------------------------------

Act = Callable[[Any, Guest], Any]


def _notices(room: Any, updates: list[dict]) -> list[str]:
    """What was said, each sentence once: how many views there are is a question of time."""
    return list(dict.fromkeys(update[room.notice] for update in updates if room.notice in update))


def _asked(**asked: Any) -> Act:
    """A turn, followed to its end: what the script is told about it, but for how long that took."""

    def act(room: Any, guest: Guest) -> Any:
        *_, end = guest.start(**asked)
        return re.sub(r" title='[^']*'", "", end["end"]), end["said"], end.get("back"), end["rest"]

    return act


def _acted(do: str, *names: str, **asked: Any) -> Act:
    """An action on a turn: what the script is told."""

    def act(room: Any, guest: Guest) -> Any:
        told = guest.act(do, **asked)
        return [told[name] for name in names]

    return act


def _lens(number: int) -> Act:
    def act(room: Any, guest: Guest) -> list[str]:
        fn = [each for each in guest.house.demo.fns.values() if room.view in each.outputs][number].fn
        guest.values[room.turn] = 1
        return _notices(room, guest.watch(fn(guest.values, event())))

    return act


def _branch(room: Any, guest: Guest) -> list[str]:
    _lens(0)(room, guest)  # the browser holds the lens that it shows, whatever the server has lost
    head = json.loads(guest.values[room.view].split("\n")[0])
    guest.leave()
    fn = [each for each in guest.house.demo.fns.values() if room.view in each.outputs][5].fn
    asked = {**{name: head[name] for name in ("turn", "of", "side")}, "step": 0, "token": 5}
    return _notices(room, guest.watch(fn(guest.values, event(**asked))))


def _exported(label: str) -> Act:
    return lambda room, guest: room._exporter(label)(guest.values, None)


ACTS: dict[str, tuple[str, Act]] = {
    "ask": ("compare", _asked(prompt="Three")),
    "edit": ("compare", _asked(prompt="Three", at=0)),
    "retry": ("compare", _asked(at=0, again=True)),
    "delete": ("compare", _acted("delete", "rows", "back", turn=1)),
    "version": ("compare", _acted("version", "rows", turn=1, versions=[1])),
    "mark": ("compare", _acted("mark", "marked", turn=0, value="post")),
    "copy": ("compare", _acted("copy", "copy", turn=1, side="post")),
    "copy link": ("compare", _acted("link", "parcel", "notice", turn=0)),
    "receipt": ("compare", _acted("receipt", "notice", turn=0)),
    "what was sent": ("compare", _acted("sent", "sent", turn=1)),
    "code": ("compare", _acted("code", "code", turn=1)),
    "lens in place": ("compare", _acted("lens", "tokens", turn=1)),
    "turns of the lens": ("lens", lambda room, guest: room._turns(guest.values)),
    "read": ("lens", _lens(0)),
    "hand over": ("lens", _lens(1)),
    "dial": ("lens", _lens(2)),
    "sweep": ("lens", _lens(3)),
    "grid": ("lens", _lens(4)),
    "branch": ("lens", _branch),
    "link of a lens": ("lens", lambda room, guest: room._pack_link({**guest.values, room.turn: 1}, None)),
    "lists of receipts": ("receipts", lambda room, guest: list(room._choices(guest.values).values())),
    "explain": (
        "receipts",
        lambda room, guest: room._explain({**guest.values, room.first: "turn 0", room.second: "turn 1"}),
    ),
    **{
        f"export {number}": (
            "receipts",
            _exported(label),
        )
        for number, label in enumerate(("Both replies as Markdown", "Both chats as JSON Lines"))
    },
}


@pytest.mark.parametrize("name", ACTS)
def test_every_room_goes_on_with_what_the_browser_kept_when_the_session_is_lost(guest, name):
    room_name, act = ACTS[name]
    room, kept = guest.house.rooms[room_name], guest.kept
    there = act(room, guest)
    after = guest.prompts
    guest.kept = kept
    guest.leave()
    assert act(room, guest) == there
    assert guest.prompts == after
    assert there and "no reply to look at" not in str(there) and "no turn" not in str(there)


def test_who_asks_before_the_page_has_arrived_loses_nothing_and_is_not_disturbed(house, guest):
    """On a slow machine a prompt can be sent before the server has heard what the browser kept."""
    guest.leave()
    running = guest.start("Three")
    next(running)
    update = house.visitor.arrive(guest.session, guest.values[house.visitor.keeper])
    assert set(update) == {house.visitor.session, house.visitor.keeper}, "no part of the page loses its Stop button"
    assert "end" in [*running][-1]
    assert guest.prompts == guest.kept_prompts == ["One", "Two", "Three"]


def test_a_new_chat_is_not_taken_for_a_lost_one(house, guest):
    kept = guest.kept
    guest.see(house.visitor.new(guest.session))
    guest.values[house.visitor.keeper] = {"kept": kept}  # as though the browser had not stored the change yet
    guest.ask("Hello")
    assert guest.prompts == ["Hello"]


@pytest.mark.parametrize("kept", ["{", '{"version": 2}', '{"records": 7}', "null", '"x"'])
def test_what_cannot_be_read_any_more_is_a_sentence_and_a_new_chat(house, guest, kept):
    guest.kept = kept
    update = guest.arrive()
    told = guest.told(update)
    assert update[house.visitor.keeper]["do"] == "begin_here", "what is kept is not written over"
    assert "cannot be read" in told["error"] and told["rows"] == "" and guest.prompts == []


@pytest.mark.parametrize(
    "brought", [None, [], "x", {"kept": 7}, {"address": 7, "fresh": True}, {"last": "x", "own": []}]
)
def test_whatever_a_browser_brings_is_taken_for_nothing_when_it_is_nothing(house, brought):
    session = Session()
    house.visitor.arrive(session, brought)
    assert session.records == ()


# --- links and receipts ------------------------------------------------------------------------------------


def test_a_link_opens_beside_ones_own_conversation(house, guest):
    update = guest.arrive(address=OPENS, fresh=True, own=True)
    order = update[house.visitor.keeper]
    assert order["do"] == "begin_here" and order["aside"] and not order["ran"], "another conversation than the kept one"
    told = guest.told(update)
    assert (told["box"], told["elsewhere"]) == (COMPARISON.prompt, "Back to my conversation")
    guest.leave()  # what was opened survives a lost session too
    guest.ask(COMPARISON.prompt)
    assert Kept.model_validate_json(guest.kept).opened is not None and guest.prompts == [COMPARISON.prompt]


def test_a_link_that_was_opened_before_is_not_opened_again(guest):
    guest.arrive(address=OPENS, fresh=False)
    assert guest.prompts == ["One", "Two"]


def test_a_link_that_cannot_be_used_changes_nothing(house, guest):
    kept = guest.kept
    told = guest.told(guest.arrive(address="#c=damaged!", fresh=True, own=True))
    assert "damaged" in told["error"] and guest.prompts == ["One", "Two"] and guest.kept == kept
    assert told["elsewhere"] == "" and told["box"] is None, "what is being typed stays"


def test_an_address_that_means_to_be_a_link_and_is_none_gets_a_sentence(house):
    for address in ("#c", "#c=", "#c%3D", "#C=eNq", "#c=eNq%"):
        guest = Guest(house)
        assert "damaged" in guest.told(guest.arrive(address=address, fresh=True))["error"]


def test_what_was_shared_can_be_shown_before_anybody_has_checked_it(house, pool, guest):
    made = links.of_turn(guest.session.records, 1)
    bare = made.model_copy(update={side: made.output(side).model_copy(update={"text": None}) for side in SIDES})
    for shared in (made, bare):
        reader = Guest(house)
        reader.arrive(address=links.encode(shared), fresh=True)
        shown = house.visitor.as_shared(reader.session)
        assert shown.turn == guest.session.records[1].turn and (shown.base, shown.post) == (None, None)
        assert reader.prompts == ["One"] and reader.session.waiting is not None, "it is not one of the turns"
    assert house.visitor.as_shared(guest.session) is None, "nothing waits"


def test_replies_of_a_pair_that_is_not_here_are_spelled_by_nobody(house, guest, monkeypatch):
    monkeypatch.setattr(house.visitor.pool, "peek", lambda id: None)
    receipt = receipts.of_turn(guest.session.records, 0)
    reader = Guest(house)
    reader.arrive(address=links.encode(links.of_receipt(receipt)), fresh=True)
    assert reader.session.waiting.shared.carries_replies and house.visitor.as_shared(reader.session) is None


def test_a_link_whose_replies_are_too_long_says_that_they_are_not_in_it(house, guest, monkeypatch):
    assert "sees these replies" in guest.act("link", turn=1)["notice"]
    monkeypatch.setattr(links, "MAX_CHARACTERS", len(links.encode(links.of_turn(guest.session.records, 1))) - 1)
    told = guest.act("link", turn=1)
    assert "too long for a link and are not in it" in told["notice"]
    assert not links.decode(told["parcel"]["fragment"]).carries_replies


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("seed", 1.7, "seed: use a whole number."),
        ("seed", -1, "seed: input should be greater than or equal to 0."),
        ("seed", None, "Seed is empty; type a number."),
        ("top_k", 2.5, "top_k: use a whole number."),
    ],
)
def test_a_setting_that_cannot_be_used_is_a_sentence_and_nothing_runs(house, guest, name, value, sentence):
    widget = getattr(house.visitor.sidebar, name)
    guest.values[widget] = widget.preprocess(value)  # what Gradio makes of what was typed
    assert sentence in guest.ask("Three")["error"]
    assert guest.prompts == ["One", "Two"]


def test_a_new_tab_offers_the_last_conversation(house):
    guest = Guest(house)
    last = "\u201cOnce upon a time\u201d, Nov 29"
    assert guest.told(guest.arrive(last=last))["elsewhere"] == f"Continue {last}"
    assert guest.prompts == []
    assert guest.told(guest.arrive(last=""))["elsewhere"] == ""


def test_a_tab_with_turns_of_its_own_is_offered_no_other(house, guest):
    assert guest.told(guest.arrive(last="\u201cOnce\u201d, Nov 29"))["elsewhere"] == ""


def test_a_link_to_a_pair_that_is_unknown_here_changes_nothing(house, guest):
    kept = guest.kept
    told = guest.told(guest.arrive(address=links.encode(links.Shared(comparison=COMPARISON)), fresh=True))
    assert "embedded" in told["error"]
    assert guest.prompts == ["One", "Two"] and guest.kept == kept and guest.session.opened is None


def test_earlier_turns_of_a_link_are_shown_as_texts_without_what_began_or_dialled_its_own(house):
    earlier = Conversation(turns=(Turn(prompt="Before", base="b", post="p"),))
    begun = {"prefill_base": (40,), "prefill_post": (41,), "dial": Dial(amount=0.5)}
    asked = COMPARISON.model_copy(update={"pair": PAIR.id, "conversation": earlier, **begun})
    guest = Guest(house)
    guest.arrive(address=links.encode(links.Shared(comparison=asked)), fresh=True)
    [record] = guest.session.records
    assert record.turn == earlier.turns[0] and (record.base, record.post) == (None, None)
    assert (record.prefill_base, record.prefill_post, record.dial) == ((), (), None)
    assert guest.session.waiting is not None and guest.session.waiting.source == "link"
    assert guest.session.waiting.shared.comparison == asked


def test_the_settings_beside_the_prompt_are_those_of_what_is_shown(house, guest):
    sidebar = house.visitor.sidebar
    assert guest.arrive()[sidebar.max_new_tokens]["value"] == 6, "of the last turn"
    asked = COMPARISON.model_copy(update={"pair": PAIR.id, "conversation": Conversation(system="Be kind.")})
    update = guest.arrive(address=links.encode(links.Shared(comparison=asked)), fresh=True)
    assert update[sidebar.max_new_tokens]["value"] == asked.sampling.max_new_tokens != 6, "of what waits to be run"
    assert update[sidebar.system] == "Be kind."
    assert sidebar.system not in Guest(house).arrive(), "of nobody where there is nothing"


# --- what the browser is told -----------------------------------------------------------------------------


def test_every_change_is_told_as_an_order_of_its_own(house, guest):
    """Two equal values in a row would not reach the script."""
    visitor, session = house.visitor, guest.session
    one, two = (visitor.replace(session, session.records)[visitor.keeper] for _ in range(2))
    assert one.pop("serial") != two.pop("serial")
    assert one == two == visitor.keep(session)
    assert one == {"do": "keep", "kept": guest.kept, "ran": True, "aside": False}


def test_a_system_prompt_is_kept_once_for_the_turns_that_share_it(guest):
    """A link of 150,000 characters with 1,000 turns would be 400 MB in a browser."""
    systems = ["Be kind.", "Be kind.", "", "", "Be brief.", "Be kind."]
    records = tuple(record(str(turn), system=system) for turn, system in enumerate(systems))
    aside = tuple(Aside(index=6 + n, parent=5, record=records[0]) for n in range(2))
    kept = Kept(records=records, aside=aside)
    text = kept.model_dump_json()
    assert Kept.model_validate_json(text) == kept
    assert [each.get("system") for each in json.loads(text)["records"]] == [
        "Be kind.",
        None,
        "",
        None,
        "Be brief.",
        "Be kind.",
    ]
    assert [each["record"].get("system") for each in json.loads(text)["aside"]] == [None, None]
    told = {"records": [each.model_dump(mode="json") for each in records]}
    assert Kept.model_validate_json(json.dumps(told)).records == records, "as browsers kept them before"


@pytest.mark.parametrize(
    "kept",
    [
        Kept.model_construct(records=(record("One"),) * 1002),
        Kept.model_construct(records=(record("One", "x" * 400_000),) * 6),
        Kept.model_construct(aside=tuple(Aside(index=n, parent=-1, record=record("One")) for n in range(201))),
    ],
    ids=["turns", "characters", "versions"],
)
def test_no_more_is_taken_from_a_browser_than_a_conversation_holds(house, guest, kept):
    guest.kept = kept.model_dump_json()
    guest.arrive()
    assert guest.session.notice.endswith("this is a new chat.") and guest.prompts == []


def test_a_conversation_that_is_replaced_is_kept_and_one_that_is_new_begins_empty(house, guest):
    visitor, session = house.visitor, guest.session
    session.elsewhere = "Back to my conversation"
    update = guest.see(visitor.replace(session, session.records[:1]))
    assert guest.prompts == guest.kept_prompts == ["One"]
    assert update[visitor.keeper]["do"] == "keep" and update[visitor.tabs].selected == "compare"
    update = guest.see(visitor.new(session))
    assert guest.prompts == guest.kept_prompts == [] and update[visitor.keeper]["do"] == "begin"
    assert (session.opened, session.elsewhere) == (None, "")


def test_a_page_that_is_loaded_again_shows_what_it_showed(house, guest):
    assert guest.arrive()[house.visitor.keeper]["do"] == "show"
    guest.arrive(address=OPENS, fresh=True)
    order = guest.arrive(address=OPENS, fresh=False)[house.visitor.keeper]
    assert order["do"] == "show" and not order["aside"] and not order["ran"]


# --- every visitor has a session of their own -------------------------------------------------------------


def test_a_room_has_one_thing_under_way_and_starting_again_stops_it():
    session = Session()
    first = session.restart("lens")
    second = session.restart("lens")
    assert first.pressed and not second.pressed
    session.end("lens", first)
    assert session.busy("lens"), "the end of the first is not the end of the second"
    session.end("lens", second)
    session.end("lens", second)
    assert not session.busy("lens")


def test_what_is_stopped_is_what_is_under_way_in_that_room():
    session = Session()
    lens, compare = session.restart("lens"), session.begin("compare")
    session.stop("receipts")
    session.stop("compare")
    assert compare is not None and compare.pressed and not lens.pressed
    session.end("compare", compare)
    assert session.begin("compare"), "once it has ended, another may begin"


def test_stop_stops_what_is_under_way_in_its_room_alone(house, guest):
    for name, room in house.rooms.items():
        target = (room.transcript._id, "halt") if name == "compare" else (room.stop._id, "click")
        [press] = [fn.fn for fn in house.demo.fns.values() if target in fn.targets]
        work, other = guest.session.restart(name), guest.session.restart("another room")
        press(guest.session)
        assert work.pressed and not other.pressed, name


def test_everything_that_an_arrival_changes_is_among_its_outputs(house, guest):
    shown = set(house.visitor.outputs)
    assert set(guest.arrive()) <= shown and set(guest.arrive(address=OPENS, fresh=True)) <= shown


def test_every_visitor_begins_with_nothing_of_anybody_elses():
    session = Session()
    session.follow((record("Mine"),))
    session.slower = 4
    begun = deepcopy(session)
    assert begun.versions is None and begun.records == () and begun.slower == 1


def test_what_came_from_elsewhere_waits_until_something_was_run_behind_it():
    session = Session()
    session.opened = Opened(shared=links.Shared(comparison=COMPARISON), source="link")
    theirs = record("Theirs").model_copy(update={"base": None, "post": None})
    session.follow((theirs,))
    assert session.waiting == session.opened
    for failed in SIDES:
        session.follow((theirs, record("Mine", failed=failed)))
        assert session.waiting is None


def test_rooms_do_not_wait_for_each_other():
    session = Session()
    assert session.begin("compare") and session.begin("lens") and not session.begin("compare")


# --- rooms --------------------------------------------------------------------------------------------------

ROOT = Path(__file__).parent.parent
BUILDS = """
import os, sys
import gradio, torch, transformers  # once; each page is built in a fork
for folder in sys.argv[1:]:
    if not os.fork():
        os.chdir(folder)
        from core.hub import HuggingFaceHub
        from core.pool import Pool
        from core.settings import Settings
        from core.ui import page
        demo = page.build(Pool(Settings(), HuggingFaceHub()))
        labels = [each["props"]["label"] for each in demo.get_config_file()["components"] if each["type"] == "tabitem"]
        print(labels, flush=True)
        os._exit(0)
    if os.wait()[1]:
        sys.exit(1)
"""


@pytest.mark.slow
def test_a_room_is_deleted_by_deleting_its_folder_and_its_line(tmp_path):
    rooms = {
        "compare": "Compare",
        "lens": "Token lens",
        "experiments": "Experiments",
        "studies": "Studies",
        "receipts": "Receipts",
    }
    _, *others = rooms
    for room in others:
        folder = tmp_path / room
        shutil.copytree(ROOT / "core", folder / "core", ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "checkpoints").mkdir()
        shutil.copy(ROOT / "checkpoints" / "pairs.toml", folder / "checkpoints")
        shutil.rmtree(folder / "core" / "ui" / room)
        page = folder / "core" / "ui" / "page.py"
        lines = page.read_text("utf-8").splitlines(keepends=True)
        page.write_text("".join(line for line in lines if line != f'    "{room}",\n'), "utf-8")
        assert len(page.read_text("utf-8").splitlines()) == len(lines) - 1
    command = [sys.executable, "-c", BUILDS, *others]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    titles = [str([title for name, title in rooms.items() if name != room]) for room in others]
    assert built.stdout.splitlines() == titles
