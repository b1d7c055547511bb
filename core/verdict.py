"""What came of a replay: whether each reply is the recorded one, and where it is not, whether rounding can have done it.

- identical: every token of both replies is the same. Where the margins are the same to the last bit
  too, so were the numbers behind them; in the same portable arithmetic they must be.
- diverged: at some step another token was drawn. Rounding can do that between two machines where two
  tokens were nearly level, so the shift is held against an allowance: `_ROUNDING` units of roundoff
  of the coarser of the two dtypes at the size of the logits, over the temperature, or `_OBSERVED` times
  the largest drift seen at the steps before, whichever is more. The drift counts for at most `_OBSERVED`
  times the roundoff, since a receipt's margins are its maker's word. Between two runs with the same
  certified fingerprint nothing is allowed, and in portable arithmetic the machine is not in it.
"""

from collections.abc import Sequence

from .prompts import token_text
from .receipts import engine_changes
from .run import Run
from .types import (
    AnyReceipt,
    Choice,
    Divergence,
    DrawDivergence,
    EngineInfo,
    Reply,
    Side,
    SideReceipt,
    SideVerdict,
    named,
)

_ROUNDOFF = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-24}
_ROUNDING = 4
_OBSERVED = 4


def warnings(receipt: AnyReceipt, here: dict[Side, EngineInfo], diverged: Sequence[Side] = ()) -> list[str]:
    """What differs between the engine fingerprints: enough to let rounding in, not enough to refuse.

    In the same portable arithmetic nothing lets rounding in; where such a reply diverged, the versions that differ are
    told, for the code of the models is a library's.
    """
    told = []
    for (name, there, now), sides in engine_changes(receipt.engines, here).items():
        version = name in next(iter(here.values())).versions
        where = [
            side
            for side in sides
            if not same_portably(receipt.side(side).engine, here[side]) or (version and side in diverged)
        ]
        if where and name == "draw":
            told.append(
                f"On the {named(where)} side it was drawn with its machine's own logarithms, as all receipts until version 0.1.0: where a margin is below 1e-9 another token can be drawn here."
            )
        elif where:
            told.append(
                f"On the {named(where)} side {name} was {there or 'not recorded'}, here it is {now or 'not there'}."
            )
    return told


def same_portably(there: EngineInfo, here: EngineInfo) -> bool:
    return here.is_portable and here.same_bits(there)


def judge(run: Run, side: Side, recorded: SideReceipt, reply: Reply, here: EngineInfo) -> SideVerdict:
    found = run.divergence(side)
    same = found.step if found else min(len(recorded.token_ids), len(reply.token_ids))
    drift = _drift(recorded.margins[:same], reply.margins[:same])
    if drift and same_portably(recorded.engine, here):
        return _other_numbers(run, side, recorded, reply)
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


def _other_numbers(run: Run, side: Side, recorded: SideReceipt, reply: Reply) -> SideVerdict:
    """The first step at which a margin differs where no bit may, whatever was drawn."""
    pairs = zip(recorded.margins, reply.margins, strict=False)
    step, (there, here) = next((step, pair) for step, pair in enumerate(pairs) if pair[0] != pair[1])
    choice = Choice(id=reply.token_ids[step], text=_spell(run, side, reply.token_ids[step]), logit=None)
    shift = None if there is None or here is None else abs(there - here)
    divergence = Divergence(
        step=step,
        recorded=choice,
        replayed=choice,
        recorded_margin=there,
        replayed_margin=here,
        shift=shift,
        allowance=0.0,
        within_drift=False,
    )
    return SideVerdict(tokens=step, drift=0.0, divergence=divergence)


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
