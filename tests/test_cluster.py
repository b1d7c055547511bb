"""Models in replicas elsewhere, without Ray: streams that say what a test wants, and responders of this process for replicas."""

import asyncio
import dataclasses
import json
import subprocess
import sys
from queue import SimpleQueue
from time import monotonic, sleep
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from core import __version__
from core.cli import serve
from core.cluster import following, wire
from core.cluster.cards import card_from, card_of
from core.cluster.fingerprint import fingerprint
from core.cluster.following import BROKEN, BUSY, GONE, Following, Full, Loop, Lost, Way
from core.cluster.pool import ClusterPool
from core.cluster.responder import Misfit, Responder
from core.engine import portable
from core.errors import NotEnoughMemory, TooLong, UserError
from core.run import Run, compare
from core.settings import Settings
from core.steps import finish
from core.types import (
    DEFAULT_SAMPLING,
    SIDES,
    Comparison,
    DrawDivergence,
    Failure,
    Finish,
    Queued,
    Request,
    Started,
    Token,
    Usage,
    WrittenBy,
)
from tests.pairs import PAIR, comparison, tiny_lease
from tests.replicas import HeldPair, NearCluster, Replica, cluster_pool
from tests.scripted import INFO
from tests.test_house import ROOT

# --- what crosses -----------------------------------------------------------------------------------------------

floats = st.floats(allow_nan=False, allow_infinity=False)
whole = st.integers(0, 2**31)
usages = st.builds(
    Usage,
    **dict.fromkeys(("prompt_tokens", "reused_tokens", "output_tokens", "prefill_passes", "decode_passes"), whole),
    **dict.fromkeys(("seconds_queued", "seconds_to_first_token", "seconds_decoding"), floats),
)
events = st.one_of(
    st.builds(Queued, ahead=whole | st.none()),
    st.just(Started()),
    st.just(WrittenBy(engine=INFO)),
    st.builds(Token, step=whole, id=whole, logprob=floats, margin=floats | st.none()),
    st.builds(
        DrawDivergence,
        **dict.fromkeys(("step", "drawn", "expected"), whole),
        **dict.fromkeys(("drawn_logit", "expected_logit", "behind"), floats | st.none()),
    ),
    st.builds(Finish, reason=st.sampled_from(("eos", "length", "context", "stopped")), usage=usages),
    st.builds(Failure, message=st.text()),
)


def bits(value):
    """A value with the bits of its floats for them: -0.0 is not 0.0."""
    match value:
        case float():
            return value.hex()
        case dict():
            return {name: bits(each) for name, each in value.items()}
        case list() | tuple():
            return [bits(each) for each in value]
    return value


@given(st.sampled_from(SIDES), events)
def test_an_event_arrives_as_it_was_to_the_last_bit(side, event):
    there, arrived = wire.unpacked(wire.packed(side, event))
    assert (there, type(arrived)) == (side, type(event))
    assert bits(arrived.model_dump()) == bits(event.model_dump())


def test_every_kind_of_event_can_cross():
    from typing import get_args

    from core.types import Event

    assert set(wire._KINDS.values()) == set(get_args(Event))


@given(
    st.lists(whole, min_size=1, max_size=5),
    floats.filter(lambda x: x == 0 or 0.01 <= x <= 2),
    st.lists(whole, max_size=3),
)
def test_a_request_arrives_as_it_was(ids, temperature, expected):
    request = Request(
        token_ids=tuple(ids),
        sampling=DEFAULT_SAMPLING.model_copy(update={"temperature": temperature}),
        stop_ids=frozenset(expected),
        expected=tuple(expected),
        reading="on",
    )
    ask = wire.AskWrite(requests={"base": request})
    assert wire.asks.validate_python(wire.plain(ask)) == ask


@pytest.mark.parametrize("error", [UserError("This."), TooLong("That."), NotEnoughMemory("Neither.")])
def test_a_refusal_keeps_its_kind_and_its_sentence(error):
    arrived = wire.refused(wire.refusal(error))
    assert (type(arrived), str(arrived)) == (type(error), str(error))


