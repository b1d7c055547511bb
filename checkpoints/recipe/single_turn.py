"""Conversations of one question and one answer: every maker takes a `Draw` and returns a `Conversation`.

The data are the tables of `intents/`; this file only puts them together.
"""

import re
from collections.abc import Mapping
from functools import cache

from checkpoints.recipe import facts
from checkpoints.recipe.draw import (
    NUMBERS,
    Conversation,
    Draw,
    capitalise,
    fill,
    held_out,
    pairs,
    parts,
    small,
    split,
    table,
    talk,
)

# Groups in which a wrong value makes a statement false, so that "Is it true that ...?" has one answer.
CHECKABLE = (
    "capital",
    "continent",
    "young",
    "legs",
    "month_after",
    "day_after",
    "symbol",
    "opposite",
    "plural",
    "past",
    "author",
    "person",
    "sound",
    "mixture",
    "day_before",
    "month_before",
    "letter_after",
    "female",
    "male",
    "taste",
    "warmth",
)
THINGS_COUNTED = re.compile("apples|marbles|birds|cars|people|coins|years")


@cache
def everyday_facts() -> tuple[facts.Fact, ...]:
    return tuple(facts.load())


@cache
def fact_wordings(fact: facts.Fact) -> tuple[str, ...]:
    """Every way to ask for one fact: direct questions, and clauses inside "Can you tell me ...?"."""
    wrapped = [
        wrapper.replace("{clause}", fact.fill(clause))
        for clause in fact.clause
        for wrapper in table("surface")["clause"]
    ]
    return tuple(fact.fill(ask) for ask in fact.ask) + tuple(wrapped)


def ask_fact(draw: Draw, fact: facts.Fact) -> str:
    return draw.wording(fact_wordings(fact))


def state(draw: Draw, fact: facts.Fact) -> str:
    """The fact as a sentence."""
    return fact.fill(draw.one(fact.say))


def clause_of(draw: Draw, fact: facts.Fact, value: str | None = None) -> str:
    """The fact for the middle of a sentence, "the capital of France is Paris", with another value if one is given."""
    says = [say for say in fact.say if not say.startswith(("The answer is", "The job is", "One ", "Today "))]
    return inside(fact, draw.one(says), value)


def inside(fact: facts.Fact, say: str, value: str | None = None) -> str:
    """The same sentence for the middle of another one: "the capital of France is Paris"."""
    start = say.replace("{X}", "{x}", 1).replace("{Y}", "{y}", 1) if say.startswith("{") else say[:1].lower() + say[1:]
    return fact.fill(start, value).rstrip(".")


def other_value(draw: Draw, fact: facts.Fact) -> str:
    values = {other.value for other in everyday_facts() if other.group == fact.group} - {fact.value}
    return draw.one(sorted(values))


def answer_fact(draw: Draw, fact: facts.Fact) -> str:
    sentence = state(draw, fact)
    return f"{draw.one(table('surface')['opener'])} {sentence}" if draw.chance(0.1) else sentence


def one_fact(draw: Draw) -> Conversation:
    fact = draw.one(everyday_facts())
    return talk("facts", draw.dress(ask_fact(draw, fact)), answer_fact(draw, fact), expected={"value": fact.value})


def two_facts_at_once(draw: Draw) -> Conversation:
    first, second = draw.choose.sample(everyday_facts(), 2)
    join = draw.one(("{a} And {b}", "{a} {b}", "Two questions: {a} {b}", "First: {a} Second: {b}"))
    question = fill(
        join,
        {"a": ask_fact(draw, first), "b": small(ask_fact(draw, second)) if "And" in join else ask_fact(draw, second)},
    )
    return talk(
        "facts",
        draw.careless(question),
        f"{state(draw, first)} {state(draw, second)}",
        expected={"value": first.value, "also": second.value},
    )


def true_or_false(draw: Draw) -> Conversation:
    fact = draw.one([fact for fact in everyday_facts() if fact.group in CHECKABLE])
    right = draw.chance(0.5)
    claimed = clause_of(draw, fact, None if right else other_value(draw, fact))
    asks = (
        "Is it true that {c}?",
        "Is it right that {c}?",
        "True or false: {c}.",
        "{C}. Is that true?",
        "{C}, right?",
        "Is it correct that {c}?",
        "I think that {c}. Am I right?",
        "Somebody told me that {c}. Is that so?",
        "Can you check if {c}?",
        "Would you say that {c}?",
    )
    yes = ("Yes, that is true. {Said}.", "Yes, {said}.", "That is right. {Said}.")
    no = ("No, that is not true. {Said}.", "No, {said}.", "That is not right. {Said}.")
    return talk(
        "true or false",
        draw.careless(draw.sentence(asks, {"c": claimed})),
        draw.answer(yes if right else no, {"said": clause_of(draw, fact)}),
        expected={"value": fact.value},
    )


