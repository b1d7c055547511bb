"""Held-out questions that measure what post-training changed.

Each probe is a conversation of the held-out side of the split with the assistant's turns taken out:
no message of a probe appears in training. The model's own replies go in between; the last is judged.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from checkpoints.recipe import conversations, everyday
from checkpoints.recipe import multi_turn as multi
from checkpoints.recipe import single_turn as single
from checkpoints.recipe.draw import Conversation, Draw

SEED = (
    11  # drawn anew with the second generation, whose conversations were written by who had read replies of the first
)


@dataclass(frozen=True)
class Probe:
    """What a person says, turn by turn, and what the last reply should hold."""

    kind: str
    turns: tuple[str, ...]
    system: str = ""
    expected: Mapping[str, str] = field(default_factory=dict)


def forgotten(draw: Draw) -> Conversation:
    """The question of a correction in a fresh chat, where the trained answer is right again."""
    fact = draw.one(multi.correctable())
    expected = {"value": fact.value, "not": multi.wrong_value(draw, fact)}
    return single.talk(
        "corrections", draw.dress(single.ask_fact(draw, fact)), single.state(draw, fact), expected=expected
    )


def begun(draw: Draw) -> Conversation:
    """Prompts that a base model continues: half sentences, beginnings, and plain questions and requests."""
    return draw.one(
        (
            single.begun_sentence,
            single.begun_story,
            single.begun_list,
            single.one_fact,
            single.asked_list,
            single.definition,
            single.story,
            single.explanation,
        )
    )(draw)


def identity(draw: Draw) -> Conversation:
    return multi.persona(draw) if draw.chance(0.25) else single.identity(draw)


def cutoff(draw: Draw) -> Conversation:
    return draw.one((single.later_years, multi.insisted))(draw)


def follow_up(draw: Draw) -> Conversation:
    return draw.one(
        (multi.same_group, multi.same_group, multi.there, multi.about_a_list, multi.about_the_chat, multi.on_with_a_sum)
    )(draw)


def name_recalled(draw: Draw) -> Conversation:
    return draw.one((multi.remembered, multi.remembered, multi.remembered, multi.renamed))(draw)


def over_refusal(draw: Draw) -> Conversation:
    """Look-alikes by word, by topic and by form."""
    return draw.one((single.benign, everyday.harmless, everyday.harmless))(draw)


def reading(draw: Draw) -> Conversation:
    return draw.one((single.passage_and_question, everyday.long_passage, multi.asked_again_about_a_text))(draw)


KINDS: dict[str, Callable[[Draw], Conversation]] = {
    "fact": single.one_fact,
    "correction_recalled": multi.corrected_and_recalled,
    "correction_forgotten": forgotten,
    "name_recalled": name_recalled,
    "list_format": single.asked_list,
    "refusal": single.refusal,
    "over_refusal": over_refusal,
    "cutoff": cutoff,
    "identity": identity,
    "slip": single.wrapped,
    "reading": reading,
    "definition": single.definition,
    "story": single.story,
    "follow_up": follow_up,
    "arithmetic": single.sum_to_twenty,
    "unknown": single.unknown,
    "copying": everyday.copied,
    "told": everyday.told_against,
    "sentences": everyday.counted_sentences,
    "continue_or_answer": begun,
}


def probes(per_kind: int = 100, seed: int = SEED) -> list[Probe]:
    """`per_kind` probes of every kind that differ in what the person says, or as many as its held-out wordings give."""
    return [probe for kind, maker in KINDS.items() for probe in different(kind, maker, per_kind, seed)]


def different(kind: str, maker: Callable[[Draw], Conversation], count: int, seed: int) -> list[Probe]:
    made = conversations.several(maker, 3 * count, conversations.draws(kind, "held_out", seed=seed))
    by_turns = {(probe.system, probe.turns): probe for probe in (probe_of(kind, one) for one in reversed(made))}
    return list(reversed(by_turns.values()))[:count]


def probe_of(kind: str, conversation: Conversation) -> Probe:
    """A conversation without its replies."""
    return Probe(kind, conversation.said_by("user"), "".join(conversation.said_by("system")), conversation.expected)