def test_a_replica_is_asked_that_has_the_fingerprint_then_one_that_may_load_and_never_another():
    told = {"a": "x", "b": "y", "c": None, "d": "x"}
    assert wire.eligible(told, "x", ["d"]) == [["a"], ["c"]]
    assert wire.eligible(told, "", []) == [["a", "b", "d"], ["c"]]
    assert wire.eligible(told, "z", ["c"]) == []


# --- a reply, followed ------------------------------------------------------------------------------------------

SILENCE = "silence"


class Streams:
    """A Cluster that says what a test wants: for each ask the batches of one stream, an exception at its end, or silence."""

    def __init__(self, *streams):
        self.streams, self.calls, self.stopped, self.closed = list(streams), [], [], 0
        self.more: SimpleQueue = SimpleQueue()  # batches of a stream that has "more"

    async def ask(self, call):
        self.calls.append(call)
        try:
            for item in self.streams.pop(0):
                if isinstance(item, Exception):
                    raise item
                if item == SILENCE:
                    await asyncio.Event().wait()
                while item == "more" and (batch := await asyncio.to_thread(self.more.get)) is not None:
                    yield batch
                if isinstance(item, list):
                    yield item
        finally:
            self.closed += 1

    def stop(self, key, sides):
        self.stopped.append(list(sides))


def at(name="a"):
    return [("at", name)]


def tokens(first, last, side="base", shift=0.0):
    return [wire.packed(side, token(step, shift)) for step in range(first, last)]


def token(step, shift=0.0):
    return Token(step=step, id=100 + step, logprob=-0.1 * step - 1e-17 + shift, margin=None if step % 2 else 0.5)


def ended(side="base", reason="length", output=0):
    usage = Usage(
        prompt_tokens=3,
        reused_tokens=0,
        output_tokens=output,
        prefill_passes=1,
        decode_passes=1,
        seconds_queued=0,
        seconds_to_first_token=0,
        seconds_decoding=0,
    )
    return wire.packed(side, Finish(reason=reason, usage=usage))


def started(side="base"):
    return wire.packed(side, Started())


END = [("end",)]
REQUEST = Request(token_ids=(1, 2, 3), sampling=DEFAULT_SAMPLING, stop_ids=frozenset())


@pytest.fixture(scope="module")
def loop():
    return Loop()


class Heard:
    """A reply that is followed, and what is heard of it."""

    def __init__(self, loop, streams, sides=("base",), request=REQUEST, **way):
        self.way = Way(streams, loop, PAIR, "f" * 64, **{"patience": 5.0, **way})
        self.news: SimpleQueue = SimpleQueue()
        self.events = []
        self.sides = sides
        self.following = Following(self.way, dict.fromkeys(sides, request), lambda *news: self.news.put(news))

    def until(self, kind, count=1):
        seen = 0
        while seen < count:
            self.events.append(self.news.get(timeout=10))
            seen += isinstance(self.events[-1][1], kind)
        return self

    def to_the_end(self):
        return self.until(Finish | Failure, len(self.sides))

    def said(self, side="base"):
        """Without the waiting."""
        return [event for each, event in self.events if each == side and not isinstance(event, Queued)]

    @property
    def counts(self):
        counts = self.way.counts
        return counts.lost, counts.resumed, counts.broken, counts.foreign, counts.busy


WHOLE = [Started(), *map(token, range(5))]


@pytest.mark.parametrize("portable", [False, True])
def test_a_reply_goes_on_elsewhere_and_nothing_is_told_twice(loop, portable):
    streams = Streams(
        [at("a"), [started(), *tokens(0, 3)], Lost("it was killed")],
        [at("b"), [started(), *tokens(0, 2)], [*tokens(2, 5), ended()], END],
    )
    heard = Heard(loop, streams, portable=portable).to_the_end()
    assert heard.said()[:-1] == WHOLE and heard.said()[-1].reason == "length"
    assert heard.counts == (1, 1, 0, 0, 0)
    again = streams.calls[1]
    assert again.avoid == ("a",) and again.wanted == "f" * 64
    request = wire.asks.validate_python(again.asked).requests["base"]
    read = {"expected": (100, 101, 102), "reading": "on"}
    assert request == (REQUEST.model_copy(update=read) if portable else REQUEST)