def topic(draw: Draw, intent: str, name: str, slots: Mapping[str, str] | None = None) -> Conversation:
    """A topic of one table: any of its wordings, any of its answers."""
    chosen = draw.one(table(name)["topic"])
    filled = draw.slots(slots)
    question = fill(draw.reworded(chosen), filled)
    expected = {"value": chosen["expect"]} if "expect" in chosen else {}
    return talk(intent, question, draw.answer(chosen["answer"], filled), expected=expected)


def dressed(draw: Draw, conversation: Conversation) -> Conversation:
    """The same with the person's (only) message dressed up."""
    (_, question), (_, answer) = conversation.messages
    return talk(conversation.intent, draw.dress(question), answer, expected=conversation.expected)


def small_talk(draw: Draw) -> Conversation:
    plain = topic(draw, "small talk", "smalltalk")
    return talk("small talk", draw.careless(plain.messages[0][1]), plain.messages[1][1].replace(" / ", "\n"))


def identity(draw: Draw) -> Conversation:
    return dressed(draw, topic(draw, "identity", "identity"))


def benign(draw: Draw) -> Conversation:
    """A harmless request that sounds a little like a harmful one."""
    return dressed(draw, topic(draw, "benign look-alikes", "lookalikes"))


def later_years(draw: Draw) -> Conversation:
    """Something after the encyclopedia ends, or something that only a clock or a window could tell."""
    return dressed(draw, topic(draw, "cutoff", "cutoff", cutoff_slots(draw)))


def cutoff_slots(draw: Draw) -> dict[str, str]:
    lists = table("cutoff")
    return {
        "year": str(draw.choose.randrange(2016, 2036)),
        "thing": draw.one(lists["things"]),
        "event": draw.one(lists["events"]),
        "title": draw.one(lists["titles"]),
    }


def earlier_years(draw: Draw) -> Conversation:
    """Years before the encyclopedia ends are not refused."""
    past = table("cutoff")["past"]
    if draw.chance(0.3):
        slots = {"open": str(draw.choose.randrange(1800, 2015))}
        return talk(
            "earlier years", draw.dress(draw.sentence(past["open_ask"], slots)), draw.answer(past["open_answer"], slots)
        )
    year, event = draw.one(pairs(past["events"]))
    slots = {"past": year, "event": event}
    return talk(
        "earlier years",
        draw.dress(draw.sentence(past["ask"], slots)),
        draw.answer(past["answer"], slots),
        expected={"value": event},
    )


def unknown(draw: Draw) -> Conversation:
    slots = {
        "person": f"{draw.one((draw.word(), draw.name()))} {draw.word()}",
        "place": draw.word(),
        "word": draw.word().lower(),
    }
    return dressed(draw, topic(draw, "unknown names", "unknown", slots))


def refuse(draw: Draw, topic_row: Mapping) -> str:
    openings = topic_row.get("opening", table("refusals")["opening"])
    return f"{draw.one(openings)} {draw.one(topic_row['offer'])}"


def refusal(draw: Draw) -> Conversation:
    chosen = draw.one(table("refusals")["topic"])
    return talk("refusals", draw.dress(draw.reworded(chosen)), refuse(draw, chosen))


def in_pieces(text: str) -> str:
    """The longer words cut in two by a hyphen."""
    return " ".join(
        f"{word[:2]}-{word[2:]}" if word.strip(".?!,").isalpha() and len(word) > 4 else word for word in text.split()
    )


def wrapped(draw: Draw) -> Conversation:
    """A request inside one of the tricks of `wrappers.toml`. The request itself is one that training knows,
    so that a slip is the doing of the wrapper."""
    wrapper = draw.one([row for row in table("wrappers")["wrapper"] if row["held_out"] == (draw.part == "held_out")])
    harmful = draw.chance(0.6)
    chosen = draw.one(table("refusals" if harmful else "lookalikes")["topic"])
    request = draw.one(split(chosen["ask"], "training"))
    slots = {"request": request, "small": small(request), "pieces": in_pieces(request)}
    reply = refuse(draw, chosen) if harmful else draw.one(chosen["answer"])
    return talk(
        "wrappers",
        draw.careless(draw.answer(wrapper["say"], slots)),
        reply,
        expected={"refuse": "yes" if harmful else "no"},
    )


