"""A Space on ZeroGPU: a GPU for one request at a time, in a process forked for it (tests/zero_gpu.py stands in for it)."""

import argparse
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from gradio.context import LocalContext
from gradio_client import Client

from core import experiments, receipts, zerogpu
from core.checkpoints import loading
from core.cli import serve
from core.engine import Engine
from core.engine.device import Placement
from core.errors import UserError
from core.hub import HuggingFaceHub
from core.pairs import own_pair
from core.pool import Pool
from core.replay import replay
from core.run import Run, compare
from core.settings import Settings
from core.steps import Stop, finish
from core.types import SIDES, Dial, EngineInfo
from core.ui.compare import session
from core.ui.sidebar import Choices
from core.zerogpu import LentPool
from tests import tiny
from tests.pairs import comparison
from tests.ports import free_port
from tests.zero_gpu import OutOfReach, ZeroGpu

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
ROOT = Path(__file__).parents[1]
VISITOR = SimpleNamespace(headers={"x-ip-token": "a visitor"})


def settings(folder, **changes) -> Settings:
    base, post = folder / "tiny-base", folder / "tiny-chat"
    return Settings(base=str(base), post=str(post), threads=1, context=tiny.CONTEXT, slots=2, **changes)


@contextmanager
def space(folder, gpu: ZeroGpu):
    gpu.emulate()
    try:
        with LentPool(settings(folder, zero_gpu=True), HuggingFaceHub(), gpu.GPU) as pool:
            pool.start_loading(pool.default.id)
            yield pool
    finally:
        gpu.restore()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    tiny.save_pair(folder)
    return folder


@pytest.fixture(scope="module")
def _space(folder):
    gpu = ZeroGpu(served=True)
    with space(folder, gpu) as pool:
        yield gpu, pool


@pytest.fixture
def gpu(_space) -> ZeroGpu:
    gpu, _ = _space
    gpu.granted.clear()
    gpu.left = 120
    return gpu


@pytest.fixture
def pool(gpu, _space) -> LentPool:
    return _space[1]


@pytest.fixture(scope="module")
def at_home(folder):
    """The same weights and settings on the processor."""
    with Pool(settings(folder, dtype="bfloat16", device="cpu"), HuggingFaceHub()) as pool:
        yield pool


def asked(pool: Pool, prompt: str = "The quick brown fox", **changes):
    return comparison(prompt, pair=pool.default.id, **changes)


def tokens(result) -> list:
    return [(result.side(side).token_ids, result.side(side).finish_reason) for side in SIDES]


def test_the_weights_are_out_of_reach_but_in_a_granted_call(pool):
    checkpoint = pool._entries[pool._keys(pool.default)[0]].loading.result()
    parameter = next(iter(checkpoint.engine.start.args[0].parameters()))
    with pytest.raises(OutOfReach):
        parameter.sum()
    with ThreadPoolExecutor(1) as threads, pytest.raises(AssertionError, match="not compiled with CUDA"):
        threads.submit(torch.ones(1).to, "cuda").result()


def test_a_comparison_is_one_granted_call_of_whoever_asks(gpu, pool, at_home):
    LocalContext.request.set(VISITOR)
    try:
        with finish(pool.open(pool.default.id, tokens=200)) as lease:
            there = compare(lease, asked(pool))
    finally:
        LocalContext.request.set(None)
    assert gpu.granted == [("a visitor", zerogpu.time_for(200))]
    with at_home.wait(at_home.default.id) as lease:
        here = compare(lease, asked(at_home))
    assert tokens(there) == tokens(here)
    for side in SIDES:
        assert there.side(side).weights_sha256 == here.side(side).weights_sha256
        assert there.side(side).logprobs == pytest.approx(here.side(side).logprobs, abs=0.05)


def test_the_receipt_has_the_fingerprint_of_the_engine_that_was_lent(gpu, pool):
    with pool.wait(pool.default.id) as lease:
        result = compare(lease, asked(pool))
    for side in SIDES:
        info = result.side(side).engine
        assert isinstance(info, EngineInfo) and info.certified and info.certification
        assert info.device.startswith("cpu") and info.slots == 2 and info.lane_sizes == (tiny.CONTEXT,)
    verdict = finish(replay(pool, receipts.answer(result).receipt))
    assert verdict.outcome == "identical", verdict
    assert gpu.granted[-1][1] == zerogpu.time_for(40)


