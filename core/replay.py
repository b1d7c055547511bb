"""Run a receipt again, from scratch, and say what came of it.

A replay loads the pair that the receipt names (at the commit that it names), sends the same token ids
with the same settings, reuses nothing, and compares token by token. The rules of the verdict:

- identical: every token of both replies is the same. Where the margins are the same to the last bit
  too, so were the numbers behind them.
- diverged: at some step another token was drawn. Rounding can do that between two machines where two
  tokens were nearly level, so the shift is held against an allowance: `_ROUNDING` units of roundoff
  of the coarser of the two dtypes at the size of the logits, over the temperature, or `_OBSERVED` times
  the largest drift seen at the steps before, whichever is more. The drift counts for at most `_OBSERVED`
  times the roundoff, since a receipt's margins are its maker's word. Between two runs with the same
  certified fingerprint nothing is allowed, and in portable arithmetic the machine is not in it.
- not replayable: other weights, another sampler, a pair or a prompt that cannot be had here.

This file knows no page; progress is a generator's.
"""

import re
from collections.abc import Sequence

from .compare import Run
from .engine import SAMPLER_VERSION
from .errors import Unreplayable, UserError
from .pool import Lease, Pool, Progress
from .prompts import token_text
from .receipts import engine_changes
from .steps import Steps
from .types import (
    SIDE_NAMES,
    SIDES,
    Choice,
    Divergence,
    DrawDivergence,
    EngineInfo,
    Receipt,
    Reply,
    Side,
    SideReceipt,
    SideVerdict,
    Verdict,
    named,
)

_ROUNDOFF = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-24}
_ROUNDING = 4
_OBSERVED = 4
_COMMIT = re.compile(r"[0-9a-f]{40}")


def replay(pool: Pool, receipt: Receipt, pair: str | None = None) -> Steps[Progress, Verdict]:
    """Run a receipt again, yielding progress; returns the verdict. Closing the generator stops it and frees the slots.

    Args:
        pair: take this pair instead of the one that the receipt names; its weights must be the same.

    Raises:
        UserError: a side failed while it was run.
    """
    try:
        with (yield from _open(pool, receipt, pair or receipt.comparison.pair)) as lease:
            return (yield from _run(lease, receipt))
    except Unreplayable as error:
        return Verdict(outcome="not replayable", reasons=tuple(error.args))


# --- can it be replayed here? -------------------------------------------------------------------------


def _open(pool: Pool, receipt: Receipt, pair: str) -> Steps[Progress, Lease]:
    """A lease on the pair, at the recorded commits where the pair's own are others.

    Raises:
        Unreplayable: with every reason why not.
    """
    samplers = sorted({receipt.side(side).engine.sampler for side in SIDES} - {SAMPLER_VERSION})
    if samplers:
        raise Unreplayable(
            f"It was drawn with version {samplers[0]} of the sampling rule, and this app has version {SAMPLER_VERSION}; use the version of the app that made it."
        )
    try:
        lease = yield from pool.open(pair)
    except UserError as error:
        raise Unreplayable(f"Its models cannot be had here: {error}") from None
    reasons = _other_weights(lease, receipt)
    commits = _commits(receipt)
    if reasons and commits:
        lease.release()
        try:
            lease = yield from pool.open(pair, commits)
        except UserError as error:
            raise Unreplayable(*reasons, f"The recorded commits cannot be had here: {error}") from None
        reasons = _other_weights(lease, receipt)
    if reasons:
        lease.release()
        raise Unreplayable(*reasons)
    return lease


def _commits(receipt: Receipt) -> dict[Side, str]:
    """The commits that a receipt names; none for models from a folder."""
    revisions = {side: receipt.side(side).checkpoint.revision for side in SIDES}
    return {side: revision for side, revision in revisions.items() if revision and _COMMIT.fullmatch(revision)}


def _other_weights(lease: Lease, receipt: Receipt) -> list[str]:
    reasons = []
    for side in SIDES:
        recorded, here = receipt.side(side), lease.side(side)
        if recorded.weights_sha256 != here.weights_sha256:
            reasons.append(
                f"Other weights on the {SIDE_NAMES[side]} side: {recorded.checkpoint.name} with fingerprint {recorded.weights_sha256[:16]} in the receipt, {here.info.name} with {here.weights_sha256[:16]} here."
            )
    return reasons


