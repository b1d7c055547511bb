"""Replays: a receipt runs again to the same bits, in another process and under load, and a forged one does not."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import app
from core import pairs, receipts, replay, wording
from core import verdict as judging_of_replays
from core.checkpoints import sources
from core.engine import sampling
from core.hub import HuggingFaceHub, Repository
from core.pool import Pool, Progress
from core.prompts import digest
from core.run import Run, compare
from core.settings import Settings
from core.steps import finish
from core.types import (
    DEFAULT_SAMPLING,
    SIDES,
    Comparison,
    Conversation,
    Dial,
    DrawDivergence,
    Receipt,
    Sampling,
    Side,
    Turn,
)
from tests import tiny
from tests.engines import VOCABULARY, answer, naive_reply, random_model, request, running, tokens

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    tiny.save_pair(folder)
    return folder


def settings_for(folder: Path, **changes) -> Settings:
    return Settings(base=str(folder / "tiny-base"), post=str(folder / "tiny-chat"), **{"threads": 1, **changes})


@pytest.fixture(scope="module")
def pool(folder):
    pool = Pool(settings_for(folder), HuggingFaceHub())
    yield pool
    pool.close()


def asked(pool, prompt="What is a language model?", turns=(), more=None, **changes) -> Comparison:
    settings = Sampling.model_validate(
        {**DEFAULT_SAMPLING.model_dump(), "max_new_tokens": 30, "temperature": 1.0, **changes}
    )
    return Comparison(
        pair=pool.default.id,
        conversation=Conversation(turns=turns),
        prompt=prompt,
        sampling=settings,
        today="2026-01-02",
        **(more or {}),
    )


def run(pool, comparison) -> Receipt:
    lease = pool.wait(comparison.pair)
    try:
        return receipts.answer(compare(lease, comparison)).receipt
    finally:
        lease.release()


@pytest.fixture(scope="module")
def original(pool) -> Receipt:
    return run(pool, asked(pool, turns=(Turn(prompt="Hello", base=" there", post="Hello!"),)))


def resealed(receipt: Receipt, side: Side = "base", **changes) -> Receipt:
    """What somebody gets who changes a receipt and makes all digests anew."""
    sides = {name: receipt.side(name) for name in SIDES}
    changed = sides[side].model_copy(update=changes)
    if "token_ids" in changes:
        changed = changed.model_copy(update={"output_sha256": digest(changed.token_ids)})
    forged = receipts.make(receipt.comparison, **{**sides, side: changed})
    return receipts.within(json.loads(receipts.write(forged)))


def verdict_of(pool, receipt, **options):
    return finish(replay.replay(pool, receipt, **options))


# --- identical ----------------------------------------------------------------------------------------


def test_a_receipt_replays_to_the_last_bit_and_says_how_far_it_is(pool, original):
    told: list[Progress] = []
    verdict = finish(replay.replay(pool, original), told.append)
    assert verdict.outcome == "identical"
    assert (verdict.base.drift, verdict.post.drift, verdict.warnings) == (0, 0, ())
    assert verdict.base.tokens == len(original.base.token_ids)
    assert told[-1].fraction == 1
    assert wording.headline(verdict) == "Identical, bit for bit."


def test_a_reply_that_was_stopped_replays_as_far_as_it_went(pool):
    comparison = asked(pool, max_new_tokens=150)
    lease = pool.wait(comparison.pair)
    going = Run(lease, comparison)
    for snapshot in going.snapshots(lambda: 0.001):
        if min(len(snapshot.reply(side).token_ids) for side in SIDES) >= 3:
            going.stop()
    receipt = receipts.answer(going.result()).receipt
    lease.release()
    assert "stopped" in (receipt.base.finish_reason, receipt.post.finish_reason)
    assert verdict_of(pool, receipt).outcome == "identical"


def test_a_replay_that_is_closed_stops_both_sides(pool, original):
    replaying = replay.replay(pool, run(pool, asked(pool, max_new_tokens=150)))
    next(replaying)  # under way; a tiny model may have ended by the next report
    replaying.close()
    lease = pool.peek(pool.default.id)
    assert verdict_of(pool, original).outcome == "identical", "the slots are free again"
    lease.release()


@pytest.mark.parametrize("more", [{"dial": Dial(amount=0.5)}, {"prefill_base": (40, 41), "prefill_post": (42,)}])
def test_dialled_and_prefilled_replies_replay_and_are_checked_token_by_token(pool, more):
    receipt = run(pool, asked(pool, more=more))
    assert verdict_of(pool, receipt).outcome == "identical"
    ids = receipt.post.token_ids
    divergence = verdict_of(
        pool, resealed(receipt, "post", token_ids=(*ids[:3], (ids[3] + 1) % 300, *ids[4:]))
    ).post.divergence
    assert (divergence.step, divergence.replayed.id, divergence.replayed_margin > 0) == (3, ids[3], True)


ELSEWHERE = """
import sys, threading
from pathlib import Path
from tests.test_replay import asked, run, settings_for
from core import receipts, replay
from core.hub import HuggingFaceHub, Repository
from core.pool import Pool
from core.prompts import digest
from core.steps import finish

