"""Experiment "repeat": same inputs, same output. Alone, among neighbours, in a new process; then what the seed and the temperature do."""

import random
from collections.abc import Sequence

from ..difference import first_divergence
from ..errors import UserError
from ..receipts import smallest_margin
from ..steps import Steps, watch
from ..types import SIDE_NAMES, SIDES, Comparison, Result, Side, named
from .lab import Lab, in_words, same_bits
from .values import Exhibit, Finding, Plot, Step, Table, by_side

PROMPT = "Tell me a story about a dog."
REPLY_TOKENS = 24
REPEATS = 10
TEMPERATURES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
OTHER_SEEDS = (1, 2, 3)
_NEIGHBOUR_WORDS = ("sun", "rain", "dog", "house", "red", "seven", "why", "tell", "story", "river", "names", "king")


def run(lab: Lab) -> Steps[Step, Finding]:
    asked = lab.comparison(PROMPT, max_new_tokens=REPLY_TOKENS)
    alone = yield from lab.ask(f"The same comparison {REPEATS} times, alone", [asked] * REPEATS, at_once=1)
    crowded = yield from _among_neighbours(lab, asked)
    elsewhere, why_not = yield from _in_a_new_process(lab, asked)
    seeds = yield from lab.ask(
        "The same prompt with other seeds",
        [lab.comparison(PROMPT, max_new_tokens=REPLY_TOKENS, seed=seed) for seed in OTHER_SEEDS],
    )
    greedy = yield from lab.ask(
        "Temperature 0 with different seeds",
        [lab.comparison(PROMPT, max_new_tokens=REPLY_TOKENS, seed=seed, temperature=0) for seed in OTHER_SEEDS],
    )
    swept = yield from lab.ask(
        "The temperature from low to high, one seed",
        [lab.comparison(PROMPT, max_new_tokens=REPLY_TOKENS, temperature=temperature) for temperature in TEMPERATURES],
    )
    return _judge(alone, crowded, elsewhere, why_not, seeds, greedy, swept)


def _among_neighbours(lab: Lab, asked: Comparison) -> Steps[Step, tuple[Result, ...]]:
    """The comparison again and again, with random others in every other slot; only its own results."""
    draw = random.Random()
    batch = []
    for _ in range(REPEATS):
        others = [_neighbour(lab, draw) for _ in range(max(1, lab.slots - 1))]
        others.insert(draw.randrange(len(others) + 1), asked)
        batch += others
    results = yield from lab.ask(f"{REPEATS} times among random neighbours", batch)
    return tuple(result for comparison, result in zip(batch, results, strict=True) if comparison is asked)


def _neighbour(lab: Lab, draw: random.Random) -> Comparison:
    prompt = " ".join(draw.choices(_NEIGHBOUR_WORDS, k=draw.randint(2, 20)))
    return lab.comparison(
        prompt,
        seed=draw.randrange(1_000_000),
        temperature=draw.choice((0.5, 1.0, 1.5)),
        max_new_tokens=draw.randint(4, REPLY_TOKENS),
    )


def _in_a_new_process(lab: Lab, asked: Comparison) -> Steps[Step, tuple[Result | None, str]]:
    """The result from a new process, or None and why there is none."""
    doing = "Once more in a new process, which loads the weights again"
    yield Step(text=doing, done=0, total=1)
    try:
        result = yield from watch(lab.lease.elsewhere(asked), lambda nothing: Step(text=doing, done=0, total=1))
    except UserError as error:
        yield Step(text=f"{doing}: left out, {error}", done=1, total=1)
        return None, str(error)
    yield Step(text=doing, done=1, total=1)
    return result, ""


