"""Run a receipt again, from scratch, and say what came of it.

A replay loads the pair that the receipt names (at the commit that it names), sends the same token ids
with the same settings, reuses nothing, and compares token by token. A reply of the same portable
arithmetic is read, many tokens in one pass, which gives the bits that writing gives. Not replayable are
other weights, another sampler, a pair or a prompt that cannot be had here; else core/verdict.py judges.

This file knows no page; progress is a generator's.
"""

import re

from .checkpoints.sources import HERE, whereabouts
from .completions import stop_step
from .errors import Unreplayable, UserError
from .installation import COMMAND
from .lease import Lease
from .pairs import at_commits, other_weights
from .pool import Pool, Progress
from .run import Run, Writer
from .steps import Steps, watch
from .types import SAMPLER_VERSION, SIDE_NAMES, AnyReceipt, OneSidedReceipt, Side, SideReceipt, Verdict
from .verdict import judge, same_portably, warnings

_COMMIT = re.compile(r"[0-9a-f]{40}")


def replay(
    pool: Pool, receipt: AnyReceipt, pair: str | None = None, *, again: bool = False, any_commit: bool = False
) -> Steps[Progress, Verdict]:
    """Run a receipt again, yielding progress; returns the verdict. Closing the generator stops it and frees the slots.

    Args:
        pair: take this pair instead of the one that the receipt names; its weights must be the same.
        again: write every reply again, also where reading it would tell as much.
        any_commit: download the recorded commits if need be. Else only those that are here are loaded: a stranger's
            receipt does not choose what a server downloads.

    Raises:
        UserError: a side failed while it was run.
    """
    try:
        with (yield from _open(pool, receipt, pair or receipt.comparison.pair, any_commit)) as lease:
            return (yield from _run(lease, receipt, again))
    except Unreplayable as error:
        return Verdict(outcome="not replayable", reasons=tuple(error.args))


# --- can it be replayed here? -------------------------------------------------------------------------


def _open(pool: Pool, receipt: AnyReceipt, pair: str, any_commit: bool) -> Steps[Progress, Lease]:
    """A lease on the pair, at the recorded commits where the pair's own are others.

    Raises:
        Unreplayable: with every reason why not.
    """
    samplers = sorted({receipt.side(side).engine.sampler for side in receipt.sides} - {SAMPLER_VERSION})
    if samplers:
        raise Unreplayable(
            f"It was drawn with version {samplers[0]} of the sampling rule, and this app has version {SAMPLER_VERSION}; use the version of the app that made it."
        )
    try:
        lease = yield from pool.open(pair, tokens=receipt.comparison.sampling.max_new_tokens)
    except UserError as error:
        raise Unreplayable(f"Its models cannot be had here: {error}") from None
    reasons = _other_weights(lease, receipt)
    commits = _commits(receipt)
    if reasons and commits:
        lease.release()
        if not any_commit and whereabouts(at_commits(lease.pair, commits)) != HERE:
            raise Unreplayable(
                *reasons,
                f"It was made at other commits of these models, which this app does not fetch for a receipt; on a machine of your own run `{COMMAND} replay FILE.json`, which does.",
            )
        try:
            lease = yield from pool.open(pair, commits, tokens=receipt.comparison.sampling.max_new_tokens)
        except UserError as error:
            raise Unreplayable(*reasons, f"The recorded commits cannot be had here: {error}") from None
        reasons = _other_weights(lease, receipt)
    if reasons:
        lease.release()
        raise Unreplayable(*reasons)
    return lease


def _commits(receipt: AnyReceipt) -> dict[Side, str]:
    """The commits that a receipt names; none for models from a folder."""
    revisions = {side: receipt.side(side).checkpoint.revision for side in receipt.sides}
    return {side: revision for side, revision in revisions.items() if revision and _COMMIT.fullmatch(revision)}


def _other_weights(lease: Lease, receipt: AnyReceipt) -> list[str]:
    reasons = []
    for side in receipt.sides:
        there, here = receipt.side(side), lease.side(side)
        if there.weights_sha256 != here.weights_sha256:
            recorded, found = (there.checkpoint.name, there.weights_sha256), (here.info.name, here.weights_sha256)
            reasons.append(other_weights(f"the {SIDE_NAMES[side]} side", recorded, found))
    return reasons