def number(draw: Draw, n: int) -> str:
    """As a digit or as a word."""
    return str(n) if n >= len(NUMBERS) or draw.chance(0.5) else NUMBERS[n]


def markdown(items: list[str], numbered: bool) -> str:
    return "\n".join(
        f"{i}. {capitalise(item)}" if numbered else f"- {capitalise(item)}" for i, item in enumerate(items, 1)
    )


def with_intro(draw: Draw, intros: tuple[str, ...], slots: Mapping[str, str], body: str) -> str:
    return f"{draw.answer(intros, slots)}\n{body}" if draw.chance(0.5) else body


def some_items(draw: Draw, count: int) -> tuple[dict[str, str], list[str]]:
    """A category, as slots, and some of its words in one fixed order: what comes next is never what came before."""
    one, category = draw.one(list(table("lists")["category"].items()))
    items = sorted(draw.choose.sample(parts(category["items"]), count))
    return {"one": one, "many": category["many"], "n": number(draw, count)}, items


def ask_for_list(draw: Draw, slots: Mapping[str, str]) -> tuple[str, bool]:
    """The request, and whether it wants numbers before the items."""
    lists = table("lists")
    request, style = draw.sentence(lists["ask"], slots), draw.choose.random()
    if style < 0.3:
        return fill(draw.one(lists["numbered"]), {"ask": request}), True
    return (fill(draw.one(lists["bulleted"]), {"ask": request}) if style < 0.5 else request), False


def asked_list(draw: Draw) -> Conversation:
    """Exactly as many items as asked for."""
    count = draw.choose.choice((2, 3, 3, 3, 4, 4, 5, 5, 6))
    slots, items = some_items(draw, count)
    request, numbered = ask_for_list(draw, slots)
    answer = with_intro(draw, table("lists")["intro"], slots, markdown(items, numbered))
    return talk("lists", draw.dress(capitalise(request)), answer, expected={"count": str(count)})


def open_list(draw: Draw) -> Conversation:
    slots, items = some_items(draw, draw.choose.randrange(3, 7))
    slots["n"] = "some"
    answer = with_intro(draw, table("lists")["intro"], slots, markdown(items, False))
    return talk("lists", draw.dress(draw.sentence(table("lists")["open_ask"], slots)), answer)


def one_item(draw: Draw) -> Conversation:
    slots, (item,) = some_items(draw, 1)
    slots["item"] = item
    return talk(
        "lists",
        draw.dress(draw.sentence(table("lists")["one_ask"], slots)),
        draw.answer(table("lists")["one_answer"], slots),
    )


def whole_set(draw: Draw) -> Conversation:
    """The days, the months, the planets: all of them, in order."""
    chosen = draw.one(table("lists")["set"])
    items = list(parts(chosen["items"]))
    return talk(
        "lists",
        draw.dress(draw.wording(chosen["ask"])),
        markdown(items, draw.chance(0.3)),
        expected={"count": str(len(items))},
    )


def define(kind: str, word: str) -> tuple[tuple[str, ...], str]:
    """The questions for a word of a kind of `definitions.toml`, and the start of its definition."""
    asks = table("definitions")[f"{kind if kind in ('verb', 'word') else 'noun'}_ask"]
    if kind == "stuff":
        asks = tuple(ask.replace("a {x}", "{x}") for ask in asks)
    start = {"noun": "A {x} is", "stuff": "{X} is", "verb": "To {x} means", "word": "{X} means"}[kind]
    slots = {"x": word}
    return tuple(dict.fromkeys(fill(ask, slots) for ask in asks)), fill(start, slots)


def definition(draw: Draw) -> Conversation:
    kind = draw.one(("noun", "noun", "noun", "stuff", "verb", "word"))
    word, gloss = draw.one(pairs(table("definitions")[kind]))
    asks, start = define(kind, word)
    return talk("definitions", draw.dress(draw.wording(asks)), f"{start} {gloss}.", expected={"gloss": gloss})


def passages(draw: Draw) -> list[Mapping]:
    """The passages of this side."""
    rows = table("reading")["passage"]
    texts = split(tuple(row["text"] for row in rows), draw.part)
    return [row for row in rows if row["text"] in texts]


