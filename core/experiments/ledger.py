"""Experiment "ledger": one function call for each token, and copies scale. What a reply costs, counted and timed in this run."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from ..checkpoints.card import TrainingCost, training_cost
from ..steps import Steps
from ..types import SIDE_NAMES, SIDES, Comparison, Result, Side
from .lab import Lab, rounded, same_bits
from .values import Cell, Exhibit, Finding, Plot, Step, Table, by_side

PROMPT = "Tell me a story about the sea."
REPLY_TOKENS = 32
ROUNDS = 3


@dataclass(frozen=True)
class Crowd:
    """The same question asked so many times at once; `seconds` for all of them together, in the fastest round."""

    copies: int
    seconds: float
    results: tuple[Result, ...]

    def tokens_per_second(self, side: Side) -> float:
        return sum(len(result.side(side).token_ids) for result in self.results[: self.copies]) / self.seconds


def run(lab: Lab) -> Steps[Step, Finding]:
    asked = lab.comparison(PROMPT, max_new_tokens=REPLY_TOKENS)
    bandwidth = yield from lab.each(
        "Timing how fast this machine copies memory",
        SIDES,
        lambda side: lab.lease.audit(side).bandwidth(),
    )
    (alone,) = yield from lab.ask("One question, alone", [asked])
    crowds = []
    for copies in crowd_sizes(lab.slots):
        crowds.append((yield from _crowd(lab, asked, copies)))
    costs = {side: training_cost(lab.lease.pair.spec(side)) for side in SIDES}
    return _judge(lab, alone, crowds, bandwidth, costs)


def _crowd(lab: Lab, asked: Comparison, copies: int) -> Steps[Step, Crowd]:
    """So many copies at once, a few times: all the replies, and the shortest time (others use this machine too)."""
    seconds: list[float] = []
    results: list[Result] = []
    for _ in range(ROUNDS):
        began = perf_counter()
        results += yield from lab.ask(f"The same question, {copies} at once", [asked] * copies)
        seconds.append(perf_counter() - began)
    return Crowd(copies, min(seconds), tuple(results))


def crowd_sizes(slots: int) -> list[int]:
    """1, 2, 4 and so on up to all slots."""
    sizes = [1]
    while sizes[-1] * 2 < slots:
        sizes.append(sizes[-1] * 2)
    return sizes if sizes[-1] == slots else [*sizes, slots]


def _judge(
    lab: Lab,
    alone: Result,
    crowds: Sequence[Crowd],
    bandwidth: dict[Side, float],
    costs: dict[Side, TrainingCost | None],
) -> Finding:
    different = sum(
        not same_bits(result.side(side), alone.side(side))
        for crowd in crowds
        for result in crowd.results
        for side in SIDES
    )
    counted = all(_passes_add_up(alone, side) for side in SIDES)
    copies = sum(len(crowd.results) for crowd in crowds)
    gain = {side: crowds[-1].tokens_per_second(side) / crowds[0].tokens_per_second(side) for side in SIDES}
    post = alone.post.usage
    if not counted:
        sentence = "The passes of this run do not add up to one for each token; that must not happen."
    elif different:
        sentence = f"One pass for each token, but {different} of {2 * copies} copies did not give the same reply. {alone.post.engine.certification.capitalize()}."
    else:
        sentence = f"The post-trained reply took {post.prefill_passes} {'pass' if post.prefill_passes == 1 else 'passes'} to read {post.prompt_tokens} tokens and {post.output_tokens - 1} more to write {post.output_tokens}, one for each token after the first. {copies} of {copies} copies gave the same reply, and in this run {crowds[-1].copies} at once wrote {gain['post']:.1f} times as many tokens per second as one."
    return Finding(
        outcome="shown" if counted and not different else "not shown",
        sentence=sentence,
        details=(
            *(_bandwidth_detail(lab, alone, side, bandwidth[side]) for side in SIDES),
            *(_training_detail(alone, side, costs[side]) for side in SIDES),
        ),
        figures={
            "copies": copies,
            "different_copies": different,
            **{f"{side}_bytes_per_pass": _bytes(lab, side) for side in SIDES},
            **{f"{side}_copy_bandwidth_bytes_per_second": round(bandwidth[side]) for side in SIDES},
            **{f"{side}_speed_up_all_slots": round(gain[side], 2) for side in SIDES},
        },
        tables=(_ledger(alone), _crowd_table(crowds), *_training_table(alone, costs)),
        plots=(_crowd_plot(crowds),),
        exhibits=(Exhibit(label="The question", result=alone),),
    )


def _passes_add_up(result: Result, side: Side) -> bool:
    """The pass that reads the end of the prompt gives the first token; every other token takes a pass of its own."""
    usage = result.side(side).usage
    return usage.decode_passes == usage.output_tokens - 1 and usage.prefill_passes >= 1


def _bytes(lab: Lab, side: Side) -> int:
    return lab.lease.audit(side).bytes_per_pass()


def _milliseconds_per_token(result: Result, side: Side) -> float | None:
    usage = result.side(side).usage
    return 1000 * usage.seconds_decoding / usage.decode_passes if usage.decode_passes else None


def _ledger(result: Result) -> Table:
    """What one reply cost."""

    def row(side: Side) -> dict[str, Cell]:
        usage = result.side(side).usage
        return {
            "Model": SIDE_NAMES[side],
            "Prompt tokens": usage.prompt_tokens,
            "of them kept from an earlier prompt": usage.reused_tokens,
            "Passes to read": usage.prefill_passes,
            "Milliseconds each": round(1000 * usage.seconds_to_first_token / usage.prefill_passes, 1),
            "Tokens written": usage.output_tokens,
            "Passes to write": usage.decode_passes,
            "Milliseconds of each": rounded(_milliseconds_per_token(result, side), 1),
        }

    return Table.of("The ledger of one reply", SIDES, row)


def _bandwidth_detail(lab: Lab, result: Result, side: Side, bandwidth: float) -> str:
    each = _milliseconds_per_token(result, side)
    size = _bytes(lab, side)
    if each is None:
        return f"The {SIDE_NAMES[side]} reply was one token long, so there is no pass to time."
    needed = 1000 * size / bandwidth
    return f"Every pass of the {SIDE_NAMES[side]} model touches {size / 1e6:,.1f} MB of weights. This machine copied {bandwidth / 1e9:,.1f} GB in a second, so touching them once takes {needed:.2f} ms at least, and a pass took {each:.1f} ms ({needed / each:.0%} of it)."


def _training_detail(result: Result, side: Side, cost: TrainingCost | None) -> str:
    if cost is None:
        return f"The card of the {SIDE_NAMES[side]} model does not tell what its training cost."
    tokens, seconds = _spent(result, side)
    return f"Its card says that training the {SIDE_NAMES[side]} model took {cost.training_tokens:,} tokens and {cost.training_seconds / 60:,.0f} minutes ({cost.training_machine}). This reply took {tokens:,} tokens and {seconds:.2f} seconds."


def _spent(result: Result, side: Side) -> tuple[int, float]:
    """Tokens and seconds of one reply, from the start of reading."""
    usage = result.side(side).usage
    return usage.prompt_tokens + usage.output_tokens, usage.seconds_to_first_token + usage.seconds_decoding


def _training_table(result: Result, costs: dict[Side, TrainingCost | None]) -> list[Table]:
    def row(told: tuple[Side, TrainingCost]) -> dict[str, Cell]:
        side, cost = told
        tokens, seconds = _spent(result, side)
        return {
            "Model": SIDE_NAMES[side],
            "Tokens in training": cost.training_tokens,
            "Seconds of training": cost.training_seconds,
            "Machine": cost.training_machine,
            "Tokens of this reply": tokens,
            "Seconds of this reply": round(seconds, 2),
        }

    known = [(side, cost) for side, cost in costs.items() if cost is not None]
    return [Table.of("Training beside one reply", known, row)] if known else []


def _crowd_table(crowds: Sequence[Crowd]) -> Table:
    return Table.of(
        "The same question to several copies at once",
        crowds,
        lambda crowd: {
            "At once": crowd.copies,
            "Seconds for all, fastest round": round(crowd.seconds, 2),
            "Base tokens per second": round(crowd.tokens_per_second("base"), 1),
            "Post-trained tokens per second": round(crowd.tokens_per_second("post"), 1),
            "Different replies": len({(result.base.token_ids, result.post.token_ids) for result in crowd.results}) - 1,
        },
    )


def _crowd_plot(crowds: Sequence[Crowd]) -> Plot:
    return Plot(
        title="Tokens per second, all copies together",
        x_label="copies at once",
        y_label="tokens per second",
        series=by_side(lambda side: ((float(crowd.copies), crowd.tokens_per_second(side)) for crowd in crowds)),
    )