def _start(lease: Lease, receipt: Receipt) -> Run:
    """The replay under way. Raises Unreplayable when the same conversation does not give the same token ids here."""
    try:
        run = Run(lease, receipt.comparison, recorded={side: receipt.side(side) for side in SIDES})
    except UserError as error:
        raise Unreplayable(str(error)) from None
    for side in SIDES:
        recorded, here = receipt.side(side), run.prompt(side)
        if (recorded.prompt_sha256, recorded.prompt_tokens) != (here.sha256, len(here.token_ids)):
            run.stop()
            raise Unreplayable(
                f"The same conversation gives the {SIDE_NAMES[side]} side other token ids here: {recorded.prompt_tokens:,} with sha256 {recorded.prompt_sha256[:12]} in the receipt, {len(here.token_ids):,} with {here.sha256[:12]} here, so its tokenizer or chat template is another."
            )
    return run


def warnings(receipt: Receipt, here: dict[Side, EngineInfo], diverged: Sequence[Side] = ()) -> list[str]:
    """What differs between the engine fingerprints: enough to let rounding in, not enough to refuse.

    In the same portable arithmetic nothing lets rounding in; where such a reply diverged, the versions that differ are
    told, for the code of the models is a library's.
    """
    told = []
    for (name, there, now), sides in engine_changes(receipt.engines, here).items():
        version = name in next(iter(here.values())).versions
        where = [side for side in sides if not _same_portably(receipt, here, side) or (version and side in diverged)]
        if where and name == "draw":
            told.append(
                f"On the {named(where)} side it was drawn with its machine's own logarithms, as all receipts until version 0.1.0: where a margin is below 1e-9 another token can be drawn here."
            )
        elif where:
            told.append(
                f"On the {named(where)} side {name} was {there or 'not recorded'}, here it is {now or 'not there'}."
            )
    return told


def _same_portably(receipt: Receipt, here: dict[Side, EngineInfo], side: Side) -> bool:
    return here[side].is_portable and here[side].same_bits(receipt.side(side).engine)


# --- the run ------------------------------------------------------------------------------------------


def _run(lease: Lease, receipt: Receipt) -> Steps[Progress, Verdict]:
    run = _start(lease, receipt)
    total = sum(len(receipt.side(side).token_ids) for side in SIDES)
    for snapshot in run.snapshots(lambda: 0.25):
        done = 0
        for side in SIDES:
            written = len(snapshot.reply(side).token_ids)
            done += min(written, len(receipt.side(side).token_ids))
            if run.divergence(side) or written >= _enough(receipt.side(side)):
                run.stop(side)
        yield Progress(f"Replaying: {done:,} of {total:,} tokens", done / max(1, total))
    return _verdict(run, receipt)


def _enough(recorded: SideReceipt) -> float:
    """A reply that somebody stopped would go on; it is compared as far as it went."""
    return len(recorded.token_ids) if recorded.finish_reason == "stopped" else float("inf")


def _verdict(run: Run, receipt: Receipt) -> Verdict:
    snapshot, sides = run.snapshot(), {}
    engines = {side: run.engine(side) for side in SIDES}
    for side in SIDES:
        reply, recorded = snapshot.reply(side), receipt.side(side)
        if reply.error is not None:
            raise UserError(f"The {SIDE_NAMES[side]} side failed during the replay: {reply.error}")
        sides[side] = _judge(run, side, recorded, reply, engines[side])
    diverged = [side for side in SIDES if sides[side].divergence]
    return Verdict(
        outcome="diverged" if diverged else "identical",
        warnings=tuple(warnings(receipt, engines, diverged)),
        base=sides["base"],
        post=sides["post"],
        portable=all(_same_portably(receipt, engines, side) for side in SIDES),
    )


# --- the judgement ------------------------------------------------------------------------------------