def test_one_process_serves_one_call_after_the_other_and_two_serve_two_at_once(gpu, pool):
    def pids() -> set:
        return {worker.process.pid for worker in gpu.workers}

    with pool.wait(pool.default.id) as lease:
        compare(lease, asked(pool))
    _until_idle()
    before = pids()
    with pool.wait(pool.default.id) as lease:
        again = compare(lease, asked(pool))
        assert pids() == before
        with pool.wait(pool.default.id) as other:
            assert len(pids()) == len(before) + 1
            assert tokens(compare(other, asked(pool))) == tokens(again)


def _until_idle() -> None:
    for thread in threading.enumerate():
        if thread.name == "loan":
            thread.join(60)


def test_stop_arrives_and_what_was_written_stands(pool):
    with pool.wait(pool.default.id) as lease:
        run = Run(lease, asked(pool, max_new_tokens=200, temperature=2.0))
        for snapshot in run.snapshots(lambda: 0.01):
            if len(snapshot.base.token_ids) >= 3:
                run.stop()
        result = run.result()
    assert {result.side(side).finish_reason for side in SIDES} <= {"stopped", "eos", "length"}
    assert result.base.finish_reason == "stopped" and 3 <= len(result.base.token_ids) < 200
    assert result.base.usage.output_tokens == len(result.base.token_ids)


def test_whoever_leaves_ends_the_call(gpu, pool):
    with pool.wait(pool.default.id) as lease:
        run = Run(lease, asked(pool, max_new_tokens=200, temperature=2.0))
        next(snapshots := run.snapshots())
        snapshots.close()
    _until_idle()
    assert not [thread for thread in threading.enumerate() if thread.name == "loan"]
    gpu.free.clear()
    opening = pool.open(pool.default.id)
    assert next(opening) == zerogpu.FOR_A_GPU
    opening.close()
    gpu.free.set()
    _until_idle()
    with pool.wait(pool.default.id) as lease:
        assert compare(lease, asked(pool)).base.token_ids


def test_a_quota_that_is_used_up_is_a_sentence_and_the_prompt_is_in_its_box_again(gpu, pool):
    gpu.left = 5
    choices = Choices(
        pair=pool.default.id, system="", sampling=asked(pool).sampling, framing_base="document", framing_post="chat"
    )
    *_, view = session.compare(pool, (), "Hello", choices, stop=Stop())
    assert view.tone == "error" and view.box == "Hello" and view.chat == ()
    assert view.notice.startswith("ZeroGPU quota exceeded: You have exceeded your ZeroGPU quota (11s requested")
    gpu.left = 120
    *_, view = session.compare(pool, (), "Hello", choices, stop=Stop())
    assert view.tone == "info" and len(view.chat) == 1


def test_a_gpu_that_is_taken_back_fails_the_replies_in_a_sentence(gpu, pool):
    with pool.wait(pool.default.id) as lease:
        run = Run(lease, asked(pool, max_new_tokens=200, temperature=2.0))
        for snapshot in run.snapshots(lambda: 0.01):
            if snapshot.base.token_ids:
                for worker in gpu.workers:
                    worker.process.kill()
        with pytest.raises(UserError, match="taken back before this was finished"):
            run.result()
        with pytest.raises(UserError, match="taken back"):
            Run(lease, asked(pool))
    with pool.wait(pool.default.id) as lease:
        assert compare(lease, asked(pool)).base.token_ids


def test_lens_and_dial_pass_through_the_same_door(gpu, pool, at_home):
    def read(where: Pool):
        with where.wait(where.default.id) as lease:
            ids = compare(lease, asked(where)).post.token_ids
            mixed = compare(lease, asked(where, dial=Dial(space="logits", amount=0.5)))
            return finish(lease.read(asked(where), "post", ids)), tokens(mixed)

    (there, mixed), (here, mixed_here) = read(pool), read(at_home)
    assert len(gpu.granted) == 1
    assert mixed == mixed_here
    assert [shift.id for shift in there.shifts] == [shift.id for shift in here.shifts]
    for one, other in zip(there.shifts, here.shifts, strict=True):
        assert one.logprob_base == pytest.approx(other.logprob_base, abs=0.05)


