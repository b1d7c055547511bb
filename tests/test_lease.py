"""What every lease holds, wherever its models are: the same from all of them, bit for bit."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from queue import SimpleQueue
from typing import NamedTuple

import pytest

from core.errors import UserError
from core.lease import Lease
from core.local import LocalLease
from core.run import Run, compare
from core.steps import finish
from core.types import SIDES, Dial, DrawDivergence, Event, Failure, Finish, Request, Side, Started, Token, WrittenBy
from tests import tiny
from tests.engines import bits, tokens
from tests.pairs import comparison, tiny_lease
from tests.replicas import NearCluster, Replica, remote_lease
from tests.test_lent import lent_lease


class Kind(NamedTuple):
    """A kind of lease: how one on the tiny pair is made, given one of this process, and whether its weights can be looked into."""

    make: Callable[[LocalLease], AbstractContextManager[Lease]]
    opens: bool


@contextmanager
def lent(here: LocalLease) -> Iterator[Lease]:
    with lent_lease(here) as (lease, _):
        yield lease


@contextmanager
def remote(here: LocalLease) -> Iterator[Lease]:
    with tiny_lease() as there:
        yield remote_lease(NearCluster(Replica("a", there)))


KINDS = {
    "of this process": Kind(lambda here: tiny_lease(), True),
    "lent": Kind(lent, False),
    "in a replica": Kind(remote, True),
}


@pytest.fixture(scope="module")
def here() -> Iterator[LocalLease]:
    """What the others are held against."""
    with tiny_lease() as lease:
        yield lease


@pytest.fixture(scope="module", params=KINDS)
def kind(request) -> Kind:
    return KINDS[request.param]


@pytest.fixture(scope="module")
def lease(kind, here) -> Iterator[Lease]:
    with kind.make(here) as lease:
        yield lease


def asked(lease: Lease, side: Side, **changes) -> Request:
    made = comparison(temperature=0.9)
    request = Request(
        token_ids=lease.prompt(made, side).token_ids, sampling=made.sampling, stop_ids=lease.stop_ids(side)
    )
    return request.model_copy(update=changes)


def written(lease: Lease, *sides: Side, dial: Dial | None = None, **changes) -> dict[Side, list[Event]]:
    """All events of each side's reply."""
    heard: SimpleQueue[tuple[Side, Event]] = SimpleQueue()
    lease.write({side: asked(lease, side, **changes) for side in sides}, lambda *told: heard.put(told), dial)
    events: dict[Side, list[Event]] = {side: [] for side in sides}
    while not all(each and isinstance(each[-1], Finish | Failure) for each in events.values()):
        side, event = heard.get(timeout=60)
        events[side].append(event)
    return events


# --- what is known -----------------------------------------------------------------------------------------


def test_the_cards_say_what_the_models_are(lease, here):
    for side in SIDES:
        card, model = lease.side(side), here.loaded[side]
        assert (card.info, card.weights_sha256, card.stop_ids) == (model.info, model.weights_sha256, model.stop_ids)
        assert (card.engine, card.context, card.vocabulary) == (model.engine.info(), tiny.CONTEXT, tiny.VOCABULARY)
        assert card.tokenizer.get_vocab() == model.tokenizer.get_vocab()
        assert lease.stop_ids(side) == here.stop_ids(side)
    assert (lease.base, lease.post, lease.kin) == (lease.side("base"), lease.side("post"), here.kin)


def test_a_lease_is_released_with_its_block_and_as_often_as_one_likes(kind, here):
    with kind.make(here) as lease, lease as entered:
        assert entered is lease and compare(lease, comparison(max_new_tokens=2)).base.token_ids
    lease.release()


# --- what is written ---------------------------------------------------------------------------------------


def test_both_sides_of_one_call_are_written_as_each_alone(lease, here):
    both = written(lease, *SIDES)
    for side in SIDES:
        assert bits(both[side]) == bits(written(lease, side)[side]) == bits(written(here, side)[side]) != []
        assert isinstance(both[side][-1], Finish)
        kinds = [type(event) for event in both[side]]
        assert kinds.index(Started) < kinds.index(Token) and WrittenBy not in kinds


def test_where_one_request_does_not_fit_nothing_runs(lease):
    heard: list = []
    long = asked(lease, "post", token_ids=(1,) * tiny.CONTEXT)
    with pytest.raises(UserError, match="context holds"):
        lease.write({"base": asked(lease, "base"), "post": long}, lambda *told: heard.append(told))
    with pytest.raises(UserError, match="not in this model's vocabulary"):
        lease.write({"base": asked(lease, "base", token_ids=(tiny.VOCABULARY,))}, lambda *told: heard.append(told))
    assert bits(written(lease, "base")["base"]), "every slot is free"
    assert not [event for _, event in heard if isinstance(event, Finish) and event.reason != "stopped"]


