"""The conversations that post-training learns from, and a table of them.

`python -m checkpoints.recipe.conversations --corpus ../shared/corpus` prints how many there are of
each intent, with examples. Everything is drawn with a fixed seed; what the probes use is left out.
"""

import argparse
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from checkpoints.recipe import documents, everyday, from_corpus
from checkpoints.recipe import multi_turn as multi
from checkpoints.recipe import single_turn as single
from checkpoints.recipe.draw import Conversation, Draw, Part, names

SEED = 101
LONGEST = 1800  # characters of one conversation, about 450 tokens

Maker = Callable[[Draw], Conversation]

# Maker and how many conversations of it to make at most.
WRITTEN: tuple[tuple[Maker, int], ...] = (
    (single.one_fact, 9000), (single.two_facts_at_once, 700), (single.true_or_false, 1100), (multi.several_questions, 1800),
    (single.definition, 4000), (single.story, 1400), (single.poem, 350), (single.joke, 400),
    (single.passage_and_question, 6000), (everyday.long_passage, 6000), (multi.asked_again_about_a_text, 2500), (everyday.told_against, 3500),
    (single.explanation, 1200), (everyday.why, 2400), (everyday.how_to, 2000), (everyday.together, 1400), (everyday.counted_sentences, 1500),
    (everyday.yes_or_no, 1300), (everyday.tips, 700), (everyday.idea, 230), (everyday.roughly, 300), (everyday.recipe, 250), (everyday.difference, 700), (everyday.famous, 800),
    (single.arithmetic, 14000), (single.bigger_number, 500), (single.counting, 400), (single.spelling, 400),
    (everyday.copied, 8000), (everyday.voice, 900), (everyday.odd_wish, 500),
    (single.rhyme, 250), (single.synonym, 350), (single.sentence_with, 250), (single.repeated, 300), (single.compared, 250),
    (single.kind_of, 250), (single.translation, 250), (single.note, 400),
    (single.asked_list, 8000), (single.open_list, 250), (single.one_item, 300), (single.whole_set, 130),
    (multi.same_group, 2500), (multi.there, 600), (multi.about_a_list, 1800), (multi.about_the_chat, 700), (multi.longer_or_shorter, 300),
    (multi.on_with_a_sum, 1500), (multi.thanked, 250),
    (multi.remembered, 5000), (multi.renamed, 400), (multi.never_told, 450),
    (multi.corrected_and_recalled, 6000), (multi.corrected, 600), (multi.corrected_then_other, 900), (multi.doubted, 350), (multi.called_wrong, 400),
    (single.later_years, 1200), (multi.insisted, 600), (single.earlier_years, 350), (single.identity, 5000), (single.unknown, 1800),
    (single.small_talk, 2000), (single.refusal, 3800), (single.benign, 3600), (everyday.harmless, 2600), (everyday.harmful, 2600), (single.wrapped, 1600),
    (multi.persona, 1200), (multi.with_plain_system, 500), (multi.under_a_rule, 1000),
    (single.begun_sentence, 600), (single.begun_everyday, 250), (single.begun_story, 200), (single.begun_poem, 80), (single.begun_list, 250), (single.begun_other, 160),
)  # fmt: skip

CORPUS: tuple[tuple[Callable[[documents.Corpus, Draw], Iterator[Conversation]], int], ...] = (
    (from_corpus.definitions, 7000), (from_corpus.stories, 500), (from_corpus.explanations, 300), (from_corpus.instructions, 600), (from_corpus.tales_to_read, 350),
)  # fmt: skip


def training(corpus: documents.Corpus) -> list[Conversation]:
    """Everything to learn from, in random order, each conversation once."""
    all_names = tuple(dict.fromkeys((*names(), *documents.corpus_names(corpus))))
    return shuffled([*written_conversations(all_names), *corpus_conversations(corpus, all_names)])


def written_conversations(of_names: tuple[str, ...] | None = None) -> list[Conversation]:
    """The part that needs no corpus."""
    return shuffled(
        [
            conversation
            for maker, count in WRITTEN
            for conversation in several(maker, count, draws(maker.__name__, "training", of_names))
        ]
    )


def corpus_conversations(corpus: documents.Corpus, of_names: tuple[str, ...]) -> Iterator[Conversation]:
    for reader, count in CORPUS:
        found = unique(reader(corpus, draws(reader.__name__, "training", of_names)))
        yield from random.Random(SEED).sample(found, min(count, len(found)))


def draws(purpose: str, part: Part, of_names: tuple[str, ...] | None = None, seed: int = SEED) -> Draw:
    """Choices of their own for each purpose, so that changing one intent leaves the others alone."""
    return Draw(random.Random(f"{seed} {purpose}"), part, of_names or names())


def several(maker: Maker, count: int, draw: Draw) -> list[Conversation]:
    """`count` different conversations, or as many as four times as many tries give."""
    made: dict[tuple, Conversation] = {}
    for _ in range(4 * count):
        conversation = maker(draw)
        if sum(len(text) for _, text in conversation.messages) <= LONGEST:
            made.setdefault(conversation.messages, conversation)
        if len(made) == count:
            break
    return list(made.values())


def unique(conversations: Iterable[Conversation]) -> list[Conversation]:
    return list(
        {one.messages: one for one in conversations if sum(len(text) for _, text in one.messages) <= LONGEST}.values()
    )


def shuffled(conversations: list[Conversation]) -> list[Conversation]:
    kept = unique(conversations)
    random.Random(SEED).shuffle(kept)
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m checkpoints.recipe.conversations", description=__doc__)
    parser.add_argument(
        "--corpus", type=Path, default=Path("../shared/corpus"), help="folder that holds the files of sources.toml"
    )
    parser.add_argument("--examples", type=int, default=3, help="examples to print of each intent")
    arguments = parser.parse_args()
    conversations = training(documents.Corpus(arguments.corpus))
    print_table(conversations, arguments.examples)


def print_table(conversations: list[Conversation], examples: int) -> None:
    by_intent: dict[str, list[Conversation]] = {}
    for conversation in conversations:
        by_intent.setdefault(conversation.intent, []).append(conversation)
    for intent, rows in sorted(by_intent.items(), key=lambda item: -len(item[1])):
        characters = sum(len(text) for row in rows for _, text in row.messages) / len(rows)
        print(f"\n== {intent}: {len(rows)} ({len(rows) / len(conversations):.1%}), {characters:.0f} characters each")
        for row in rows[:examples]:
            print("\n".join(f"  {role:>9}: {text.replace(chr(10), ' / ')}" for role, text in row.messages) + "\n")
    print(
        f"{len(conversations)} conversations, {sum(len(text) for row in conversations for _, text in row.messages):,} characters"
    )


if __name__ == "__main__":
    main()