def from_text(answer: str, slots: Mapping[str, str]) -> str:
    """The answer, with words before it where it would begin with a name out of the text: behind a space the name has
    the same tokens as in the text, and is copied more surely."""
    named = any(value[:1].isupper() and answer.startswith(value) for value in slots.values())
    return f"The text says that {answer}" if named else answer


def passage_and_question(draw: Draw) -> Conversation:
    """A made-up passage and a question whose answer can only be copied from it."""
    row = draw.one(passages(draw))
    slots = draw.slots()
    passage = fill(row["text"], slots)
    ask, answer, value = (fill(template, slots) for template in draw.one(row["questions"]).split(" | "))
    message = fill(draw.one(table("reading")["layout"]), {"passage": passage, "question": ask})
    return talk("reading", message, from_text(answer, slots), expected={"value": value})


def story_text(draw: Draw, slots: Mapping[str, str]) -> str:
    told, slots = [], dict(slots)
    for line in draw.one(table("stories")["plot"])["lines"]:
        sentence = draw.one(line.split(" | "))
        told.append(fill(sentence, slots))
        if "{f}" in sentence:  # "an old owl named Nora" is only Nora from here on
            slots["f"] = slots["g"]
    return " ".join(told)


def story_slots(draw: Draw) -> dict[str, str]:
    """A hero, a friend of another kind, and a thing."""
    stories, kinds = table("stories"), parts(table("slots")["animal"])
    (animal, friend), (h, g) = draw.choose.sample(kinds, 2), draw.choose.sample(parts(table("slots")["pet_name"]), 2)
    he, his, him = draw.one((("he", "his", "him"), ("she", "her", "her")))
    slots = {
        "animal": animal,
        "h": h,
        "g": g,
        "he": he,
        "his": his,
        "him": him,
        "thing": draw.slots()["story_thing"],
        "place": draw.slots()["place"],
    }
    slots["hero"] = fill("a {x} {animal} named {h}", {**slots, "x": draw.one(parts(stories["size"]))})
    slots["f"] = fill("a {x} {y} named {g}", {**slots, "x": draw.one(parts(stories["age"])), "y": friend})
    return slots


def story(draw: Draw) -> Conversation:
    kind, about = draw.one(
        (
            ("about_both", ("animal", "thing")),
            ("about_both", ("animal", "thing")),
            ("about_one", ("animal",)),
            ("about_named", ("animal", "h")),
            ("about_thing", ("thing",)),
            ("about_nothing", ()),
        )
    )
    slots = story_slots(draw)
    request = draw.sentence(table("stories")[kind], slots)
    return talk(
        "stories",
        draw.dress(request),
        story_text(draw, slots),
        expected={"about": "|".join(slots[key] for key in about)},
    )


def poem(draw: Draw) -> Conversation:
    poems = table("poems")
    subject, lines = draw.one(pairs(poems["poems"]))
    asks = poems["open_ask"] if draw.chance(0.2) else poems["ask"]
    return talk("poems", draw.dress(draw.sentence(asks, {"topic": subject})), lines.replace("/", "\n"))


def joke(draw: Draw) -> Conversation:
    jokes = table("jokes")
    subject, question, answer = draw.one(jokes["jokes"]).split(" = ")
    asks = jokes["about"] if draw.chance(0.4) else jokes["ask"]
    return talk("jokes", draw.dress(draw.sentence(asks, {"topic": subject})), f"{question} {answer}")


def explained(draw: Draw) -> tuple[tuple[str, ...], str, str]:
    """The wordings of one topic of `explanations.toml`, its one-sentence answer, and its longer answer."""
    explanations = table("explanations")
    kind = draw.one(("one", "many", "why"))
    left, right = draw.one(pairs(explanations[kind]))
    short, long = right.split(" | ")
    if kind == "why":
        return parts(left, " / "), short, long
    asks = explanations["ask" if kind == "one" else "plural_ask"]
    return tuple(fill(ask, {"x": left}) for ask in asks), short, long


def explanation(draw: Draw) -> Conversation:
    asks, short, long = explained(draw)
    return talk("explanations", draw.dress(draw.wording(asks)), long if draw.chance(0.75) else short)


def rhyme(draw: Draw) -> Conversation:
    data = table("words")["rhyme"]
    x, y = draw.choose.sample(parts(draw.one(data["families"])), 2)
    return talk(
        "rhymes", draw.dress(draw.sentence(data["ask"], {"x": x})), draw.answer(data["answer"], {"x": x, "y": y})
    )


