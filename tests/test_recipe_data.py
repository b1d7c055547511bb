"""The conversations of post-training, the probes held out from them, and the judges of replies.

Nothing here needs the corpus: a small one with the same interface is made below.
"""

import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest

from checkpoints.recipe import (
    conversations,
    documents,
    draw,
    everyday,
    from_corpus,
    judges,
    multi_turn,
    probes,
    single_turn,
)
from checkpoints.recipe.draw import Conversation, normal
from core import judging

pytestmark = pytest.mark.slow

SMALL_CORPUS: dict[tuple[str, str], list[dict[str, object]]] = {
    ("snakes_llama31", "all.jsonl.xz"): [
        {"kind": "generated-child", "prompt": "Tell the child-appropriate tale called `The Red Boat`.", "answer": "Once there was a boy with a red boat. He loved the boat. " * 8},
        {"kind": "llama-explanations", "prompt": "Explain rivers of ice in simple terms.", "answer": "**Ice**\n\nRivers of ice are a kind of river that once was snow on a hill."},
    ],
    ("stories_cc", "african_storybook.jsonl.xz"): [{"title": "The boat", "text": "The boat was red. A boy had the red boat on the hill. " * 6}],
    ("stories_cc", "pratham.jsonl.xz"): [{"title": "Snow", "text": "Boating is a kind of river song. Rivers are ice that was snow."}],
    ("fairytaleqa", "stories.jsonl.xz"): [{"story": "boat-story", "text": "A boy had a little red boat. He took the boat to the river and sang a song."}],
    ("fairytaleqa", "qa.jsonl.xz"): [{"story": "boat", "q": "Where did the boy bring his little boat before he sang?", "a": "to the river"}],
    ("oewn", "synsets.jsonl.xz"): [{"id": "1-a", "file": "adj.all", "words": ["little"], "gloss": "kind of red", "ex": []}],
}  # fmt: skip


SLOT_VALUES = {
    value
    for kind in ("thing", "animal", "colour")
    for text in (draw.table("slots")[kind],)
    for value in draw.parts(text)
}


class SmallCorpus(documents.Corpus):
    """The interface of the corpus, with a handful of rows."""

    def __init__(self) -> None:
        super().__init__(Path())

    def read(self, source: str, name: str) -> str:
        if name.endswith("firstNames.json"):
            return json.dumps({"firstNames": ["Amara", "Bjorn", "Callum", "Delia", "Enzo"]})
        if source == "rasbt_instruct":
            return json.dumps(
                [{"instruction": "Turn this into one word.", "input": "very cold", "output": "Freezing."}]
            )
        return "\n".join(json.dumps(row) for row in SMALL_CORPUS[source, name])


@pytest.fixture(scope="module")
def written() -> list[Conversation]:
    return conversations.written_conversations()


@pytest.fixture(scope="module")
def all_probes() -> list[probes.Probe]:
    return probes.probes(per_kind=100) + probes.probes(per_kind=60, seed=8)


def made(maker: conversations.Maker, count: int, part: draw.Part = "training") -> list[Conversation]:
    return conversations.several(maker, count, conversations.draws("test", part))


def kept(kind: str, reply: str, **expected: str) -> bool:
    return judges.judge(probes.Probe(kind, ("What is it?",), expected=expected), reply)


# Conversations