def test_a_reply_that_nobody_stopped_goes_on_elsewhere_when_its_replica_closes(loop):
    streams = Streams(
        [at("a"), [*tokens(0, 3), ended(reason="stopped")], END], [at("b"), [*tokens(0, 5), ended()], END]
    )
    heard = Heard(loop, streams).to_the_end()
    assert heard.said()[:-1] == WHOLE[1:] and heard.said()[-1].reason == "length"
    assert heard.counts == (1, 1, 0, 0, 0)


def test_whoever_waits_for_another_machine_is_told(loop, monkeypatch):
    streams = Streams([at(), [started(), *tokens(0, 2)], Lost("gone")], [at("b"), [*tokens(0, 3), ended()], END])
    heard = Heard(loop, streams).to_the_end()
    assert ("base", Queued(ahead=None)) in heard.events
    monkeypatch.setattr(following, "LATE", 0.01)
    heard = Heard(loop, Streams([SILENCE]), patience=0.1).until(Queued)
    assert heard.events[-1] == ("base", Queued(ahead=None))
    heard.to_the_end()


def test_one_that_says_nothing_is_lost(loop, monkeypatch):
    monkeypatch.setattr(following, "STALL", 0.1)
    streams = Streams([at("a"), tokens(0, 3), SILENCE], [at("b"), [], [*tokens(0, 5), ended()], END])
    heard = Heard(loop, streams).to_the_end()
    assert heard.said()[:-1] == WHOLE[1:]
    assert heard.counts == (1, 1, 0, 0, 0) and streams.closed == 2


@pytest.mark.parametrize(
    "others",
    [
        [*tokens(0, 2), *tokens(2, 5, shift=1e-12), ended()],
        [*tokens(0, 2), wire.packed("base", Token(step=2, id=7, logprob=-0.2, margin=0.5))],
        [*tokens(0, 2), ended(reason="eos")],
    ],
    ids=["another bit", "another token", "an earlier end"],
)
def test_bits_that_differ_end_the_reply_and_are_never_spliced(loop, others):
    streams = Streams([at("a"), tokens(0, 3), Lost("gone")], [at("b"), others, END])
    heard = Heard(loop, streams).to_the_end()
    assert heard.said() == [*map(token, range(3)), Failure(message=BROKEN)]
    assert heard.counts[2] == 1


def test_the_other_side_goes_on_when_one_differs(loop):
    streams = Streams(
        [at("a"), [*tokens(0, 1), *tokens(0, 1, "post")], Lost("gone")],
        [at("b"), tokens(0, 1, shift=0.5), [*tokens(0, 2, "post"), ended("post")], END],
    )
    heard = Heard(loop, streams, sides=SIDES).to_the_end()
    assert heard.said("base")[-1] == Failure(message=BROKEN)
    assert heard.said("post")[:-1] == [token(0), token(1)]
    assert streams.stopped == [["base"]]


def test_only_what_is_still_open_is_asked_of_the_next(loop):
    first = [*tokens(0, 2), *tokens(0, 1, "post"), ended()]
    streams = Streams([at("a"), first, Lost("gone")], [at("b"), [*tokens(0, 2, "post"), ended("post")], END])
    Heard(loop, streams, sides=SIDES).to_the_end()
    assert set(wire.asks.validate_python(streams.calls[1].asked).requests) == {"post"}


def test_a_reply_that_is_checked_against_a_recorded_one_is_asked_again_as_it_was(loop):
    recorded = REQUEST.model_copy(update={"expected": (100, 101, 9)})
    streams = Streams([at("a"), tokens(0, 2), Lost("gone")], [at("b"), [*tokens(0, 3), ended()], END])
    Heard(loop, streams, request=recorded, portable=True).to_the_end()
    assert wire.asks.validate_python(streams.calls[1].asked).requests["base"] == recorded