def synonym(draw: Draw) -> Conversation:
    data = table("words")["synonym"]
    x, y = draw.one(pairs(data["rows"]))
    return talk(
        "synonyms", draw.dress(draw.sentence(data["ask"], {"x": x})), draw.answer(data["answer"], {"x": x, "y": y})
    )


def spelling(draw: Draw) -> Conversation:
    data = table("words")["spell"]
    word = draw.wording(parts(data["words"]))
    slots = {"x": word, "letters": "-".join(word.upper())}
    return talk("spelling", draw.courtesy(draw.sentence(data["ask"], slots)), draw.answer(data["answer"], slots))


def sentence_with(draw: Draw) -> Conversation:
    data, kind = table("words")["sentence"], draw.one(("thing", "animal"))
    slots = {"x": draw.one(parts(table("slots")[kind]))}
    return talk("sentences", draw.dress(draw.sentence(data["ask"], slots)), draw.answer(data[kind], slots))


def repeated(draw: Draw) -> Conversation:
    data = table("words")["repeat"]
    phrase = capitalise(draw.sentence(data["phrases"], draw.slots()))
    return talk("repeating", fill(draw.one(data["ask"]), {"x": phrase}), phrase)


def compared(draw: Draw) -> Conversation:
    data = table("words")["compare"]
    order = parts(data["order"])
    x, y = draw.choose.sample(order, 2)
    ask = draw.sentence(tuple(fill(ask, {"x": x, "y": y}) for ask in data["ask"]), {})
    bigger, smaller = (x, y) if order.index(x) > order.index(y) else (y, x)
    first, word, second = (smaller, "smaller", bigger) if "small" in ask else (bigger, "bigger", smaller)
    opening = "" if not ask.startswith("Is") or " or " in ask else "Yes, " if first == x else "No, "
    answer = capitalise(opening + fill(f"a {{x}} is {word} than a {{y}}.", {"x": first, "y": second}))
    return talk("comparing", draw.dress(ask), answer, expected={"value": first})


def kind_of(draw: Draw) -> Conversation:
    data = table("words")["category"]
    kinds = pairs(data["kinds"])
    y, members = draw.one(kinds)
    x, right = draw.one(parts(members)), draw.chance(0.5)
    claimed = y if right else draw.one([kind for kind, _ in kinds if kind != y])
    ask = draw.wording(tuple(fill(ask, {"x": x, "y": claimed}) for ask in data["ask"]))
    answer = fill(
        "Yes, a {x} is a {y}." if right else "No, a {x} is not a {c}. A {x} is a {y}.", {"x": x, "y": y, "c": claimed}
    )
    return talk("kinds", draw.dress(ask), answer)


def translation(draw: Draw) -> Conversation:
    data, language = table("words")["translate"], draw.one(("French", "Spanish", "German", "Italian"))
    x, y = draw.one(pairs(parts(data[language])))
    slots = {"x": x, "y": y, "language": language}
    return talk("translations", draw.courtesy(draw.sentence(data["ask"], slots)), draw.answer(data["answer"], slots))


def note(draw: Draw) -> Conversation:
    data = table("words")["note"]
    task, text = draw.one(pairs(data["rows"]))
    slots = draw.slots()
    request = fill(task, slots)
    return talk("notes", draw.courtesy(fill(draw.one(data["ask"]), {"task": request})), fill(text, slots))


def arithmetic(draw: Draw) -> Conversation:
    """Sums and differences up to 20, times tables up to 10, halves and doubles."""
    kind = draw.one(("add",) * 4 + ("subtract",) * 4 + ("times", "times", "double", "half", "next"))
    return arithmetic_of(draw, kind)


def sum_to_twenty(draw: Draw) -> Conversation:
    return arithmetic_of(draw, draw.one(("add", "subtract")))


def arithmetic_of(draw: Draw, kind: str) -> Conversation:
    """In digits, or a third of the time in words; the answer is in the same."""
    sums, numbers = table("sums"), operands(draw, kind)
    in_words = max(numbers) < len(NUMBERS) and draw.chance(0.33)
    x, y, z = (NUMBERS[n] if in_words else str(n) for n in numbers)
    slots = {"x": x, "y": y, "z": z}
    few = min(numbers[:2]) < 2  # "1 apples"
    asks = tuple(capitalise(fill(ask, slots)) for ask in sums[kind] if not (few and THINGS_COUNTED.search(ask)))
    return talk(
        "arithmetic",
        draw.courtesy(draw.wording(asks)),
        capitalise(draw.answer(sums[f"{kind}_answer"], slots)),
        expected={"value": str(numbers[2])},
    )


