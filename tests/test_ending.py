"""How the server ends: nothing new begins, what is under way ends by itself or with what it has, and nobody's work is lost."""

import threading
import time
from types import SimpleNamespace

import pytest

from core import cli
from core.engine.lane import Lane
from core.errors import UserError
from core.hub import HuggingFaceHub
from core.pool import RESTARTING, Pool
from core.settings import Settings
from core.types import SIDES
from core.ui import page
from tests import browser as chromium
from tests import tiny
from tests.pairs import comparison
from tests.test_api_closing import client


@pytest.fixture
def pool(tmp_path, monkeypatch) -> Pool:
    """A pair that writes twenty tokens in a second."""
    write = Lane.write

    def slowly(lane, *given):
        time.sleep(0.05)
        return write(lane, *given)

    base, post = tiny.save_pair(tmp_path)
    flags = ["compare", "--prompt", "x", "--base", str(base), "--post", str(post), "--device", "cpu", "--slots", "3"]
    pool = Pool(Settings.read(cli.parse(flags), {}), HuggingFaceHub())
    pool.wait(pool.default.id).release()
    monkeypatch.setattr(Lane, "write", slowly)
    return pool


def until(what) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_replies_end_within_the_grace_time_or_keep_what_they_have_and_newcomers_are_told(pool):
    demo, url = chromium.launch(pool)
    ending = threading.Thread(target=page.end, args=(demo, pool, 2.5))
    with client(url) as someone:

        def ask(tokens: int):
            asked = comparison(pair=pool.default.id, max_new_tokens=tokens, temperature=1.0, seed=tokens)
            return someone.submit(asked.model_dump(mode="json"), api_name="/compare")

        short, long = ask(20), ask(4000)
        lease = pool.peek(pool.default.id)
        until(lambda: sum(len(job.written) > 3 for job in lease.loaded["post"].engine._scheduler.active()) == 2)
        lease.release()
        ending.start()
        until(lambda: pool._ending)
        assert RESTARTING in str(ask(5).exception(60))
        assert short.result(60)["base"]["finish_reason"] in ("length", "eos")
        stopped = long.result(60)
    ending.join(60)
    reply = next(stopped[side] for side in SIDES if stopped[side]["finish_reason"] == "stopped")
    assert 20 < len(reply["token_ids"]) < 4000 and stopped["receipt"]
    assert not demo.is_running


def test_a_pool_that_ends_gives_no_lease_and_those_who_wait_for_one_are_told(tmp_path, monkeypatch):
    base, post = tiny.save_pair(tmp_path)
    pool = Pool(Settings(base=str(base), post=str(post), device="cpu"), HuggingFaceHub())
    loading = threading.Event()
    monkeypatch.setattr(pool, "_load", lambda entry: loading.wait(60) and SimpleNamespace(close=lambda: None))
    waiting = pool.open(pool.default.id)
    next(waiting)
    pool.take_no_more()
    for refused in (waiting, pool.open(pool.default.id)):
        with pytest.raises(UserError, match="restarting"):
            next(refused)
    loading.set()
    pool.close()