def test_what_gave_way_and_is_begun_again_is_told_anew(loop):
    streams = Streams([at(), [started(), *tokens(0, 2)], [started(), *tokens(0, 3, shift=0.5), ended()], END])
    heard = Heard(loop, streams).to_the_end()
    told = [token(step, 0.5) for step in range(3)]
    assert heard.said()[:-1] == [Started(), token(0), token(1), Started(), *told]
    assert heard.counts == (0, 0, 0, 0, 0)


def test_too_many_who_wait_are_told_that_all_are_busy(loop):
    heard = Heard(loop, Streams([Full()])).to_the_end()
    assert heard.said() == [Failure(message=BUSY)] and heard.counts[-1] == 1


def test_nobody_who_takes_it_in_time_is_busy_too(loop):
    streams = Streams([SILENCE])
    heard = Heard(loop, streams, patience=0.05).to_the_end()
    assert heard.said() == [Failure(message=BUSY)]
    assert heard.way.stale and streams.closed == 1


def test_nobody_who_takes_over_is_said_as_what_it_is(loop):
    heard = Heard(loop, Streams([at(), tokens(0, 1), Lost("gone")], [SILENCE]), patience=0.05).to_the_end()
    assert heard.said()[-1] == Failure(message=GONE)


def test_it_does_not_go_on_for_ever(loop):
    dying = [[at(name), tokens(0, 1), Lost("gone")] for name in "abcdef"]
    heard = Heard(loop, Streams(*dying)).to_the_end()
    assert heard.said() == [token(0), Failure(message=GONE)]
    assert heard.counts == (following.RETRIES + 1, 0, 0, 0, 0)


def test_one_of_another_fingerprint_is_left_and_counted(loop):
    streams = Streams([at("a"), [("foreign", "e" * 64), ("end",)]], [at("b"), [*tokens(0, 2), ended()], END])
    heard = Heard(loop, streams).to_the_end()
    assert heard.said()[:-1] == [token(0), token(1)]
    assert heard.counts == (0, 0, 0, 1, 0) and streams.calls[1].avoid == ("a",)


def test_a_refusal_is_told_in_its_sentence(loop):
    heard = Heard(loop, Streams([at(), [wire.refusal(UserError("It does not fit.")), ("end",)]])).to_the_end()
    assert heard.said() == [Failure(message="It does not fit.")]


def test_what_is_stopped_says_itself_what_it_cost(loop):
    streams = Streams([at(), tokens(0, 2), "more", END])
    heard = Heard(loop, streams).until(Token, 2)
    heard.following.stop()
    while not streams.stopped:
        sleep(0.01)
    streams.more.put([*tokens(2, 3), ended(reason="stopped", output=3)])
    heard.to_the_end()
    streams.more.put(None)
    assert heard.said()[-1].reason == "stopped" and heard.said()[-1].usage.decode_passes == 1
    assert streams.stopped == [["base"]]


def test_what_is_stopped_while_it_waits_ends_at_once_and_nobody_is_asked_any_more(loop):
    streams = Streams([SILENCE])
    heard = Heard(loop, streams, sides=SIDES)
    while not streams.calls:
        sleep(0.01)
    heard.following.stop()
    heard.to_the_end()
    assert [event.reason for side in SIDES for event in heard.said(side)] == ["stopped", "stopped"]
    until = monotonic() + 5
    while not streams.closed and monotonic() < until:
        sleep(0.01)
    assert streams.closed == 1 and streams.stopped == []


def test_a_side_that_was_stopped_while_it_waited_is_stopped_where_it_is_taken(loop):
    streams = Streams(["more", [ended("post")], END])
    heard = Heard(loop, streams, sides=SIDES)
    while not streams.calls:
        sleep(0.01)
    heard.following.stop("base")
    heard.until(Finish)
    streams.more.put(at())
    streams.more.put(None)
    heard.until(Finish)
    assert streams.stopped == [["base"]]