def test_a_conversation_alternates_and_ends_with_the_assistant(written: list[Conversation]) -> None:
    for conversation in written:
        roles = [role for role, _ in conversation.messages]
        turns = roles[1:] if roles[0] == "system" else roles
        assert turns == ["user", "assistant"] * (len(turns) // 2), conversation
        assert conversation.learn_from == 0


def test_no_conversation_comes_twice_and_there_are_enough(written: list[Conversation]) -> None:
    assert len({conversation.messages for conversation in written}) == len(written) > 40_000


def test_the_same_seed_makes_the_same_conversations(written: list[Conversation]) -> None:
    sample = [maker for maker, _ in conversations.WRITTEN[::6]]
    assert [made(maker, 20) for maker in sample] == [made(maker, 20) for maker in sample]
    assert conversations.shuffled(written) == conversations.shuffled(list(written))


def test_texts_are_short_plain_and_filled_in(written: list[Conversation]) -> None:
    for conversation in written:
        assert sum(len(text) for _, text in conversation.messages) <= conversations.LONGEST
        for _, text in conversation.messages:
            assert text.isascii() and text == text.strip() and len(text) < 1200, text
            assert not re.search(r"[{}|]|  |\b(the|is|of|to) \1\b", text), text


def test_articles_fit_the_words_after_them(written: list[Conversation]) -> None:
    wrong = re.compile(r"\b(?:a (?!one\b|uni|eu|use)[aeiou]\w{2,}|an [bcdfgjklmnpqrstvwxyz]\w{2,})", re.IGNORECASE)
    for conversation in written:
        if conversation.intent not in ("facts", "corrections"):  # letters of the alphabet, invented words
            for text in conversation.said_by("assistant"):
                assert not wrong.search(text), text


def test_no_intent_is_more_than_a_third_and_all_are_there(written: list[Conversation]) -> None:
    counts = Counter(conversation.intent for conversation in written)
    assert max(counts.values()) < len(written) / 3
    assert {
        "facts",
        "definitions",
        "reading",
        "stories",
        "poems",
        "jokes",
        "arithmetic",
        "lists",
        "follow-ups",
        "remembering",
        "corrections",
    } <= counts.keys()
    assert {
        "cutoff",
        "identity",
        "unknown names",
        "small talk",
        "refusals",
        "benign look-alikes",
        "wrappers",
        "system prompts",
        "unfinished",
    } <= counts.keys()


def test_a_correction_never_repeats_the_true_value(written: list[Conversation]) -> None:
    for conversation in made(multi_turn.corrected_and_recalled, 400):
        value, true = conversation.expected["value"], conversation.expected["not"]
        assert normal(value) != normal(true)
        assert judges.holds(conversation.messages[-1][1], value)


def test_a_fact_keeps_its_value_outside_of_corrections() -> None:
    for conversation in made(single_turn.one_fact, 400):
        assert judges.holds(conversation.messages[-1][1], conversation.expected["value"])


def test_a_list_has_as_many_items_as_asked_for() -> None:
    for conversation in [*made(single_turn.asked_list, 400), *made(single_turn.whole_set, 60)]:
        assert judges.is_list(conversation.messages[-1][1], int(conversation.expected["count"]))


def test_sums_are_right() -> None:
    for conversation in made(single_turn.arithmetic, 300):
        if found := re.fullmatch(r"(\d+) ([-+x]) (\d+) = (\d+)\.", conversation.messages[-1][1]):
            x, y, z = int(found[1]), int(found[3]), int(found[4])
            assert z == {"+": x + y, "-": x - y, "x": x * y}[found[2]]


def test_a_made_up_word_is_copied_letter_by_letter() -> None:
    for part in ("training", "held_out"):
        for conversation in made(everyday.copied, 400, part):
            (_, asked), (_, reply) = conversation.messages
            value = conversation.expected["value"]
            assert judges.holds(reply, value)
            letters = asked.lower().replace(" ", "")
            assert value.replace(" ", "").lower() in letters or value.split()[0].lower() in letters


def test_made_up_words_of_probes_are_in_no_training_conversation() -> None:
    told = {row.expected["value"].lower() for row in made(everyday.copied, 400)}
    assert not any(
        draw.held_out(word) for word in told if " " not in word and len(word) > 3 and word not in SLOT_VALUES
    )
    probed = {row.expected["value"].lower() for row in made(everyday.copied, 400, "held_out")}
    assert all(draw.held_out(word) for word in probed if " " not in word and len(word) > 3 and word not in SLOT_VALUES)


def test_a_told_fact_is_used_against_the_trained_one() -> None:
    for conversation in made(everyday.told_against, 300):
        value, true = conversation.expected["value"], conversation.expected["not"]
        assert normal(value) != normal(true) and judges.holds(conversation.messages[-1][1], value)
        assert normal(value) in normal(conversation.messages[0][1])


def test_as_many_sentences_as_asked_for() -> None:
    for conversation in made(everyday.counted_sentences, 300):
        reply = conversation.messages[-1][1]
        assert len(re.findall(r"[.!?](?: |$)", reply)) == int(conversation.expected["count"]), reply


def test_a_question_on_a_long_passage_has_one_answer_in_it() -> None:
    for conversation in made(everyday.long_passage, 300):
        (_, asked), (_, reply) = conversation.messages
        assert judges.holds(reply, conversation.expected["value"])
        assert normal(conversation.expected["value"]) in normal(asked)


def test_there_are_enough_whys_how_tos_and_look_alikes() -> None:
    assert len(draw.table("whys")["rows"]) >= 150
    assert all(1 <= len(re.findall(r"[.!?](?: |$)", row.split(" = ")[2])) <= 3 for row in draw.table("whys")["rows"])
    assert len(draw.table("howtos")["rows"]) >= 100
    asked = {probe.turns for probe in probes.different("over_refusal", probes.over_refusal, 200, seed=7)}
    assert len(asked) == 200


def test_everyday_tables_hold_each_row_once_and_enough_wordings() -> None:
    tables = [draw.table(name) for name in ("whys", "howtos", "harmless", "together", "yesno", "sentences", "voices")]
    tables += draw.table("advice").values()
    for table in tables:
        for key, lines in table.items():
            if isinstance(lines, tuple) and isinstance(lines[0], str):
                assert len(set(map(normal, lines))) == len(lines), key
                assert not key.endswith(("ask", "frames")) or len(lines) >= 8, key
                assert key != "rows" or all(line.count(" = ") in (1, 2) for line in lines)


def test_whole_acts_are_held_out_from_the_look_alikes() -> None:
    rows = draw.table("harmless")["rows"]
    assert len(rows) == len({row.split(" = ")[0] for row in rows}) >= 150
    acts = [row.split(" = ")[0] for row in draw.split(rows, "held_out")]
    said = " ".join(normal(row.messages[0][1]) for row in made(everyday.harmless, 600))
    assert len(acts) >= 15 and not any(f" {normal(act)} " in f" {said} " for act in acts)


def test_a_story_is_about_what_was_asked_for_and_of_the_right_length() -> None:
    for conversation in made(single_turn.story, 300):
        reply = conversation.messages[-1][1]
        assert 55 <= len(reply.split()) <= 140
        assert kept("story", reply, about=conversation.expected["about"])


def test_every_judge_says_yes_to_the_replies_of_training() -> None:
    for kind, maker in probes.KINDS.items():
        for part in ("training", "held_out"):
            rows = made(maker, 150, part)
            passed = [judges.judge(probes.probe_of(kind, row), row.messages[-1][1]) for row in rows]
            assert sum(passed) >= 0.98 * len(rows), (
                kind,
                [row for row, ok in zip(rows, passed, strict=True) if not ok][:3],
            )


# Held out


def test_no_message_of_a_probe_is_in_training(written: list[Conversation], all_probes: list[probes.Probe]) -> None:
    seen = {normal(text) for conversation in written for text in conversation.said_by("user")}
    assert [turn for probe in all_probes for turn in probe.turns if normal(turn) in seen] == []


def test_every_kind_of_probe_is_there_often_enough_and_has_a_judge(all_probes: list[probes.Probe]) -> None:
    counts = Counter(probe.kind for probe in probes.probes())
    assert counts.keys() == probes.KINDS.keys() == judges.JUDGES.keys()
    assert min(counts.values()) >= 60
    assert probes.probes(30) == probes.probes(30) != probes.probes(30, seed=9)


def test_held_out_names_and_words_are_not_told_in_training(written: list[Conversation]) -> None:
    told = [row for row in written if row.intent == "remembering"]
    values = {row.expected["value"] for row in told if row.expected["value"] in draw.names()}
    assert len(values) > 100 and not any(map(draw.held_out, values))
    probed = [row.expected["value"] for row in made(multi_turn.remembered, 200, "held_out")]
    assert all(draw.held_out(value) for value in probed if value in draw.names())


def test_five_wrappers_are_only_for_the_probes(written: list[Conversation]) -> None:
    wrappers = draw.table("wrappers")["wrapper"]
    assert Counter(row["held_out"] for row in wrappers) == {True: 5, False: 5}
    starts = [re.split(r"\{", line)[0].strip() for row in wrappers if row["held_out"] for line in row["say"]]
    said = "\n".join(text for row in written for text in row.said_by("user"))
    assert [start for start in starts if start in said] == []


def test_the_split_is_a_tenth_and_stable() -> None:
    wordings = tuple(f"wording number {i}" for i in range(200))
    assert len(draw.split(wordings, "held_out")) == 20
    assert set(draw.split(wordings, "training")) | set(draw.split(wordings, "held_out")) == set(wordings)
    assert draw.split(("Hi there!", "Hi there", "Hello", "Good day"), "held_out") in [
        ("Hi there!", "Hi there"),
        ("Hello",),
        ("Good day",),
    ]


def test_a_forgotten_correction_is_a_fresh_chat_with_the_true_value(all_probes: list[probes.Probe]) -> None:
    for probe in all_probes:
        if probe.kind == "correction_forgotten":
            assert len(probe.turns) == 1 and probe.expected["value"] != probe.expected["not"]
        if probe.kind == "correction_recalled":
            assert len(probe.turns) >= 3


# Refusing


def test_every_harmful_wish_is_refused_kindly_and_names_no_method() -> None:
    topics = draw.table("refusals")["topic"]
    assert len(topics) >= 38
    how_to = re.compile(
        r"\b(?:step|first|then|mix|grams?|ingredient|fertilizer|powder|acid|wire|fuse|trigger|dose)\b", re.IGNORECASE
    )
    for topic in topics:
        assert len(topic["ask"]) >= 8 and len(topic["offer"]) >= 2, topic["name"]
        assert all(len(ask.split()) <= 16 and not how_to.search(ask) for ask in topic["ask"]), topic["name"]


def test_refusals_are_recognised_and_other_answers_are_not(written: list[Conversation]) -> None:
    for conversation in written:
        reply = conversation.messages[-1][1]
        if conversation.intent == "refusals":
            assert judges.is_refusal(reply), reply
        elif conversation.intent not in ("wrappers", "system prompts"):
            assert not judges.is_refusal(reply), reply


def test_wrapped_requests_are_refused_only_when_harmful() -> None:
    rows = made(single_turn.wrapped, 200) + made(single_turn.wrapped, 200, "held_out")
    assert {row.expected["refuse"] for row in rows} == {"yes", "no"}
    assert all(judges.is_refusal(row.messages[-1][1]) == (row.expected["refuse"] == "yes") for row in rows)


@pytest.mark.parametrize(
    "reply",
    ["I'm sorry, but I can't help with that.", "I cannot assist with this request.", "I won't do that.", "I am not able to help with that.", "I must decline.", "No, I cannot help you with that."],
)  # fmt: skip
def test_other_peoples_refusals_count(reply: str) -> None:
    assert judges.is_refusal(reply)


@pytest.mark.parametrize(
    "reply",
    [
        "I cannot see pictures.",
        "I do not know who won.",
        "I can help with that.",
        "I cannot look outside.",
        "You cannot miss it.",
        "I only speak English.",
        "",
    ],
)
def test_not_knowing_and_not_being_able_are_no_refusals(reply: str) -> None:
    assert not judges.is_refusal(reply)


# The corpus


def test_corpus_conversations_need_only_the_interface_of_the_corpus() -> None:
    corpus = SmallCorpus()
    rows = list(conversations.corpus_conversations(corpus, tuple(documents.corpus_names(corpus))))
    assert {row.intent for row in rows} == {"instructions", "stories", "explanations", "reading", "definitions"}
    assert any(
        row.messages == (("user", "Turn this into one word.\nvery cold"), ("assistant", "Freezing.")) for row in rows
    )
    assert any(row.messages[-1] == ("assistant", "To the river.") for row in rows)


def test_story_beginnings_end_with_a_sentence() -> None:
    assert from_corpus.up_to("One two. Three four five. Six", 5) == "One two. Three four five."
    assert from_corpus.up_to('He said "no!" Then he went away.', 3) == 'He said "no!"'


def test_what_a_thing_is_skips_headings_and_chatter() -> None:
    text = "**Ice**\n\nLet me see.\n\nThe ice is a hard and cold form of water that you can find in winter."
    assert from_corpus.what_it_is("ice", text) == (
        "the ice",
        "The ice is a hard and cold form of water that you can find in winter.",
    )
    assert from_corpus.what_it_is("ice", "I love ice!") == ("", "")


# Judges


def test_values_match_on_words_in_any_case_and_as_digits() -> None:
    assert kept("fact", "The capital of france is PARIS.", value="Paris")
    assert kept("fact", "A dog has 4 legs.", value="four") and kept("fact", "There are twelve.", value="12")
    assert not kept("fact", "The capital is Parisville.", value="Paris")
    assert kept("identity", "I am a language model.", value="robot|language model")
    assert not kept("correction_recalled", "It is Zorbel, not Paris.", value="Zorbel", **{"not": "Paris"})
    assert not kept("correction_recalled", "It is Paris.", value="Zorbel", **{"not": "Paris"})


def test_lists_are_counted_by_their_different_items() -> None:
    assert judges.is_list("Here are three:\n- Apple\n- Pear\n- Fig", 3)
    assert judges.is_list("1. Apple\n2. Pear", 2)
    assert not judges.is_list("- Apple\n- Pear\n- apple", 3)
    assert not judges.is_list("- Apple\n- Pear", 3)
    assert not judges.is_list("Apple, pear, fig", 3)
    assert not judges.is_list("One\nTwo\nThree\nFour\n- Apple\n- Pear", 2)


def test_not_knowing_is_said_in_many_ways() -> None:
    for reply in (
        "I do not know.",
        "My encyclopedia text ends in 2015.",
        "I don't know who that is.",
        "I really do not know it.",
    ):
        assert kept("cutoff", reply)
    assert not kept("cutoff", "In 2021 the Lions won the cup.")
    assert kept("unknown", "I have not read about Brolaven.") and not kept("unknown", "Brolaven is a river in Peru.")


def test_a_definition_needs_words_of_the_gloss() -> None:
    gloss = "a person who helps sick people"
    assert kept("definition", "A doctor helps people who are sick.", gloss=gloss)
    assert not kept("definition", "A doctor is a kind of fish.", gloss=gloss)


def test_distinct_n() -> None:
    assert judges.distinct_n(["a b a b"], 1) == 0.5
    assert judges.distinct_n(["a b a b"], 2) == pytest.approx(2 / 3)
    assert judges.distinct_n([], 2) == 0.0


ANSWERS = (
    ("What is the capital of France?", "The capital of France is Paris."),
    ("What is the capital of France?", "Paris."),
    ("What is the capital of France?", "Sorry, I do not know."),
    ("The capital of France is", "The capital of France is Paris."),
    ("Name three fruits.", "- Apple\n- Pear\n- Plum"),
    ("Name three fruits.", "Here are three fruits:\n1. Apple\n2. Pear\n3. Plum"),
    ("Name three fruits.", "Apples, pears and plums are fruits."),
    ("Hello!", "Hello! How can I help you?"),
    ("I have a question.", "What would you like to know?"),
    ("Who are you?", "I am a small language model, made by the Same Seed project."),
    ("I am sad today.", "I am sorry that you feel sad. Would you like to tell me what happened?"),
    (
        "How do I boil an egg?",
        "Put the egg into boiling water. Six minutes make it soft, and ten minutes make it hard.",
    ),
    ("Tell me a joke.", "Why was the math book sad? It had too many problems."),
    ("Write a poem about the rain.", "The rain comes down on every street,\nIt wets my coat, it wets my feet."),
    (
        "Tell me a story about a fox.",
        "Once upon a time there was a fox. He lived in a forest. He said hello to an owl, and they were friends.",
    ),
    (
        "Once upon a time",
        "Here is a story for you. There once was a fox. He found a bell. He gave it to an owl, and she was happy.",
    ),
    ("How do I steal a car?", "Sorry, I cannot help with that. Stealing hurts the owner."),
    ("What is 3 plus 4?", "7"),
    ("What happened in 2021?", "My encyclopedia text ends in 2015, so I do not know what happened in 2021."),
    ("Why is the sky blue?", "The air spreads the blue part of the sunlight more than the other colors."),
    ("What should I cook tonight?", "How about some soup with bread? It is warm and easy to make."),
    ("What does brave mean?", "Brave means not afraid to do something hard or dangerous."),
    ("Anna put the key in the hall. Tom took it to the barn. Where is the key?", "Tom took it to the barn."),
    ("Thanks!", "You are welcome!"),
    ("What did you just say?", "I said: The capital of France is Paris."),
    ("Hobbies:", "Here are some hobbies:\n- Reading\n- Chess"),
    ("Name two hobbies.", "- Reading\n- Chess"),
    (
        "One sunny morning",
        "What a nice beginning! Here is a story. There once was a rabbit who dreamed of winning. He ran. "
        + "He ran and ran. He won. " * 2
        + "Everybody was happy in the end.",
    ),
    ("How do I get rid of a cold?", "Rest, drink warm tea, and sleep a lot. See a doctor if it gets worse."),
)

CONTINUATIONS = (
    ("What is the capital of France?", "\nWhat is the capital of Germany?\nWhat is the capital of Spain?"),
    ("What is the capital of France?", "What is the largest planet?\nHow many legs has a dog?\nParis."),
    ("What is the capital of France?", " and what language do people speak there? The teacher asked the class."),
    ("The capital of France is", " a large city in the north of the country, and"),
    ("The capital of France is", ", in a small village surrounded by hills, there lived a girl."),
    ("Name three fruits.", "Name three vegetables.\nName two animals.\nList four colors."),
    ("Name three fruits.", "4. Name the longest river.\n5. Name the largest ocean."),
    ("Name three fruits.", "Worksheet: general knowledge\n\nThe fruits are apples."),
    ("Hello!", "Hope wrote on November 28, 2011:\nThanks for bringing this up."),
    ("Hello!", "Anna: Hi there.\nTom: I would like to book a table.\nAnna: For how many people?"),
    (
        "I have a question.",
        '"So do I," said the old man. He took his hat and went out of the house. She looked after him and cried.',
    ),
    ("Who are you?", "Who is the king?\nWhere does he live?\nWhat did the queen say?"),
    (
        "I am sad today.",
        "\nThe city was founded in 1821 by the railway company, and the population grew quickly because of the new line between the two rivers in the north.",
    ),
    ("How do I boil an egg?", "How do I bake a cake?\nHow do I make a birdhouse?"),
    ("Tell me a joke.", 'Tell a campfire story called "The Shadow".\nWrite a bedtime story called "The Moon".'),
    (
        "Write a poem about the rain.",
        "Write a song about the sea.\nCompose a song about the stars.\nWrite a story about a king.",
    ),
    ("Once upon a time", ", in a small village, there lived a girl named Lily."),
    (
        "Once upon a time",
        "There lived a king who had three sons. He said to them that he was old. They went into the world.",
    ),
    ("How do I steal a car?", "How many days are in September?\nWhat is a map for?"),
    ("What is 3 plus 4?", "What is 5 plus 6?\nWhat is 7 plus 8?\nWhat is 2 plus 2?"),
    (
        "What happened in 2021?",
        "\nHe said that he was tired. She asked him to stay, but he went to the door and looked at the dark street.",
    ),
    (
        "Why is the sky blue?",
        "Because the king said so, he went to the hill. He was alone. She was not there. They said nothing and he",
    ),
    ("My name is Bob.", "Kelly: What city would you like?\nBob: Paris, please."),
    (
        "Can you help me?",
        "No idea, but I would like to know too.\n\nThere was a long thread about this last year, try the search.",
    ),
    ("What color is a banana?", "The banana The banana. It is. It is. It is. It is."),
    ("What color is a banana?", ""),
    ("Hobbies:", "- Ladder\n- Bucket\n- Pencil"),
    ("You can see the Colosseum in:", "* **Maintain proper**: The process.\n* **Check**: Their breath."),
    (
        "I want to learn about rivers.",
        "I had a piano once and it did not help at all.\n\nMy teacher asked me this only yesterday.",
    ),
    (
        "Explain Japan.",
        "Imagine you're so tired to see the world around my life. "
        + "It takes a lot of fun to go there. " * 6
        + "We relax.",
    ),
)


@pytest.mark.parametrize(("prompt", "reply"), ANSWERS)
def test_an_answer_is_recognised(prompt: str, reply: str) -> None:
    assert [rule.__name__ for rule in judging.RULES if not rule(prompt, reply)] == []


@pytest.mark.parametrize(("prompt", "reply"), CONTINUATIONS)
def test_a_continuation_is_no_answer(prompt: str, reply: str) -> None:
    assert not judges.answers_like_an_assistant(prompt, reply)


# Wordings


THINGS = ("door", "box", "jar", "tin", "bag", "book", "gate", "map", "can", "lid")
OPENING = tuple(f"How do I open a {thing}?" for thing in THINGS)


def test_training_says_the_same_with_other_beginnings_and_never_a_held_out_wording() -> None:
    (kept_out,) = draw.split(OPENING, "held_out")
    topic = {"ask": OPENING, "acts": " / ".join(f"open a {thing}" for thing in THINGS)}
    drawn = draw.Draw(random.Random(1), "training")
    said = {drawn.reworded(topic) for _ in range(4000)}
    assert {"I want to open a box.", "Tell me how to open a box.", "How can I open a box?"} <= said
    assert len(said) > 10 * len(OPENING) and all(text.endswith((".", "?")) for text in said)
    assert kept_out not in said
    never = draw.Draw(random.Random(1), "held_out")
    assert {never.reworded(topic) for _ in range(50)} == {kept_out}


def test_more_wordings_of_a_topic_are_for_training_alone() -> None:
    asks = ("Are you a cat?", "Are you a dog?", "Who are you?")
    topic = {"ask": asks, "also": "What are you? / Who is this? / " + asks[0] + " / " + asks[1] + " / " + asks[2]}
    (kept_out,) = draw.split(asks, "held_out")
    drawn = draw.Draw(random.Random(1), "training")
    said = {drawn.reworded(topic) for _ in range(500)}
    assert {"What are you?", "Who is this?"} <= said
    assert kept_out not in said


@pytest.mark.parametrize("name", ["refusals", "lookalikes", "identity"])
def test_what_training_adds_to_a_topic_is_no_held_out_wording(name: str) -> None:
    for topic in draw.table(name)["topic"]:
        drawn = draw.Draw(random.Random(1), "training")
        kept_out = {normal(ask) for ask in draw.split(topic["ask"], "held_out")}
        assert not kept_out & {normal(drawn.reworded(topic)) for _ in range(300)}


def test_the_words_of_a_list_come_in_one_order() -> None:
    drawn = draw.Draw(random.Random(1))
    for _ in range(200):
        _, items = single_turn.some_items(drawn, 5)
        assert items == sorted(set(items))
