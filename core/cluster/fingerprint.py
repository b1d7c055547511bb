"""One digest over all that the promise of a pair's level compares: replicas with the same one answer with the same bits.

Of each model the weights, the context and what decides the bits of its engine (`Card.deciding`: in portable arithmetic its version, the prepared weights and
the rule of the draw; in fast arithmetic slots, threads, dtype, device, libraries and all else); and a canary, the bits of a few fixed requests, which
shows what no name does. Knows leases, no network.
"""

import random
from functools import partial
from queue import SimpleQueue

from ..canonical import sha256
from ..errors import UserError
from ..lease import Lease
from ..types import DEFAULT_SAMPLING, SIDES, Event, Failure, Finish, Request, Side, Token

_LENGTHS = (40, 130, 220)  # of the canary's prompts, in tokens: of one chunk and of several
_TOKENS = 12


def fingerprint(lease: Lease) -> str:
    """Runs the canary. Raises UserError where a model fails on it."""
    cards = [lease.side(side) for side in SIDES]
    return sha256([[[card.deciding, card.context] for card in cards], canary(lease)])


def canary(lease: Lease) -> str:
    """A digest of tokens, log-probabilities and margins that both models give to fixed requests, all of them at once."""
    heard: SimpleQueue[tuple[int, Side, Event]] = SimpleQueue()

    def hear(which: int, side: Side, event: Event) -> None:
        heard.put((which, side, event))

    for which in range(len(_LENGTHS)):
        lease.write({side: _request(lease, side, which) for side in SIDES}, partial(hear, which))
    found: dict[str, list[object]] = {f"{side} {which}": [] for side in SIDES for which in range(len(_LENGTHS))}
    left = len(found)
    while left:
        which, side, event = heard.get()
        match event:
            case Token():
                margin = None if event.margin is None else event.margin.hex()
                found[f"{side} {which}"].append([event.id, event.logprob.hex(), margin])
            case Failure():
                raise UserError(
                    f"{lease.side(side).info.name} fails on what every replica is tried with: {event.message}"
                )
            case Finish():
                left -= 1
    return sha256(found)


def _request(lease: Lease, side: Side, which: int) -> Request:
    """Token ids of no meaning, and another temperature each."""
    card, draw = lease.side(side), random.Random(which)
    length = min(_LENGTHS[which], card.context - _TOKENS)
    sampling = DEFAULT_SAMPLING.model_copy(
        update={
            "seed": which,
            "max_new_tokens": _TOKENS,
            "temperature": which / 2,
            "repetition_penalty": 1 + which / 10,
        }
    )
    return Request(
        token_ids=tuple(draw.randrange(card.vocabulary) for _ in range(length)),
        sampling=sampling,
        stop_ids=frozenset(),
        reuse=False,
    )