def _judge(
    alone: Sequence[Result],
    crowded: Sequence[Result],
    elsewhere: Result | None,
    why_not: str,
    seeds: Sequence[Result],
    greedy: Sequence[Result],
    swept: Sequence[Result],
) -> Finding:
    reference = alone[0]
    repeats = {
        "alone": list(alone),
        "among random neighbours": list(crowded),
        **({"in a new process": [elsewhere]} if elsewhere is not None else {}),
    }
    equal = {
        how: {side: sum(same_bits(result.side(side), reference.side(side)) for result in results) for side in SIDES}
        for how, results in repeats.items()
    }
    broken = [how for how, results in repeats.items() if any(equal[how][side] < len(results) for side in SIDES)]
    moved = [side for side in SIDES if any(_first(result, greedy[0], side) is not None for result in greedy)]
    total = sum(map(len, repeats.values()))
    if broken:
        sentence = f"The same inputs did not always give the same output here: replies differed {' and '.join(broken)}. {_certification(reference)}"
    elif moved:
        sentence = f"All {total} repetitions were identical, but at temperature 0 the {named(moved)} model followed the seed; that must not happen."
    else:
        sentence = f"Same inputs, same output: {total} of {total} repetitions are identical on both sides, token by token and bit by bit, and at temperature 0 the seed changes nothing."
    return Finding(
        outcome="not shown" if broken or moved else "shown",
        sentence=sentence,
        details=(
            _process_detail(elsewhere, why_not, reference),
            _seed_detail(seeds, reference),
            *(_margin_detail(reference, side) for side in SIDES),
            _certification(reference),
        ),
        figures={
            "repetitions": total,
            **{f"{side}_identical": sum(equal[how][side] for how in repeats) for side in SIDES},
            "new_process": "identical"
            if elsewhere is not None and "in a new process" not in broken
            else why_not or "different",
            **{f"{side}_smallest_margin": smallest_margin(reference.side(side).margins) for side in SIDES},
            **{f"{side}_certified": reference.side(side).engine.certified for side in SIDES},
        },
        tables=(_repeat_table(repeats, equal), _sweep_table(swept)),
        plots=(_sweep_plot(swept),),
        exhibits=(
            Exhibit(label="The comparison that was repeated", result=reference),
            Exhibit(label=f"Another seed: {OTHER_SEEDS[0]}", result=seeds[0]),
            Exhibit(label="Temperature 0", result=greedy[0]),
            Exhibit(label=f"Temperature {TEMPERATURES[-1]}", result=swept[-1]),
        ),
    )


def _first(a: Result, b: Result, side: Side) -> int | None:
    return first_divergence(a.side(side).token_ids, b.side(side).token_ids)


def _certification(result: Result) -> str:
    levels = {side: result.side(side).engine.certification for side in SIDES}
    if levels["base"] == levels["post"]:
        return f"Checked when the models were loaded, for both: {levels['base']}."
    return f"Checked when the models were loaded: {levels['base']} (base), {levels['post']} (post-trained)."


def _process_detail(elsewhere: Result | None, why_not: str, reference: Result) -> str:
    if elsewhere is None:
        return f"The repetition in a new process was left out: {why_not}."
    if any(elsewhere.side(side).engine != reference.side(side).engine for side in SIDES):
        return "The new process had another engine fingerprint (slots, context or threads), so its bits were not promised to be the same."
    return "The new process read the weights from the disk again and had the same engine fingerprint."


def _seed_detail(seeds: Sequence[Result], reference: Result) -> str:
    changed = {side: sum(_first(result, reference, side) is not None for result in seeds) for side in SIDES}
    return f"Another seed is another input: it changed the base reply in {changed['base']} of {len(seeds)} tries and the post-trained reply in {changed['post']}."


def _margin_detail(result: Result, side: Side) -> str:
    margin = smallest_margin(result.side(side).margins)
    if margin is None:
        return f"The {SIDE_NAMES[side]} model never had a second choice."
    return f"The closest decision of the {SIDE_NAMES[side]} reply was won by {margin:.4f}: rounding errors smaller than that could not have changed it."


def _repeat_table(repeats: dict[str, list[Result]], equal: dict[str, dict[Side, int]]) -> Table:
    return Table.of(
        "How often the reply was the same",
        repeats,
        lambda how: {
            "How it was asked": how,
            "Times": len(repeats[how]),
            "Same base reply": equal[how]["base"],
            "Same post-trained reply": equal[how]["post"],
        },
    )


def _kept(swept: Sequence[Result], result: Result, side: Side) -> int:
    """How many tokens are the same as at the lowest temperature before the replies diverge."""
    step = _first(result, swept[0], side)
    return len(result.side(side).token_ids) if step is None else step


def _sweep_table(swept: Sequence[Result]) -> Table:
    return Table.of(
        "One seed, rising temperature",
        swept,
        lambda result: {
            "Temperature": result.comparison.sampling.temperature,
            "Base reply": in_words(result.base),
            "Same tokens, base": _kept(swept, result, "base"),
            "Post-trained reply": in_words(result.post),
            "Same tokens, post-trained": _kept(swept, result, "post"),
        },
    )


def _sweep_plot(swept: Sequence[Result]) -> Plot:
    return Plot(
        title="How long the reply stays what it was at temperature 0",
        x_label="temperature",
        y_label="same tokens at the beginning",
        series=by_side(
            lambda side: (
                (result.comparison.sampling.temperature, float(_kept(swept, result, side))) for result in swept
            )
        ),
    )