def _start(lease: Lease, receipt: AnyReceipt, again: bool) -> Steps[Progress, Run]:
    """The replay under way. Raises Unreplayable when the same conversation does not give the same token ids here."""
    try:
        read = () if again else [side for side in receipt.sides if _can_be_read(lease, receipt, side)]
        whole = {each: receipt.side(each) for each in receipt.sides}
        beginning = Run.begin(
            lease, receipt.comparison, sides=receipt.sides, prompt_ids=receipt.prompt_ids, recorded=whole, read=read
        )
        run = yield from watch(beginning, lambda step: Progress("Reading the conversation"))
    except UserError as error:
        raise Unreplayable(str(error)) from None
    for side in receipt.sides:
        recorded, here = receipt.side(side), run.prompt(side)
        if (recorded.prompt_sha256, recorded.prompt_tokens) != (here.sha256, len(here.token_ids)):
            run.stop()
            raise Unreplayable(
                f"The same conversation gives the {SIDE_NAMES[side]} side other token ids here: {recorded.prompt_tokens:,} with sha256 {recorded.prompt_sha256[:12]} in the receipt, {len(here.token_ids):,} with {here.sha256[:12]} here, so its tokenizer or chat template is another."
            )
    return run


def _can_be_read(lease: Lease, receipt: AnyReceipt, side: Side) -> bool:
    dialled = side == "post" and receipt.comparison.dial is not None
    return not dialled and same_portably(receipt.side(side).engine, lease.side(side).engine)


# --- the run ------------------------------------------------------------------------------------------


def _run(lease: Lease, receipt: AnyReceipt, again: bool) -> Steps[Progress, Verdict]:
    run = yield from _start(lease, receipt, again)
    total = sum(len(receipt.side(side).token_ids) for side in receipt.sides)
    for snapshot in run.snapshots(lambda: 0.25):
        done = 0
        for side in receipt.sides:
            written = len(snapshot.reply(side).token_ids)
            done += min(written, len(receipt.side(side).token_ids))
            if run.divergence(side) or written >= _enough(receipt.side(side)):
                run.stop(side)
        yield Progress(f"Replaying: {done:,} of {total:,} tokens", done / max(1, total))
    verdict = _verdict(run, receipt)
    if verdict.outcome == "identical" and isinstance(receipt, OneSidedReceipt):
        _check_stops(lease, run, receipt)
    return verdict


def _enough(recorded: SideReceipt) -> float:
    """A reply that somebody stopped would go on; it is compared as far as it went."""
    return len(recorded.token_ids) if recorded.finish_reason == "stopped" else float("inf")


def _check_stops(lease: Lease, run: Run, receipt: OneSidedReceipt) -> None:
    """Raises Unreplayable where the reply, which is the same here, does not end where its stop strings end it."""
    side, reply = receipt.writer, receipt.reply
    writer = Writer(run.checkpoint(side), run.prompt(side), run.sampling(side), lease.stop_ids(side))
    if stop_step(writer, receipt.stops, reply.token_ids) != (
        len(reply.token_ids) if reply.finish_reason == "stopped" else None
    ):
        raise Unreplayable(
            "Its reply does not end where its stop strings end it, so the receipt is not of the run that it names."
        )


def _verdict(run: Run, receipt: AnyReceipt) -> Verdict:
    snapshot, sides = run.snapshot(), {}
    engines = {side: run.engine(side) for side in receipt.sides}
    for side in receipt.sides:
        reply, recorded = snapshot.reply(side), receipt.side(side)
        if reply.error is not None:
            raise UserError(f"The {SIDE_NAMES[side]} side failed during the replay: {reply.error}")
        sides[side] = judge(run, side, recorded, reply, engines[side])
    diverged = [side for side in receipt.sides if sides[side].divergence]
    return Verdict(
        outcome="diverged" if diverged else "identical",
        warnings=tuple(warnings(receipt, engines, diverged)),
        base=sides.get("base"),
        post=sides.get("post"),
        portable=all(same_portably(receipt.side(side).engine, engines[side]) for side in receipt.sides),
    )