def _judge(run: Run, side: Side, recorded: SideReceipt, reply: Reply, here: EngineInfo) -> SideVerdict:
    found = run.divergence(side)
    same = found.step if found else min(len(recorded.token_ids), len(reply.token_ids))
    drift = _drift(recorded.margins[:same], reply.margins[:same])
    if found is None and _ended_alike(recorded, reply):
        return SideVerdict(tokens=same, drift=drift, divergence=None)
    if found is None:
        return SideVerdict(tokens=same, drift=drift, divergence=_ended_apart(run, side, recorded, reply, same))
    no_drift_allowed = here.same_bits(recorded.engine)
    allowance = 0.0 if no_drift_allowed else _allowance(found, recorded, here, drift)
    divergence = _drew_another(run, side, found, recorded, allowance)
    return SideVerdict(tokens=same, drift=drift, divergence=divergence)


def _drift(recorded: tuple[float | None, ...], replayed: tuple[float | None, ...]) -> float | None:
    """The largest change of a margin; None where the receipt holds none, or lacks one that the replay has."""
    both = list(zip(recorded, replayed, strict=False))
    if len(recorded) != len(replayed) or any((a is None) != (b is None) for a, b in both):
        return None
    return max((abs(a - b) for a, b in both if a is not None and b is not None), default=0.0)


def _ended_alike(recorded: SideReceipt, reply: Reply) -> bool:
    """Whether both runs ended at the same token for the same reason.

    A full context and a full reply end a reply alike: how much the context holds is the machine's.
    """
    if recorded.finish_reason == "stopped":
        return len(reply.token_ids) >= len(recorded.token_ids)
    full = ("length", "context")
    reasons = recorded.finish_reason == reply.finish_reason or {recorded.finish_reason, reply.finish_reason} <= {*full}
    return reasons and len(reply.token_ids) == len(recorded.token_ids)


def _ended_apart(run: Run, side: Side, recorded: SideReceipt, reply: Reply, step: int) -> Divergence:
    """The tokens agree as far as both go, but the replies end differently: no rounding can do that."""

    def at(ids: tuple[int, ...], reason: str | None) -> Choice:
        if step < len(ids):
            return Choice(id=ids[step], text=_spell(run, side, ids[step]), logit=None)
        return Choice(id=None, text=f"(ended: {reason})", logit=None)

    return Divergence(
        step=step,
        recorded=at(recorded.token_ids, recorded.finish_reason),
        replayed=at(reply.token_ids, reply.finish_reason),
        recorded_margin=recorded.margins[step] if step < len(recorded.margins) else None,
        replayed_margin=reply.margins[step] if step < len(reply.margins) else None,
        shift=None,
        allowance=0.0,
        within_drift=False,
    )


def _drew_another(run: Run, side: Side, found: DrawDivergence, recorded: SideReceipt, allowance: float) -> Divergence:
    ahead = recorded.margins[found.step] if recorded.margins else None
    behind = found.behind
    shift = None if ahead is None or behind is None else ahead + behind
    return Divergence(
        step=found.step,
        recorded=Choice(id=found.expected, text=_spell(run, side, found.expected), logit=found.expected_logit),
        replayed=Choice(id=found.drawn, text=_spell(run, side, found.drawn), logit=found.drawn_logit),
        recorded_margin=ahead,
        replayed_margin=behind,
        shift=shift,
        allowance=allowance,
        within_drift=None if shift is None else shift <= allowance,
    )


def _allowance(found: DrawDivergence, recorded: SideReceipt, here: EngineInfo, drift: float | None) -> float:
    """How far rounding may move two scores against each other, in nats after warping (see the head of this file)."""
    roundoff = max(_ROUNDOFF.get(dtype, 0.0) for dtype in (recorded.engine.dtype, here.dtype))
    size = max(1.0, abs(found.drawn_logit or 0.0), abs(found.expected_logit or 0.0))
    rounding = _ROUNDING * roundoff * size / (recorded.sampling.temperature or 1.0)
    return max(rounding, _OBSERVED * min(drift or 0.0, rounding))


def _spell(run: Run, side: Side, id: int) -> str:
    return token_text(run.checkpoint(side).tokenizer, id)