def test_a_replica_that_does_not_say_how_it_stopped_is_not_waited_for(loop, monkeypatch):
    monkeypatch.setattr(following, "TO_STOP", 0.05)
    streams = Streams([at(), tokens(0, 2), SILENCE])
    heard = Heard(loop, streams).until(Token, 2)
    heard.following.stop()
    heard.to_the_end()
    assert heard.said()[-1].reason == "stopped" and heard.said()[-1].usage.output_tokens == 2


# --- replicas of this process -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def here():
    with tiny_lease() as lease:
        yield lease


@pytest.fixture(scope="module")
def elsewhere():
    """The same models in other engines."""
    with tiny_lease() as lease:
        yield lease


@pytest.fixture
def cluster(here, elsewhere):
    return NearCluster(Replica("a", here), Replica("b", elsewhere))


@pytest.fixture
def pool(cluster):
    with cluster_pool(cluster) as pool:
        yield pool


def same(one, other):
    return all(
        (getattr(one.side(side), name) == getattr(other.side(side), name))
        for side in SIDES
        for name in ("token_ids", "logprobs", "margins", "text", "finish_reason", "engine", "weights_sha256")
    )


def test_a_page_server_is_ready_when_the_default_pair_was_met(pool):
    assert not pool.ready and pool.peek(PAIR.id) is None
    lease = pool.wait(PAIR.id)
    assert pool.ready and pool.peek(PAIR.id) is lease is pool.wait(PAIR.id)


def test_a_card_arrives_with_its_tokenizer(here):
    for side in SIDES:
        card = here.side(side)
        arrived = card_from(card_of(card))
        assert (arrived.info, arrived.engine, arrived.stop_ids) == (card.info, card.engine, card.stop_ids)
        assert arrived.tokenizer.get_vocab() == card.tokenizer.get_vocab()
        assert arrived.tokenizer.chat_template == card.tokenizer.chat_template
        assert repr(card_of(arrived)) == repr(card_of(card)), "nothing is left out on the way"


def test_a_reply_survives_the_death_of_its_replica(pool, cluster, here):
    lease = pool.wait(PAIR.id)
    asked = comparison(max_new_tokens=150, temperature=1.2)
    run = Run(lease, asked)
    for snapshot in run.snapshots(lambda: 0.02):
        if len(snapshot.post.token_ids) > 10:
            cluster.replicas[0].dead = True
    assert same(run.result(), compare(here, asked))
    assert cluster.replicas[1].asked and pool.counts.lost == pool.counts.resumed == 1 and not pool.counts.broken


def test_in_portable_arithmetic_what_was_shown_is_read_elsewhere_and_only_the_rest_is_written():
    with tiny_lease(attention=portable.NAME) as here, tiny_lease(attention=portable.NAME, slots=2) as elsewhere:
        cluster = NearCluster(Replica("a", here), Replica("b", elsewhere))
        with cluster_pool(cluster) as pool:
            lease, asked = pool.wait(PAIR.id), comparison(max_new_tokens=120, temperature=1.2)
            shown = 0
            run = Run(lease, asked)
            for snapshot in run.snapshots(lambda: 0.02):
                if not cluster.replicas[0].dead and (shown := len(snapshot.base.token_ids)) > 40:
                    cluster.replicas[0].dead = True
            result, wanted = run.result(), compare(here, asked)
        assert [result.side(side).margins for side in SIDES] == [wanted.side(side).margins for side in SIDES]
        assert pool.counts.resumed == 1 and not pool.counts.broken
        assert result.base.usage.decode_passes <= 120 - shown, "it was written again from its beginning"


def test_a_lens_survives_it_too(pool, cluster, here):
    lease, reply = pool.wait(PAIR.id), compare(here, comparison(max_new_tokens=100)).post.token_ids
    found = finish(here.read(comparison(), "post", reply))
    steps = lease.read(comparison(), "post", reply)
    next(steps)
    cluster.replicas[0].dead = True
    assert finish(steps) == found and pool.counts.lost == 1