def test_what_looks_into_the_weights_is_refused_in_a_sentence(pool):
    with pool.wait(pool.default.id) as lease:
        for name in ("weights", "correction", "ledger"):
            steps = experiments.perform(experiments.find(name), lease)
            with pytest.raises(UserError, match="on a rented one"):
                finish(steps)
        with pytest.raises(UserError, match="on a rented one"):
            finish(lease.elsewhere(asked(pool)))
        with pytest.raises(UserError, match="on a rented one"):
            compare(lease, asked(pool, dial=Dial(space="weights", amount=0.5)))
    with pytest.raises(UserError, match="A study takes more"):
        finish(pool.open(pool.default.id, gives_way=True))
    with pytest.raises(UserError, match="serves one pair"):
        finish(pool.bring(own_pair(pool.default.post, pool.default.base)))


def test_what_is_not_granted_reads_no_reply(pool):
    lease = pool.peek(pool.default.id)
    with lease, pytest.raises(UserError, match="No GPU is lent for this"):
        compare(lease, asked(pool))


def test_engines_that_have_ended_there_are_started_again(gpu, pool):
    _until_idle()
    for worker in gpu.workers:
        worker.process.kill()
        worker.process.join()
    ended = (SimpleNamespace(closed=False), SimpleNamespace(closed=True))
    with mock.patch.object(pool, "_engines", ended), pool.wait(pool.default.id) as lease:
        assert compare(lease, asked(pool)).base.token_ids


def test_engines_that_cannot_start_there_say_why(gpu, pool):
    for failure, said in (
        (UserError("These weights need more."), "^These weights need more.$"),
        (ValueError("with somebody's words"), "^The GPU was taken back before"),
    ):
        _until_idle()
        for worker in gpu.workers:
            worker.process.kill()
            worker.process.join()
        with mock.patch.object(LentPool, "_started", side_effect=failure), pytest.raises(UserError, match=said):
            pool.wait(pool.default.id)


@pytest.mark.slow
def test_the_app_as_a_space_starts_it(folder):
    """`python app.py` where there is a package `spaces`: the page is launched, and a comparison is granted a GPU."""
    port = free_port()
    here = {name: value for name, value in os.environ.items() if not name.startswith("SAME_SEED")}
    found = os.pathsep.join([str(ROOT / "tests" / "zero_gpu_package"), str(ROOT)])
    flags = [f"--base={folder / 'tiny-base'}", f"--post={folder / 'tiny-chat'}", "--threads=1", "--context=256"]
    server = subprocess.Popen(
        [sys.executable, "app.py", f"--port={port}", *flags],
        cwd=ROOT,
        env={**here, "PYTHONPATH": found, "SPACES_ZERO_GPU": "true"},
    )
    try:
        while not _answers(port):
            assert server.poll() is None
            time.sleep(0.2)
        client = Client(f"http://127.0.0.1:{port}", verbose=False)
        pair = client.predict(api_name="/pairs")[0]["id"]
        asked = comparison(pair=pair, max_new_tokens=8)
        answer = client.predict(asked.model_dump(mode="json"), api_name="/compare")
        assert answer["receipt"]["base"]["engine"]["slots"] == zerogpu.SLOTS
        assert answer["receipt"]["base"]["token_ids"]
    finally:
        server.terminate()
        assert server.wait(60) == 143


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_longer_reply_asks_for_more_of_a_quota_and_nothing_for_too_much():
    assert zerogpu.time_for(40) < zerogpu.time_for(400) < zerogpu.time_for(32_768) == zerogpu.MOST_SECONDS
    assert zerogpu.time_for(200) < zerogpu.time_for(None) < zerogpu.MOST_SECONDS


def test_elsewhere_nothing_of_it_is_there():
    here = Settings.read(argparse.Namespace(), {"SPACES_ZERO_GPU": "0"})
    assert not here.zero_gpu and Settings.read(argparse.Namespace(), {"SPACES_ZERO_GPU": "True"}).zero_gpu
    with serve._pool(here) as pool:
        assert type(pool) is Pool
    assert "spaces" not in sys.modules
    assert loading._engine(Placement(torch.device("cuda", 0), torch.bfloat16)) is Engine