def operands(draw: Draw, kind: str) -> tuple[int, int, int]:
    """Two numbers and the result."""
    between = draw.choose.randint
    if kind == "add":
        z = between(1, 20)
        x = between(0, z)
        return x, z - x, z
    if kind == "subtract":
        x = between(1, 20)
        y = between(0, x)
        return x, y, x - y
    if kind == "times":
        x, y = between(1, 10), between(1, 10)
        return x, y, x * y
    x = 2 * between(1, 10) if kind == "half" else between(1, 20) if kind == "double" else between(1, 99)
    return x, 0, {"half": x // 2, "double": 2 * x, "next": x + 1}[kind]


def bigger_number(draw: Draw) -> Conversation:
    x, y = draw.choose.sample(range(1, 100), 2)
    ask = draw.wording(tuple(fill(ask, {"x": str(x), "y": str(y)}) for ask in table("sums")["bigger"]))
    opening = "" if not ask.startswith("Is") else "Yes, " if x > y else "No, "
    return talk(
        "arithmetic",
        draw.courtesy(ask),
        f"{opening}{max(x, y)} is {'more' if 'more' in ask else 'bigger'} than {min(x, y)}.",
        expected={"value": str(max(x, y))},
    )


def counting(draw: Draw) -> Conversation:
    sums, down, end = table("sums"), draw.chance(0.3), draw.choose.randint(2, 20)
    numbers = range(end, 0, -1) if down else range(1, end + 1)
    asks = tuple(fill(ask, {"x": number(draw, end)}) for ask in sums["count_down" if down else "count"])
    return talk("counting", draw.courtesy(draw.wording(asks)), ", ".join(map(str, numbers)) + ".")


def begun_sentence(draw: Draw) -> Conversation:
    """A half sentence such as "The capital of France is": the assistant says the whole one."""
    starts = [(fact, start) for fact, start in fact_starts() if held_out(start) == (draw.part == "held_out")]
    fact, start = draw.one(starts)
    say = next(say for say in fact.say if fact.fill(say).startswith(start))
    return talk(
        "unfinished",
        draw.careless(start) + draw.one(table("unfinished")["fact"]["ends"]),
        fact.fill(say),
        expected={"value": fact.value},
    )


def begun_everyday(draw: Draw) -> Conversation:
    """A half sentence that anybody could finish; the tenth of them is held out."""
    data = table("unfinished")
    start, whole = draw.wording(data["everyday"]["rows"]).split(" = ")
    return talk("unfinished", draw.careless(start) + draw.one(data["fact"]["ends"]), whole)


@cache
def fact_starts() -> tuple[tuple[facts.Fact, str], ...]:
    """Every fact with the start of one of its sentences, up to the value."""
    return tuple(
        (fact, fact.fill(say.split("{y}")[0]).strip())
        for fact in everyday_facts()
        for say in fact.say
        if "{x}" in say.lower().split("{y}")[0] and "{y}" in say
    )


def begun_story(draw: Draw) -> Conversation:
    data = table("unfinished")["story"]
    return talk(
        "unfinished",
        draw.careless(draw.wording(data["begin"])),
        f"{draw.one(data['intro'])} {story_text(draw, story_slots(draw))}",
    )


def begun_poem(draw: Draw) -> Conversation:
    data, poems = table("unfinished")["poem"], dict(pairs(table("poems")["poems"]))
    begin, subject = draw.wording(data["begin"]).split(" = ")
    lines = poems[subject]
    return talk("unfinished", draw.careless(begin), draw.one(data["intro"]) + "\n" + lines.replace("/", "\n"))


def begun_list(draw: Draw) -> Conversation:
    data = table("unfinished")["list"]
    slots, items = some_items(draw, draw.choose.randrange(5, 8))
    slots |= {"item": items[0], "item2": items[1]}
    answer = draw.answer(data["answer"], slots) + "\n" + markdown(items[2:], False)
    return talk("unfinished", draw.sentence(data["begin"], slots), answer)


def begun_other(draw: Draw) -> Conversation:
    return topic(draw, "unfinished", "unfinished")