def test_a_closed_stream_frees_the_slots_of_its_replica(pool, cluster, here):
    run = Run(pool.wait(PAIR.id), comparison(max_new_tokens=200))
    snapshots = run.snapshots(lambda: 0.01)
    while not next(snapshots).base.token_ids:
        pass
    snapshots.close()
    until = monotonic() + 10
    engines = [here.loaded[side].engine for side in SIDES]
    while (
        cluster.replicas[0].responder.under_way or any(engine._scheduler.active() for engine in engines)
    ) and monotonic() < until:
        sleep(0.02)
    assert not cluster.replicas[0].responder.under_way and not any(engine._scheduler.active() for engine in engines)


def test_another_replica_repeats_where_it_is_asked_elsewhere(pool, cluster, here):
    lease = pool.wait(PAIR.id)
    mine = compare(lease, comparison())
    assert same(finish(lease.elsewhere(comparison())), mine)
    assert len(cluster.replicas[1].asked) == 1


def test_a_finished_comparison_is_checked_on_another_replica(pool, cluster, monkeypatch):
    monkeypatch.setattr("core.cluster.lease.AUDITED", 1)
    compare(pool.wait(PAIR.id), comparison())
    until = monotonic() + 10
    while not pool.counts.audited and monotonic() < until:
        sleep(0.02)
    assert (pool.counts.audited, pool.counts.broken) == (1, 0)
    assert len(cluster.replicas[1].asked) == 1


def test_a_check_that_finds_another_reply_is_counted_and_logged(pool, cluster, caplog, monkeypatch):
    monkeypatch.setattr("core.cluster.lease.AUDITED", 1)
    lease = pool.wait(PAIR.id)
    with tiny_lease(post_seed=9) as other:
        liar = cluster.replicas[1] = Replica("b", other)
        wanted = lease.way.wanted  # and it says that it is what it is not
        monkeypatch.setattr(liar.responder, "_fingerprint", lambda lease: wanted)
        compare(lease, comparison())
        until = monotonic() + 10
        while not pool.counts.audited and monotonic() < until:
            sleep(0.02)
        assert (pool.counts.audited, pool.counts.broken) == (1, 1)
        assert "wrote other tokens" in caplog.text
        while liar.responder.under_way and monotonic() < until:
            sleep(0.02)


# --- fingerprints -----------------------------------------------------------------------------------------------


def test_the_same_models_have_the_same_fingerprint_in_other_engines_and_others_another(here, elsewhere):
    found = fingerprint(here)
    assert fingerprint(here) == fingerprint(elsewhere) == found
    with tiny_lease(slots=4) as other:
        assert fingerprint(other) != found, "slots decide the bits in fast arithmetic"


def test_a_replica_that_is_not_what_is_pinned_never_joins(here):
    with pytest.raises(Misfit, match="is pinned"):
        Responder(HeldPair(here), "a", {PAIR.id: "0" * 64}).load(PAIR.id)
    Responder(HeldPair(here), "a", {PAIR.id: fingerprint(here)}).load(PAIR.id)


def test_a_page_server_takes_nobody_but_whom_it_pins(cluster):
    with cluster_pool(cluster, pins=((PAIR.id, "0" * 64),)) as pool:
        with pytest.raises(UserError, match=r"0{16} is pinned here"):
            pool.wait(PAIR.id)
        assert pool.counts.foreign == 1 and not pool.ready


def test_a_replica_answers_nobody_who_asks_for_another_fingerprint(pool, cluster, here):
    lease = pool.wait(PAIR.id)
    with tiny_lease(post_seed=9) as other:
        cluster.replicas[0] = Replica("a", other)
        asked = comparison(max_new_tokens=20)
        assert same(compare(lease, asked), compare(here, asked))
    assert pool.counts.foreign == 1 and not pool.counts.broken


