"""What happens on the Receipts tab, without a browser: what is held, listed, found, replayed and explained."""

import pytest

from core import receipts, replay
from core.difference import UNKNOWN, detokenized
from core.errors import Unreplayable, UserError
from core.pool import Progress
from core.steps import Stop
from core.types import Verdict
from core.ui.receipts import render, session
from tests import values
from tests.scripted import PAIR, ScriptedPool

CHAT = (values.record("One"), values.record("Two", failed="post"), values.record("Three " * 20))


def receipt(prompt: str, **changes):
    return values.receipt(values.COMPARISON.model_copy(update={"prompt": prompt, **changes}))


def dropped(folder, text: str | bytes):
    """A file as the server has it after somebody dropped it on the page."""
    file = folder / "receipt.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def test_a_dropped_receipt_is_held_once_newest_last_and_the_servers_copy_is_gone(tmp_path):
    held: session.Held = ()
    for prompt in ("a", "b", "a"):
        file = dropped(tmp_path, receipts.write(receipt(prompt)))
        held, taken = session.take(held, file)
        assert taken == receipt(prompt) and not file.exists()
    assert [each.comparison.prompt for each in held] == ["b", "a"]


def test_a_visitor_holds_eight_receipts_at_most(tmp_path):
    held: session.Held = ()
    for number in range(10):
        held, _ = session.take(held, dropped(tmp_path, receipts.write(receipt(str(number)))))
    assert [each.comparison.prompt for each in held] == list("23456789")


def test_a_file_that_is_no_receipt_is_refused_and_removed_too(tmp_path):
    for text in (b"{}", b" " * (receipts.MAX_BYTES + 1)):
        file = dropped(tmp_path, text)
        with pytest.raises(UserError):
            session.take((), file)
        assert not file.exists()
    whole = receipts.write(receipt("a"))
    padded = whole + " " * (receipts.MAX_BYTES - len(whole.encode()))
    assert session.take((), dropped(tmp_path, padded))[1] == receipt("a"), "one of the largest size is read whole"


def test_every_turn_with_a_receipt_and_every_dropped_one_can_be_chosen_and_is_found_again():
    held = (receipt("Dropped"),)
    listed = session.sources(CHAT, held)
    assert [label for label, _ in listed] == [
        "Turn 1: One",
        "Turn 3: " + ("Three " * 20)[:49] + "\u2026",
        f"Receipt {held[0].sha256[:8]}: Dropped",
    ]
    found = [session.find(CHAT, held, key) for _, key in listed]
    assert found == [receipts.of_turn(CHAT, 0), receipts.of_turn(CHAT, 2), held[0]]


@pytest.mark.parametrize("key", ["turn 3", "turn -1", "turn x", "turn ", "0", "", None, 0, "f" * 64])
def test_what_is_gone_or_never_was_is_not_found(key):
    with pytest.raises(UserError, match="Choose two turns or receipts"):
        session.find(CHAT, (receipt("Dropped"),), key)


def test_a_turn_with_one_failed_side_is_not_listed():
    failed = [values.record("x", failed=side) for side in ("base", "post")]
    assert session.sources(tuple(failed), ()) == []


# --- replays ------------------------------------------------------------------------------------------


def replaying(monkeypatch, *steps, error: Exception | None = None):
    """What `replay` says from now on."""

    def replayed(pool, receipt):
        yield from steps
        if error is not None:
            raise error
        return Verdict(outcome="identical")

    monkeypatch.setattr(replay, "replay", replayed)


def test_a_replay_says_how_far_it_is_and_ends_in_its_verdict(monkeypatch):
    progress = Progress("Replaying", 0.5)
    replaying(monkeypatch, progress)
    checks = list(session.check(ScriptedPool(), receipt("a"), Stop()))
    assert checks == [session.Checked(progress=progress), session.Checked(verdict=Verdict(outcome="identical"))]
    assert all(check.mistake == "" for check in checks)


def test_a_receipt_of_one_side_is_held_named_and_explained_as_any_other(tmp_path):
    alone = values.one_sided(values.COMPARISON.model_copy(update={"prompt": ""}), prompt_ids=(1, 2, 3))
    held, taken = session.take((), dropped(tmp_path, receipts.write(alone)))
    assert taken == alone and session.find((), held, alone.sha256) == alone
    assert "3 token ids" in render.summary(alone) and alone.reply.checkpoint.name in render.summary(alone)
    assert session.explain(ScriptedPool(), alone, alone).inputs == ()


def test_a_replay_that_fails_or_is_stopped_ends_in_a_sentence(monkeypatch):
    replaying(monkeypatch, error=Unreplayable("Not here."))
    assert list(session.check(ScriptedPool(), receipt("a"), Stop())) == [session.Checked(mistake="Not here.")]
    replaying(monkeypatch, *[Progress("Replaying")] * 3)
    stop = Stop()
    checks = session.check(ScriptedPool(), receipt("a"), stop)
    next(checks)
    stop.press()
    assert list(checks) == [session.Checked(mistake="The replay was stopped.")]


# --- why two runs differ -----------------------------------------------------------------------------------


def test_two_runs_are_explained_with_the_texts_that_were_sent_where_they_can_be_rebuilt(monkeypatch):
    pool = ScriptedPool()
    monkeypatch.setattr(pool, "peek", {PAIR.id: pool.lease}.get)
    first, second = receipt("Hello there", pair=PAIR.id), receipt("Hello sea", pair=PAIR.id)
    sent = session.explain(pool, first, second).sent
    texts = [
        {side: "".join(part.text for part in parts if part.kind != other) for side, parts in sent.items()}
        for other in ("added", "removed")
    ]
    assert texts == [detokenized(pool, each).texts for each in (first, second)]
    assert texts[1]["base"].endswith("Hello sea") and "Hello sea<|im_end|>" in texts[1]["post"]


def test_texts_of_a_pair_that_is_unknown_not_loaded_or_cannot_be_asked_are_left_out(monkeypatch):
    pool = ScriptedPool()
    assert detokenized(pool, receipt("Hello", pair="another")) == UNKNOWN
    assert (
        detokenized(pool, receipt("Hello", pair=PAIR.id, chat_template_kwargs={"enable_thinking": True})) == UNKNOWN
    ), "its chat template cannot be asked this"
    monkeypatch.setattr(pool, "peek", lambda id: None)
    assert detokenized(pool, receipt("Hello", pair=PAIR.id)) == UNKNOWN
