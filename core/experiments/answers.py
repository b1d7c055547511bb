"""Experiment "answers": pre-training continues, post-training answers. Both sets of weights under both framings, and the end of the turn."""

from collections import Counter
from dataclasses import dataclass
from itertools import product
from typing import get_args

from ..errors import UserError
from ..judging import Behaviour, behaviour, like_an_assistant
from ..steps import Steps
from ..types import SIDE_NAMES, SIDES, Framing, Result, Side
from .lab import Lab, as_rates, in_words, mean, rounded
from .values import Cell, Exhibit, Finding, Step, Table

REPLY_TOKENS = 40
TEMPERATURE = 0.3
FRAMINGS: tuple[Framing, Framing] = ("document", "chat")
PROMPTS: dict[str, tuple[str, ...]] = {
    "question": ("What is the capital of Italy?", "How do birds fly?", "What is a lake?"),
    "instruction": ("Name three animals.", "Tell me a story about a frog.", "Explain what rain is."),
    "half sentence": ("The old house stood on a hill and", "She opened the door and", "The best thing about summer is"),
    "list": ("Apples, pears,", "1. Dogs\n2. Cats\n3.", "Colors:\n- red\n-"),
}

Place = tuple[Side, Framing]
PLACES: tuple[Place, ...] = tuple(product(SIDES, FRAMINGS))


@dataclass(frozen=True)
class Ending:
    """Mean log-probability (nats) of the end of the turn after the assistant's own answers, and after how many."""

    logprob: float | None
    answers: int


def run(lab: Lab) -> Steps[Step, Finding]:
    prompts = [prompt for kind in PROMPTS.values() for prompt in kind]
    lab.lease.kin.need_same_ids("This experiment")
    results: dict[Framing, tuple[Result, ...]] = {}
    for framing in FRAMINGS:
        asked = [
            lab.comparison(prompt, framing=framing, max_new_tokens=REPLY_TOKENS, temperature=TEMPERATURE)
            for prompt in prompts
        ]
        results[framing] = yield from lab.ask(f"Both models under the {framing} framing", asked)
    doing = "How likely is the end of the turn after each answer?"
    endings = yield from lab.each(doing, PLACES, lambda place: _ending(lab, place, results))
    return _judge(results, endings)


def _ending(lab: Lab, place: Place, results: dict[Framing, tuple[Result, ...]]) -> Ending:
    """Teacher-forces every answer that the assistant ended by itself (post-trained weights, chat template) in this place."""
    side, framing = place
    scores = []
    for result, answer in zip(results[framing], results["chat"], strict=True):
        if answer.post.finish_reason == "eos":
            try:
                asked = result.side(side).prompt_token_ids
                scores.append(lab.lease.logprobs(side, asked, answer.post.token_ids)[-1])
            except UserError:  # this model has no such token, or the answer does not fit behind this prompt
                continue
    return Ending(mean(scores), len(scores))