folder, name, partner = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
pool = Pool(settings_for(folder), HuggingFaceHub())
stop = threading.Event()

def converse(number):
    turn = 0
    while not stop.is_set():
        run(pool, asked(pool, f"{name} {number} {turn} " * (1 + number), seed=turn, temperature=0.3 * number, max_new_tokens=10 + 7 * number))
        turn += 1

crowd = [threading.Thread(target=converse, args=(number,)) for number in range(6)]
for each in crowd:
    each.start()
receipt = run(pool, asked(pool, f"I am {name}.", seed=ord(name), max_new_tokens=60))
(folder / f"{name}.part").write_text(receipts.write(receipt))
(folder / f"{name}.part").rename(folder / f"{name}.json")
while not (folder / f"{partner}.json").exists():
    stop.wait(0.05)
verdict = finish(replay.replay(pool, receipts.read((folder / f"{partner}.json").read_bytes())))
stop.set()
for each in crowd:
    each.join()
print(verdict.outcome, verdict.base.drift, verdict.post.drift)
pool.close()
"""


@pytest.mark.slow
def test_two_processes_under_load_replay_each_others_receipts(folder):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ELSEWHERE, str(folder), name, partner],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )
        for name, partner in (("A", "B"), ("B", "A"))
    ]  # fmt: skip
    for process in processes:
        said, _ = process.communicate(timeout=300)
        assert said.split() == ["identical", "0.0", "0.0"]
    pool = Pool(settings_for(folder), HuggingFaceHub())
    try:
        for name in "AB":
            assert verdict_of(pool, receipts.read((folder / f"{name}.json").read_bytes())).outcome == "identical"
    finally:
        pool.close()


# --- diverged -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
def test_a_forged_token_is_found_at_its_step_with_both_logits_and_margins(pool, original, side):
    ids = original.side(side).token_ids
    other = (ids[4] + 1) % 300
    forged = resealed(original, side, token_ids=(*ids[:4], other, *ids[5:]))
    verdict = verdict_of(pool, forged)
    assert verdict.outcome == "diverged"
    divergence = verdict.side(side).divergence
    assert (divergence.step, divergence.recorded.id, divergence.replayed.id) == (4, other, ids[4])
    assert divergence.recorded.logit is not None
    assert divergence.replayed.logit is not None
    assert divergence.recorded_margin == original.side(side).margins[4]
    assert divergence.replayed_margin > 0
    assert divergence.within_drift is False, "the fingerprint is the same, so nothing may move"
    assert verdict.side("post" if side == "base" else "base").divergence is None
    text = "\n".join(wording.verdict_lines(verdict))
    assert "at token 5 they diverge" in text
    assert "fault of the app" in text


def test_a_forged_end_is_found(pool, original):
    longer = resealed(original, token_ids=(*original.base.token_ids, 7), margins=(), smallest_margin=None)
    divergence = verdict_of(pool, longer).base.divergence
    assert (divergence.step, divergence.recorded.id, divergence.replayed.id) == (len(original.base.token_ids), 7, None)
    assert divergence.replayed.text == f"(ended: {original.base.finish_reason})"
    assert divergence.within_drift is False, "no rounding ends a reply"
    shorter = resealed(original, token_ids=original.base.token_ids[:-1], margins=(), smallest_margin=None)
    divergence = verdict_of(pool, shorter).base.divergence
    assert (divergence.step, divergence.recorded.id) == (len(original.base.token_ids) - 1, None)
    ended = "length" if original.base.finish_reason == "eos" else "eos"
    assert verdict_of(pool, resealed(original, finish_reason=ended)).outcome == "diverged"


def test_ids_that_no_vocabulary_has_are_a_divergence_and_harm_nobody(pool, original):
    for odd in (2**32 - 1, 319):
        verdict = verdict_of(pool, resealed(original, token_ids=(odd, *original.base.token_ids[1:])))
        assert verdict.base.divergence.step == 0
    assert verdict_of(pool, original).outcome == "identical"


def test_the_divergence_tells_the_logits_that_the_token_was_drawn_from():
    """Against a naive decoder; the tokens that are drawn do not change."""
    model = random_model()
    for temperature, penalty in ((0, 1.0), (0.8, 1.3)):
        plain = request(range(30), temperature=temperature, repetition_penalty=penalty)
        drawn = [draw.token for draw in naive_reply(model, plain)]
        wrong = (drawn[5] + 1) % VOCABULARY
        told = plain.model_copy(update={"expected": (*drawn[:5], wrong, *drawn[6:])})
        with running(model) as engine:
            events = answer(engine, told)[0]
        assert tokens(events) == drawn
        (divergence,) = [event for event in events if isinstance(event, DrawDivergence)]
        ids = [*plain.token_ids, *drawn[:5]]
        with torch.inference_mode():
            logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
        seen = torch.zeros(1, VOCABULARY, dtype=torch.bool)
        seen[0, ids] = True
        scores = sampling.warp(logits[None], seen, [plain.sampling])[0]
        if temperature > 0:
            keys = torch.tensor([sampling.key(plain.sampling.seed, 5)])
            scores = scores + sampling.gumbel(keys, torch.arange(VOCABULARY))[0]
        assert (divergence.step, divergence.drawn, divergence.expected) == (5, drawn[5], wrong)
        assert divergence.drawn_logit == pytest.approx(float(logits[drawn[5]]), abs=1e-4)
        assert divergence.expected_logit == pytest.approx(float(logits[wrong]), abs=1e-4)
        assert divergence.behind == pytest.approx(float(scores[drawn[5]] - scores[wrong]), abs=1e-3)


def test_a_token_that_a_warper_rules_out_has_no_margin():
    model = random_model()
    plain = request(range(30), top_k=1)
    drawn = [draw.token for draw in naive_reply(model, plain)]
    with running(model) as engine:
        events = answer(engine, plain.model_copy(update={"expected": ((drawn[0] + 1) % VOCABULARY,)}))[0]
    (divergence,) = [event for event in events if isinstance(event, DrawDivergence)]
    assert divergence.behind is None


def test_another_dtype_is_a_warning_and_its_rounding_is_told_from_a_forgery(folder, pool, original):
    """The same weights in float32 instead of bfloat16, or the other way round, at a temperature at which replies diverge soon."""
    here = original.base.engine.dtype
    other = Pool(settings_for(folder, dtype="float32" if here == "bfloat16" else "bfloat16"), HuggingFaceHub())
    try:
        verdict = verdict_of(other, original)
        assert any(f"dtype was {here}" in warning for warning in verdict.warnings)
        for side in SIDES:
            judged = verdict.side(side)
            assert judged.divergence is None or judged.divergence.within_drift
            assert judged.drift > 0, "the numbers moved"
        ids = original.base.token_ids
        far = judging_of_replays._allowance(_divergence(logit=20.0), original.base, original.base.engine, 0.0)
        assert far == pytest.approx(4 * 20 * judging_of_replays._ROUNDOFF[here])
        forged = resealed(
            original,
            token_ids=((ids[0] + 1) % 300, *ids[1:]),
            margins=(50.0, *original.base.margins[1:]),
            smallest_margin=min(original.base.margins[1:]),
        )
        assert verdict_of(other, forged).base.divergence.within_drift is False
    finally:
        other.close()


def _divergence(logit: float) -> DrawDivergence:
    return DrawDivergence(step=0, drawn=1, expected=2, drawn_logit=logit, expected_logit=1.0, behind=0.1)


# --- not replayable -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"weights_sha256": "e" * 64}, "eeeeeeeeeeeeeeee in the receipt"),
        ({"prompt_sha256": "e" * 64}, "other token ids here"),
        ({"prompt_tokens": 3}, "other token ids here"),
    ],
)
def test_what_is_missing_here_is_named(pool, original, changes, expected):
    verdict = verdict_of(pool, resealed(original, **changes))
    assert verdict.outcome == "not replayable"
    assert expected in verdict.reasons[0]
    if "weights_sha256" in changes:
        assert original.base.weights_sha256[:16] in verdict.reasons[0], "both fingerprints"


def test_another_sampling_rule_and_another_pair_are_named(pool, original):
    engine = original.base.engine.model_copy(update={"sampler": "v0"})
    assert "version v0 of the sampling rule" in verdict_of(pool, resealed(original, engine=engine)).reasons[0]
    elsewhere = original.comparison.model_copy(update={"pair": "somebody's own"})
    receipt = receipts.make(elsewhere, original.base, original.post)
    assert 'no pair "somebody\'s own"' in verdict_of(pool, receipt).reasons[0]
    assert verdict_of(pool, receipt, pair=pool.default.id).outcome == "identical", "the weights decide"


def test_a_context_that_is_too_short_here_is_named(folder, original):
    short = Pool(settings_for(folder, context=64), HuggingFaceHub())
    try:
        verdict = verdict_of(short, original)
        assert verdict.outcome == "not replayable"
        assert "context holds" in verdict.reasons[0]
    finally:
        short.close()


def test_other_versions_and_another_machine_are_warnings(pool, original):
    engine = original.base.engine.model_copy(update={"versions": {"torch": "1.0"}, "device": "a toaster"})
    verdict = verdict_of(pool, resealed(original, engine=engine))
    assert verdict.outcome == "identical"
    text = " ".join(verdict.warnings)
    assert "torch was 1.0" in text
    assert "device was a toaster" in text


def test_a_receipt_pins_the_commit_that_it_was_made_with():
    pair = pairs.Pair(id="x", title="x", base="owner/base", post="owner/chat@main")
    pinned = pairs.at_commits(pair, {"base": "a" * 40, "post": "b" * 40})
    assert (pinned.base, pinned.post) == ("owner/base@" + "a" * 40, "owner/chat@" + "b" * 40)
    assert pairs.at_commits(pair, {}) == pair


def test_commits_do_not_move_a_pair_that_lies_in_folders(pool, original):
    from_hub = original.base.checkpoint.model_copy(update={"revision": "a" * 40})
    assert verdict_of(pool, resealed(original, checkpoint=from_hub)).outcome == "identical"
    verdict = verdict_of(pool, resealed(original, checkpoint=from_hub, weights_sha256="e" * 64))
    assert len(verdict.reasons) == 1


class FolderHub:
    """The pair of a folder as two repositories, and which commits were asked for."""

    def __init__(self, folder: Path):
        self.folder, self.asked = folder, set[str | None]()

    def look_up(self, id: str, revision: str | None) -> Repository:
        self.asked.add(revision)
        files = {file.name: file.stat().st_size for file in self._place(id).iterdir()}
        return Repository(id, revision or "0" * 40, files)

    def download(self, repository: Repository, report, only=()) -> Path:
        return self._place(repository.id)

    def _place(self, id: str) -> Path:
        return self.folder / id.removeprefix("owner/")


def test_a_strangers_receipt_does_not_choose_which_commits_are_fetched(folder, original, monkeypatch):
    hub = FolderHub(folder)
    with Pool(Settings(base="owner/tiny-base", post="owner/tiny-chat", threads=1), hub) as pool:
        recorded = original.base.checkpoint.model_copy(update={"revision": "a" * 40})
        receipt = resealed(original, checkpoint=recorded, weights_sha256="e" * 64)
        refused = verdict_of(pool, receipt, pair=pool.default.id)
        assert refused.outcome == "not replayable" and hub.asked == {None}
        assert "other commits of these models" in refused.reasons[-1] and " replay FILE.json`" in refused.reasons[-1]
        verdict_of(pool, receipt, pair=pool.default.id, any_commit=True)
        assert hub.asked == {None, "a" * 40}, "on a machine of one's own it does"
        monkeypatch.setattr(sources, "is_cached", lambda id, revision, file: True)
        kept = recorded.model_copy(update={"revision": "b" * 40})
        verdict_of(pool, resealed(receipt, checkpoint=kept), pair=pool.default.id)
        assert hub.asked == {None, "a" * 40, "b" * 40}, "and what the operator has is loaded"


# --- the command line ---------------------------------------------------------------------------------


@pytest.fixture
def command(folder, capsys):
    def call(*arguments: str) -> tuple[int, str, str]:
        models = ["--base", str(folder / "tiny-base"), "--post", str(folder / "tiny-chat"), "--threads", "1"]
        status = app.main([*arguments, *(models[:4] if arguments[0] == "diff" else models)])
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


@pytest.mark.slow
def test_compare_writes_a_receipt_that_replays_and_diffs(command, tmp_path):
    file, other = tmp_path / "one.json", tmp_path / "two.json"
    status, out, _ = command("compare", "--prompt", "Hi", "--max-new-tokens", "12", "--receipt", str(file), "--json")
    assert status == 0
    answer = json.loads(out)
    assert receipts.from_data(answer["receipt"]) == receipts.read(file.read_bytes())
    assert answer["base"]["token_ids"] == answer["receipt"]["base"]["token_ids"]
    status, out, err = command("replay", str(file))
    assert (status, out.splitlines()[0]) == (0, "Identical, bit for bit.")
    assert "Replaying" in err
    command("compare", "--prompt", "Hi you", "--max-new-tokens", "12", "--receipt", str(other))
    status, out, _ = command("diff", str(file), str(other))
    assert status == 0
    assert "prompt: Hi{+ you+}" in out
    assert "sent to the base side" not in out or "Hi{+ you+}" in out
    found = json.loads(command("diff", str(file), str(other), "--json")[1])
    assert [change["name"] for change in found["inputs"]] == ["prompt"]


@pytest.mark.slow
def test_the_exit_status_of_replay_tells_the_verdict(command, original, tmp_path):
    def status(receipt, *more):
        file = tmp_path / "receipt.json"
        file.write_text(receipts.write(receipt))
        return command("replay", str(file), *more)

    assert status(original)[0] == 0
    ids = original.base.token_ids
    code, out, _ = status(resealed(original, token_ids=((ids[0] + 1) % 300, *ids[1:])), "--json")
    assert code == 1
    assert json.loads(out)["base"]["divergence"]["step"] == 0
    code, out, _ = status(resealed(original, weights_sha256="e" * 64))
    assert code == 2
    assert "Other weights" in out


def test_mistakes_of_replay_and_diff_are_one_sentence(command, original, tmp_path):
    file = tmp_path / "receipt.json"
    file.write_text(receipts.write(original).replace('"seed": 1234', '"seed": 1235', 1))
    assert command("replay", str(file)) == (
        2, "", "This receipt was changed after it was made: comparison.sampling.seed is not the original (it does not match its seal).\n",
    )  # fmt: skip
    assert "cannot be read" in command("replay", str(tmp_path / "nothing.json"))[2]
    assert (
        "cannot be written"
        in command("compare", "--prompt", "x", "--max-new-tokens", "1", "--receipt", str(tmp_path))[2]
    )


def test_threads_of_a_pool_replay_at_once(pool, original):
    """Several visitors check the same receipt."""
    outcomes: list[str] = []
    crowd = [threading.Thread(target=lambda: outcomes.append(verdict_of(pool, original).outcome)) for _ in range(6)]
    for each in crowd:
        each.start()
    for each in crowd:
        each.join()
    assert outcomes == ["identical"] * 6