@pytest.mark.parametrize("sides", [("base",), ()], ids=["one side", "both"])
def test_who_is_stopped_keeps_what_is_written_and_the_other_goes_on(lease, sides):
    run = Run(lease, comparison(max_new_tokens=150, temperature=2.0))
    for snapshot in run.snapshots(lambda: 0.01):
        if snapshot.base.token_ids and snapshot.post.token_ids:
            run.stop(*sides)
    reasons = {side: run.result().side(side).finish_reason for side in SIDES}
    assert run.result().base.token_ids and "stopped" in (reasons["base"], reasons["post"])
    assert not sides or reasons["post"] != "stopped"


def test_what_is_expected_is_looked_at_and_changes_nothing(lease):
    plain = written(lease, "post")["post"]
    ids = tokens(plain)
    assert bits(written(lease, "post", expected=tuple(ids))["post"]) == bits(plain)
    other = (*ids[:4], (ids[4] + 1) % tiny.VOCABULARY, *ids[5:])
    told = written(lease, "post", expected=other)["post"]
    assert bits(told) == bits(plain)
    [divergence] = [event for event in told if isinstance(event, DrawDivergence)]
    assert (divergence.step, divergence.drawn, divergence.expected) == (4, ids[4], other[4])


def test_what_is_expected_can_be_read_and_what_it_is_not_is_written_behind_it(lease):
    ids = tokens(written(lease, "post")["post"])
    read = written(lease, "post", expected=tuple(ids), reading="only")["post"]
    assert tokens(read) == ids and read[-1].usage.decode_passes == 0
    other = (*ids[:4], (ids[4] + 1) % tiny.VOCABULARY)
    stopped, went_on = (written(lease, "post", expected=other, reading=how)["post"] for how in ("only", "on"))
    assert (tokens(stopped), stopped[-1].reason) == (ids[:5], "stopped")
    assert tokens(went_on) == ids


def test_the_dial_between_logits_is_the_same_everywhere(lease, here):
    dial = Dial(amount=0.5)
    turned, plain = written(lease, *SIDES, dial=dial), written(lease, *SIDES)
    assert bits(turned["post"]) == bits(written(here, "post", dial=dial)["post"]) != bits(plain["post"])
    assert bits(turned["base"]) == bits(plain["base"]), "it is the post-trained side that is turned"


def test_another_engine_that_writes_is_told_before_its_first_token(lease, here, kind):
    events = written(lease, "post", dial=Dial(amount=0.5, space="weights"))["post"]
    if not kind.opens:
        assert isinstance(events[-1], Failure) and "looks into the weights" in events[-1].message
        return
    kinds = [type(event) for event in events]
    assert kinds.index(WrittenBy) < kinds.index(Token)
    assert events[kinds.index(WrittenBy)].engine != lease.post.engine
    assert bits(events) == bits(written(here, "post", dial=Dial(amount=0.5, space="weights"))["post"])


# --- what is read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", ["identical", "own"])
def test_a_lens_is_the_same_everywhere(lease, here, context):
    ids = tokens(written(here, "post")["post"])
    read = [finish(each.read(comparison(), "post", ids, context)) for each in (lease, here)]
    assert read[0] == read[1] and [shift.id for shift in read[0].shifts] == ids


def test_a_lens_that_is_closed_frees_both_models(lease):
    for steps in (1, 3):
        reading = lease.read(comparison(), "post", [5, 6, 7] * 50)
        for _ in range(steps):
            next(reading)
        reading.close()
    assert len(finish(lease.read(comparison(), "post", [5, 6, 7])).shifts) == 3


def test_scores_are_the_same_everywhere(lease, here):
    prompt, several = list(range(5, 40)), [(5, 6, 7), (5, 6), (8,)]
    for side in SIDES:
        assert lease.logprobs(side, prompt, [7, 9, 2]) == here.logprobs(side, prompt, [7, 9, 2])
        assert lease.alternatives(side, prompt, several) == here.alternatives(side, prompt, several)
        mine, theirs = (list(each.likeliest(side, prompt, 1, 3, lambda: None)) for each in (lease, here))
        assert mine == theirs and len(mine) == len(prompt) - 1
    with pytest.raises(UserError, match="nothing to score"):
        lease.logprobs("base", [1], [])


def test_entropies_are_the_same_everywhere_and_of_the_weights_that_wrote(lease, here):
    made = comparison(temperature=0.9)
    result = compare(here, made)
    assert lease.entropies(made, "post", result.post) == here.entropies(made, "post", result.post)
    with pytest.raises(UserError, match="with other weights on the base side"):
        lease.entropies(made, "base", result.post)


# --- what is looked at -------------------------------------------------------------------------------------


def test_an_audit_looks_into_the_memory_where_that_can_be_reached(lease, kind, here):
    for side in SIDES:
        audit = lease.audit(side)
        looks = (audit.weights_sha256, audit.gradients, audit.bytes_per_pass, audit.bandwidth)
        if not kind.opens:
            for look in looks:
                with pytest.raises(UserError, match="looks into the weights"):
                    look()
            continue
        digest, gradients, read, bandwidth = (look() for look in looks)
        assert (digest, gradients) == (lease.side(side).weights_sha256, 0)
        assert 0 < read <= sum(each.nbytes for each in here.loaded[side].model.parameters()) and bandwidth > 0