def _judge(results: dict[Framing, tuple[Result, ...]], endings: dict[Place, Ending]) -> Finding:
    judged = {place: _behaviours(results, place) for place in PLACES}
    total = len(results["chat"])
    like = {place: sum(map(like_an_assistant, judged[place])) for place in PLACES}
    equal = {
        framing: sum(result.base.token_ids == result.post.token_ids for result in results[framing])
        for framing in FRAMINGS
    }
    by_weights = {framing: (like["post", framing] - like["base", framing]) / total for framing in FRAMINGS}
    no_difference = all(count == total for count in equal.values())
    gap = (like["post", "chat"] - like["base", "document"]) / total
    shown = not no_difference and gap >= 0.5 and max(by_weights.values()) >= 0.25
    counts = f"The post-trained model under its template answered or declined {like['post', 'chat']} of {total} prompts; the base on bare text {like['base', 'document']} of {total}."
    rates = {
        "the post-trained model under its template": (like["post", "chat"], total),
        "the base on bare text": (like["base", "document"], total),
    }
    if no_difference:
        sentence = f"No difference: under the same framing both sets of weights wrote the same reply {sum(equal.values())} of {2 * total} times. {counts} What differs there is the template."
    elif shown:
        sentence = f"{counts} With the framing the same, the weights alone make the difference (bare text: {like['base', 'document']} to {like['post', 'document']}; chat template: {like['base', 'chat']} to {like['post', 'chat']})."
    else:
        sentence = f"This pair hardly shows it. {counts} With the framing the same, the weights move that number from {like['base', 'document']} to {like['post', 'document']} on bare text and from {like['base', 'chat']} to {like['post', 'chat']} under the template."
    return Finding(
        outcome="shown" if shown else "not shown",
        sentence=sentence,
        details=(*_ending_details(endings), as_rates(rates)),
        figures={
            "prompts": total,
            "no_difference": no_difference,
            **{f"{side}_{framing}_like_an_assistant": like[side, framing] for side, framing in PLACES},
            **{f"{framing}_same_replies": equal[framing] for framing in FRAMINGS},
            **{
                f"{side}_{framing}_end_of_turn_logprob": rounded(endings[side, framing].logprob)
                for side, framing in PLACES
            },
        },
        tables=(_grid(results, judged, endings), *(_replies(results, judged, framing) for framing in FRAMINGS)),
        exhibits=tuple(
            Exhibit(label=f"{result.comparison.prompt.splitlines()[0]} ({framing} framing for both)", result=result)
            for result_at in (0, 3, 6)
            for framing, result in ((framing, results[framing][result_at]) for framing in FRAMINGS)
        ),
    )


def _behaviours(results: dict[Framing, tuple[Result, ...]], place: Place) -> list[Behaviour]:
    side, framing = place
    return [behaviour(result.comparison.prompt, result.side(side).text) for result in results[framing]]


def _ending_details(endings: dict[Place, Ending]) -> tuple[str, ...]:
    base, post = endings["base", "chat"], endings["post", "chat"]
    if post.logprob is None:
        return (
            "The post-trained model ended none of its replies by itself before its limit of tokens, so there is no end of a turn to measure.",
        )
    told = f"After the {post.answers} answers that it ended by itself, the post-trained model gives the end of the turn a log-probability of {post.logprob:.2f}"
    if base.logprob is None:
        return (f"{told}; the base model cannot be asked, because it does not have that token.",)
    return (
        f"{told}, and the base model, behind the very same tokens, {base.logprob:.2f}. The nearer to zero, the surer.",
    )


def _grid(
    results: dict[Framing, tuple[Result, ...]], judged: dict[Place, list[Behaviour]], endings: dict[Place, Ending]
) -> Table:
    def row(place: Place) -> dict[str, Cell]:
        side, framing = place
        counts = Counter(judged[place])
        return {
            "Weights": SIDE_NAMES[side],
            "Framing": framing,
            **{each.capitalize(): counts[each] for each in get_args(Behaviour)},
            "Ends its turn": sum(result.side(side).finish_reason == "eos" for result in results[framing]),
            "Log-probability of the end of the turn": rounded(endings[place].logprob),
        }

    return Table.of("Weights and framing, two by two", PLACES, row)


def _replies(
    results: dict[Framing, tuple[Result, ...]], judged: dict[Place, list[Behaviour]], framing: Framing
) -> Table:
    kinds = [kind for kind, prompts in PROMPTS.items() for _ in prompts]
    replies = results[framing]
    return Table.of(
        f"Every reply under the {framing} framing",
        range(len(replies)),
        lambda i: {
            "Kind": kinds[i],
            "Prompt": replies[i].comparison.prompt,
            "Base reply": in_words(replies[i].base),
            "The base": judged["base", framing][i],
            "Post-trained reply": in_words(replies[i].post),
            "The post-trained": judged["post", framing][i],
        },
    )
