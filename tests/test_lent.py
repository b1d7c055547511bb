"""Engines that are asked through a connection: what comes back is what they say themselves."""

from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Client
from queue import SimpleQueue
from threading import Thread
from types import SimpleNamespace

import pytest

from core.engine import lent
from core.errors import UserError
from core.local import LocalLease
from core.run import Run, compare
from core.steps import finish
from core.types import SIDES, Dial, Failure
from tests import tiny
from tests.pairs import PAIR, comparison, nowhere, tiny_lease


@pytest.fixture(scope="module")
def here():
    with tiny_lease() as lease:
        yield lease


@contextmanager
def lent_lease(here: LocalLease):
    """The same pair, its engines asked through a connection; and the loan."""
    loan = lent.Loan()
    serving = Thread(target=serve, args=(here, loan))
    serving.start()
    try:
        assert loan.settled.wait(60)
        loaded = {side: through(here.loaded[side], loan, which) for which, side in enumerate(SIDES)}
        yield LocalLease(PAIR, loaded, loan.leave, nowhere), loan
    finally:
        loan.leave()
        serving.join(60)
        assert not serving.is_alive()


def serve(here: LocalLease, loan: lent.Loan) -> None:
    for batch in lent.serve((here.loaded["base"].engine, here.loaded["post"].engine), Client(loan.address)):
        loan.take(batch)
        if loan.left:
            break
    loan.end()


def through(checkpoint, loan: lent.Loan, which: int):
    model = SimpleNamespace(to=lambda device: checkpoint.model)
    engine = lent.Lent(model, tiny.VOCABULARY, checkpoint.engine.shape, "eager").by(loan, which)
    return replace(checkpoint, engine=engine, model=lent.Elsewhere())


@pytest.mark.parametrize("dial", [None, Dial(space="logits", amount=0.5)])
def test_a_result_is_that_of_the_engines_themselves(here, dial):
    asked = comparison(temperature=1.0, dial=dial)
    with lent_lease(here) as (lease, _):
        there = compare(lease, asked)
    at_home = compare(here, asked)
    for side in SIDES:
        one, other = there.side(side), at_home.side(side)
        assert (one.token_ids, one.logprobs, one.margins) == (other.token_ids, other.logprobs, other.margins)
        assert one.engine == other.engine and one.finish_reason == other.finish_reason


def test_a_lens_is_that_of_the_engines_themselves(here):
    ids = compare(here, comparison()).post.token_ids
    with lent_lease(here) as (lease, _):
        there = finish(lease.read(comparison(), "post", ids))
    assert there == finish(here.read(comparison(), "post", ids))


def test_a_reply_that_is_stopped_keeps_what_it_has(here):
    with lent_lease(here) as (lease, _):
        run = Run(lease, comparison(max_new_tokens=200, temperature=2.0))
        for snapshot in run.snapshots(lambda: 0.01):
            if snapshot.base.token_ids:
                run.stop()
        assert run.result().base.finish_reason == "stopped"


def test_there_is_a_batch_now_and_then_also_while_nothing_is_said(here):
    loan = lent.Loan()
    batches = lent.serve((here.loaded["base"].engine, here.loaded["post"].engine), Client(loan.address))
    assert next(batches) == (here.loaded["base"].engine.info(), here.loaded["post"].engine.info())
    assert [next(batches) for _ in range(3)] == [[], [], []]
    batches.close()
    loan.end()


def test_whoever_has_gone_is_served_no_more(here):
    loan = lent.Loan()
    batches = lent.serve((here.loaded["base"].engine, here.loaded["post"].engine), Client(loan.address))
    loan.take(next(batches))
    loan.end()  # as when its process has ended
    assert all(batch == [] for batch in batches)


def test_what_an_engine_refuses_is_told_to_whoever_asked(here):
    with lent_lease(here) as (lease, _):
        heard: SimpleQueue = SimpleQueue()
        lease.loaded["base"].engine.score((1,) * (tiny.CONTEXT + 1), 1, heard.put)
        said = heard.get(timeout=60)
        assert isinstance(said, Failure) and "look at an earlier turn" in said.message


def test_after_its_end_a_loan_is_refused_with_the_first_sentence(here):
    with lent_lease(here) as (lease, loan):
        loan.end("The GPU is wanted elsewhere.")
        with pytest.raises(UserError, match="wanted elsewhere"):
            compare(lease, comparison())
    with pytest.raises(UserError, match="wanted elsewhere"):
        compare(lease, comparison())


def test_the_weights_are_not_to_be_had(here):
    with lent_lease(here) as (lease, _):
        for look in (lambda: lease.loaded["base"].model.state_dict, lambda: lease.loaded["base"].engine.device):
            with pytest.raises(UserError, match="looks into the weights"):
                look()
        assert not hasattr(lease.loaded["base"].model, "_anything") and not hasattr(
            lease.loaded["base"].engine, "_anything"
        )