def test_who_answers_under_another_fingerprint_later_is_met_anew(pool, cluster):
    first = pool.wait(PAIR.id)
    first.way.patience = 0.2
    with tiny_lease(post_seed=9) as other:
        cluster.replicas[:] = [Replica("c", other)]
        with pytest.raises(UserError, match=r"no other one took over|busy"):
            compare(first, comparison())
        second = pool.wait(PAIR.id)
        assert second.way.wanted != first.way.wanted
        assert same(compare(second, comparison()), compare(other, comparison()))


# --- what else is asked -----------------------------------------------------------------------------------------


def test_nothing_runs_of_a_request_that_does_not_fit(pool, cluster):
    lease = pool.wait(PAIR.id)
    asked = len(cluster.replicas[0].asked)
    long = Request(token_ids=(5,) * 400, sampling=DEFAULT_SAMPLING, stop_ids=frozenset())
    unknown = REQUEST.model_copy(update={"token_ids": (10**6,)})
    for request in (long, unknown):
        with pytest.raises(UserError, match=r"context holds|vocabulary"):
            lease.write({"base": request}, lambda side, event: None)
    assert len(cluster.replicas[0].asked) == asked


def test_who_asks_for_a_pair_while_the_server_ends_gets_a_sentence(pool):
    pool.take_no_more()
    with pytest.raises(UserError, match="restarting"):
        pool.wait(PAIR.id)


def test_a_pair_that_no_replica_can_load_is_refused_in_its_own_sentence(cluster):
    class Refuses(HeldPair):
        def bring(self, pair, tokens=None):
            raise NotEnoughMemory("It does not fit beside the others.")
            yield

    for replica in cluster.replicas:
        replica.responder.pool = Refuses(None)
    with cluster_pool(cluster) as pool, pytest.raises(NotEnoughMemory, match="beside the others"):
        pool.wait(PAIR.id)


def test_the_comparison_itself_never_travels_to_write_a_reply(pool, cluster):
    """Only its token ids do."""
    asked = comparison(prompt="A word that is nowhere else")
    compare(pool.wait(PAIR.id), asked)
    assert "nowhere else" not in repr(cluster.replicas[0].asked)
    assert isinstance(asked, Comparison)


# --- on Ray -----------------------------------------------------------------------------------------------------


def test_the_page_asks_the_cluster_that_is_named_and_leaves_it_at_its_end(cluster, monkeypatch):
    connection = SimpleNamespace(connect=lambda settings: cluster)
    monkeypatch.setitem(sys.modules, "core.cluster.connection", connection)
    with serve._pool(Settings(cluster="auto")) as pool:
        assert isinstance(pool, ClusterPool) and not cluster.closed
    assert cluster.closed


def test_what_is_deployed_says_what_the_documentation_says():
    [application] = yaml.safe_load((ROOT / "deploy" / "cluster.yaml").read_text("utf-8"))["applications"]
    service = yaml.safe_load((ROOT / "deploy" / "rayservice.yaml").read_text("utf-8"))
    [deployed] = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    assert application["args"]["version"] == deployed["args"]["version"] == __version__
    assert application["args"]["settings"] == deployed["args"]["settings"]
    [pin] = (ROOT / "requirements-cluster.txt").read_text("utf-8").split()
    assert pin == f"ray[serve]=={service['spec']['rayClusterConfig']['rayVersion']}"
    assert set(application["args"]["settings"]) <= {field.name for field in dataclasses.fields(Settings)}


@pytest.mark.slow
def test_two_replicas_on_ray_are_killed_and_halted_and_every_reply_is_what_it_would_have_been():
    """In a process of its own, with which all that it starts ends."""
    command = [sys.executable, "-m", "benchmarks.cluster", "--tokens", "60", "--repetitions", "1"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert ended.returncode == 0, ended.stderr
    lost, stopped, counted = (table["rows"] for table in json.loads(ended.stdout.splitlines()[-1])["tables"])
    assert [(row["replica"], row["identical"]) for row in lost] == [("killed", "1 of 1"), ("halted", "1 of 1")]
    assert stopped[0]["longest (s)"] >= 0
    assert (counted[0]["lost"], counted[0]["resumed"], counted[0]["broken"], counted[0]["foreign"]) == (2, 2, 0, 0)
