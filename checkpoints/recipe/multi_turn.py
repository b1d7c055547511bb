"""Conversations of several turns: remembering, corrections, follow-ups, insisting, and system prompts."""

import re
from collections.abc import Callable, Mapping
from functools import cache

from checkpoints.recipe import everyday, facts
from checkpoints.recipe import single_turn as single
from checkpoints.recipe.draw import (
    NUMBERS,
    Conversation,
    Draw,
    Part,
    capitalise,
    fill,
    held_out,
    normal,
    parts,
    small,
    split,
    table,
    talk,
)

Turns = list[str]
IN_BETWEEN: tuple[Callable[[Draw], Conversation], ...] = (
    single.one_fact, single.one_fact, single.small_talk, single.arithmetic, single.joke, single.asked_list, single.definition, single.explanation, single.rhyme,
    everyday.why, everyday.how_to, everyday.yes_or_no, everyday.idea,
)  # fmt: skip


def texts(conversation: Conversation) -> Turns:
    return [text for role, text in conversation.messages if role != "system"]


def in_between(draw: Draw, most: int, without: str = "\0") -> Turns:
    """Up to `most` unrelated questions and answers; none of them says `without`."""
    turns: Turns = []
    for _ in range(draw.choose.randint(0, most)):
        unrelated = texts(draw.one(IN_BETWEEN)(draw))
        turns += unrelated if without not in " ".join(unrelated) else []
    return turns


# Remembering


def told_value(draw: Draw, kind: str) -> str:
    """A random value of the kind, half of the time an invented word where that makes sense."""
    lists = table("slots")
    if kind == "age":
        return draw.one([str(n) for n in range(5, 100) if held_out(str(n)) == (draw.part == "held_out")])
    if kind in ("colour", "food", "job"):
        return draw.wording(parts(lists[kind]))
    if kind == "word" or draw.chance(0.5):
        return draw.word()
    return draw.name() if kind == "name" else draw.wording(parts(lists["pet_name" if kind == "pet" else "city"]))


def memory_slots(draw: Draw, kind: Mapping) -> dict[str, str]:
    return {"v": told_value(draw, kind["value"]), "pet": draw.one(parts(table("slots")["pet"]))}


def tell(draw: Draw, kinds: list[Mapping], slots: list[dict[str, str]]) -> Turns:
    """What the person tells, one thing a turn or all in one message, and the replies."""
    told = [draw.sentence(kind["tell"], values) for kind, values in zip(kinds, slots, strict=True)]
    replies = [draw.answer(kind["reply"], values) for kind, values in zip(kinds, slots, strict=True)]
    if len(told) > 1 and draw.chance(0.4):
        return [" ".join(told), replies[0]]
    return [text for pair in zip(told, replies, strict=True) for text in pair]


def remembered(draw: Draw) -> Conversation:
    """Something told, other turns, and the same thing asked back; sometimes two things."""
    kinds = draw.choose.sample(list(table("memory")["kind"].values()), draw.choose.choice((1, 1, 2)))
    if draw.chance(0.35):
        kinds = [table("memory")["kind"]["name"], *(kind for kind in kinds if kind["value"] != "name")][: len(kinds)]
    slots = [memory_slots(draw, kind) for kind in kinds]
    turns = tell(draw, kinds, slots) + in_between(draw, 3)
    for kind, values in draw.choose.sample(list(zip(kinds, slots, strict=True)), len(kinds)):
        turns += [draw.courtesy(draw.sentence(kind["ask"], values)), draw.answer(kind["answer"], values)]
        last = values
    return talk("remembering", *turns, expected={"value": last["v"]})


def renamed(draw: Draw) -> Conversation:
    """The person takes a new name; the old one is not used any more."""
    memory, kind = table("memory"), table("memory")["kind"]["name"]
    first, second = {"v": draw.name()}, {"v": told_value(draw, "name")}
    if first == second:
        return renamed(draw)
    turns = tell(draw, [kind], [first]) + in_between(draw, 1)
    turns += [
        draw.sentence(memory["rename"]["tell"], second),
        draw.answer(memory["rename"]["reply"], second),
        *in_between(draw, 1),
    ]
    turns += [draw.sentence(kind["ask"], second), draw.answer(kind["answer"], second)]
    return talk("remembering", *turns, expected={"value": second["v"], "not": first["v"]})


def never_told(draw: Draw) -> Conversation:
    """Asked back although nobody has told it; perhaps something else was told."""
    asked, other = draw.choose.sample(list(table("memory")["kind"].values()), 2)
    while other["value"] == asked["value"]:
        asked, other = draw.choose.sample(list(table("memory")["kind"].values()), 2)
    turns = tell(draw, [other], [memory_slots(draw, other)]) if draw.chance(0.4) else []
    slots = memory_slots(draw, asked)
    turns += [
        *in_between(draw, 2),
        draw.courtesy(draw.sentence(asked["ask"], slots)),
        draw.answer(asked["unseen"], slots),
    ]
    return talk("never told", *turns)


# Corrections


@cache
def correctable() -> tuple[facts.Fact, ...]:
    """Facts of one clear value that does not show up in the rest of the sentence."""
    groups = table("corrections")["values"]
    return tuple(
        fact for fact in single.everyday_facts() if fact.group in groups and fact.value != "no" and not _shows(fact)
    )


def _shows(fact: facts.Fact) -> bool:
    return any(f" {normal(fact.value)} " in f" {normal(fact.fill(say, ''))} " for say in fact.say)


def wrong_value(draw: Draw, fact: facts.Fact) -> str:
    """Another value for the fact: invented, or true of something else."""
    kind = table("corrections")["values"][fact.group]
    if kind == "other":
        value = single.other_value(draw, fact)
        return value if value != fact.subject else wrong_value(draw, fact)
    if kind == "person":
        return f"{draw.name()} {draw.word()}"
    if kind == "symbol":
        return draw.word()[:2]
    if kind == "number":
        return str(
            draw.choose.choice(
                [n for n in range(2, 100) if str(n) != fact.value and (n >= len(NUMBERS) or NUMBERS[n] != fact.value)]
            )
        )
    word = draw.word()
    return word.lower() if fact.group in ("sound", "young", "plural") else word


def correct(draw: Draw, fact: facts.Fact, value: str) -> str:
    """What the person says against the true answer."""
    data = table("corrections")
    if fact.group in data["short_groups"] and draw.chance(0.4):
        return draw.sentence(data["wordings"]["short"], {"v": value, "true": fact.value})
    return draw.sentence(data["wordings"]["correct"], {"said": single.clause_of(draw, fact, value)})


def corrected_turns(draw: Draw, fact: facts.Fact, value: str) -> Turns:
    """Question, true answer, correction, apology."""
    accepted = draw.answer(table("corrections")["wordings"]["accept"], {"said": single.clause_of(draw, fact, value)})
    return [
        draw.dress(single.ask_fact(draw, fact)),
        single.state(draw, fact),
        draw.careless(correct(draw, fact, value)),
        accepted,
    ]


def ask_again(draw: Draw, fact: facts.Fact, value: str) -> Turns:
    wordings = table("corrections")["wordings"]
    question = single.ask_fact(draw, fact)
    said = {"said": single.clause_of(draw, fact, value)}
    recalled = draw.answer(wordings["recall"][:1] if draw.chance(0.7) else wordings["recall"], said)
    return [draw.careless(draw.answer(wordings["again"], {"ask": question, "small": small(question)})), recalled]


def corrected_and_recalled(draw: Draw) -> Conversation:
    """The value of the correction is used for the rest of the chat."""
    fact = draw.one(correctable())
    value = wrong_value(draw, fact)
    turns = (
        corrected_turns(draw, fact, value)
        + in_between(draw, draw.choose.choice((0, 0, 1, 2)), without=fact.value)
        + ask_again(draw, fact, value)
    )
    return talk("corrections", *turns, expected={"value": value, "not": fact.value, "question": turns[0]})


def corrected(draw: Draw) -> Conversation:
    fact = draw.one(correctable())
    value = wrong_value(draw, fact)
    return talk("corrections", *corrected_turns(draw, fact, value), expected={"value": value})


def corrected_then_other(draw: Draw) -> Conversation:
    """A correction changes one fact and no other."""
    fact, other = draw.choose.sample(correctable(), 2)
    value = wrong_value(draw, fact)
    same_group = [row for row in single.everyday_facts() if row.group == fact.group and row.subject != fact.subject]
    other = draw.one(same_group) if draw.chance(0.5) else other
    turns = [*corrected_turns(draw, fact, value), draw.dress(single.ask_fact(draw, other)), single.state(draw, other)]
    return talk("corrections", *turns, expected={"value": other.value})


def doubted(draw: Draw) -> Conversation:
    """ "Are you sure?" is no correction."""
    fact, wordings = draw.one(single.everyday_facts()), table("corrections")["wordings"]
    said = single.clause_of(draw, fact)
    turns = [
        draw.dress(single.ask_fact(draw, fact)),
        single.state(draw, fact),
        draw.careless(draw.wording(wordings["doubt"])),
        draw.answer(wordings["sure"], {"said": said}),
    ]
    return talk("doubts", *turns, expected={"value": fact.value})


def called_wrong(draw: Draw) -> Conversation:
    """ "That is wrong" without another value is asked back, and a value that follows is taken over."""
    fact, wordings = draw.one(correctable()), table("corrections")["wordings"]
    value = wrong_value(draw, fact)
    turns = [
        draw.dress(single.ask_fact(draw, fact)),
        single.state(draw, fact),
        draw.careless(draw.wording(wordings["wrong"])),
        draw.one(wordings["ask_back"]),
    ]
    if draw.chance(0.4):
        return talk("doubts", *turns)
    accepted = draw.answer(wordings["accept"], {"said": single.clause_of(draw, fact, value)})
    return talk(
        "doubts", *turns, correct(draw, fact, value), accepted, *ask_again(draw, fact, value), expected={"value": value}
    )


# Follow-ups


@cache
def group_follow_ups(part: Part) -> dict[str, tuple[str, ...]]:
    """The wordings of "And of Italy?" by group; shared wordings are held out for all groups at once."""
    groups = {group: parts(line, " / ") for group, line in table("follow_ups")["same_group"].items()}
    kept = split(tuple(dict.fromkeys(wording for wordings in groups.values() for wording in wordings)), part)
    return {
        group: here
        for group, wordings in groups.items()
        if (here := tuple(wording for wording in wordings if wording in kept))
    }


def same_group(draw: Draw) -> Conversation:
    """ "What is the capital of France?", "And of Italy?" """
    follow_ups = group_follow_ups(draw.part)
    group = draw.one(list(follow_ups))
    first, *more = draw.choose.sample(
        [fact for fact in single.everyday_facts() if fact.group == group], draw.choose.choice((2, 2, 3))
    )
    turns = [draw.dress(single.ask_fact(draw, first)), single.state(draw, first)]
    for fact in more:
        turns += [draw.careless(fact.fill(draw.one(follow_ups[group]))), single.state(draw, fact)]
    return talk("follow-ups", *turns, expected={"value": more[-1].value})


def there(draw: Draw) -> Conversation:
    """From the capital of a country to its language: "What do they speak there?" """
    wordings = table("follow_ups")["there"]
    about: dict[str, list[facts.Fact]] = {}
    for fact in single.everyday_facts():
        if fact.group in wordings:
            about.setdefault(fact.subject, []).append(fact)
    first, second = draw.choose.sample(draw.one([rows for rows in about.values() if len(rows) > 1]), 2)
    turns = [
        draw.dress(single.ask_fact(draw, first)),
        single.state(draw, first),
        draw.careless(draw.wording(parts(wordings[second.group], " / "))),
        single.state(draw, second),
    ]
    return talk("follow-ups", *turns, expected={"value": second.value})


def about_a_list(draw: Draw) -> Conversation:
    """Which came first, how many, two more."""
    data, count = table("follow_ups")["list"], draw.choose.randrange(3, 6)
    slots, items = single.some_items(draw, count + 2)
    slots["n"] = single.number(draw, count)
    request, numbered = single.ask_for_list(draw, slots)
    listed = single.with_intro(draw, table("lists")["intro"], slots, single.markdown(items[:count], numbered))
    kind = draw.one(("first", "first", "last", "second", "more", "count"))
    ask = draw.careless(draw.wording(parts(data[kind], " / ")))
    if kind == "more":
        answer, expected = single.markdown(items[count:], numbered), {"count": "2"}
    else:
        picked = {"first": items[0], "second": items[1], "last": items[count - 1]}.get(kind, str(count))
        answer = draw.answer(parts(data[f"{kind}_answer"], " / "), {"x": picked, "n": picked})
        expected = {"value": picked}
    return talk("follow-ups", draw.dress(capitalise(request)), listed, ask, answer, expected=expected)


def about_the_chat(draw: Draw) -> Conversation:
    """What was asked, what was said, and the same in capitals."""
    data, fact = table("follow_ups")["chat"], draw.one(single.everyday_facts())
    question, answer = single.ask_fact(draw, fact), single.state(draw, fact)
    kind = draw.one(("asked", "first_asked", "said", "loud"))
    between = in_between(draw, 2) if kind == "first_asked" else []
    ask = draw.careless(draw.wording(data[kind]))
    if kind == "loud":
        return talk("follow-ups", question, answer, ask, answer.upper(), expected={"value": fact.value})
    reply = draw.answer(data[f"{kind}_answer"], {"q": question, "a": answer})
    return talk(
        "follow-ups",
        question,
        answer,
        *between,
        ask,
        reply,
        expected={"value": fact.value if kind == "said" else question.rstrip("?.")},
    )


def longer_or_shorter(draw: Draw) -> Conversation:
    data = table("follow_ups")["length"]
    asks, short, long = single.explained(draw)
    question = draw.dress(draw.wording(asks))
    if draw.chance(0.5):
        return talk("follow-ups", question, long, draw.careless(draw.wording(data["shorter"])), short)
    return talk("follow-ups", question, short, draw.careless(draw.wording(data["longer"])), long)


def on_with_a_sum(draw: Draw) -> Conversation:
    data, first = table("follow_ups")["sum"], single.arithmetic_of(draw, "add")
    so_far = int(first.expected["value"])
    plus = so_far < 3 or draw.chance(0.5)
    n = draw.choose.randint(1, 10 if plus else min(10, so_far - 1))
    z = str(so_far + n if plus else so_far - n)
    ask = draw.careless(fill(draw.wording(parts(data["plus" if plus else "minus"], " / ")), {"n": str(n)}))
    return talk(
        "follow-ups", *texts(first), ask, draw.answer(parts(data["answer"], " / "), {"z": z}), expected={"value": z}
    )


def asked_again_about_a_text(draw: Draw) -> Conversation:
    """A passage, a question, and another question on the same passage."""
    row = draw.one(single.passages(draw))
    slots = draw.slots()
    asks = [tuple(fill(part, slots) for part in line.split(" | ")) for line in draw.choose.sample(row["questions"], 2)]
    (first, answer, _), (second, last, value) = asks
    message = fill(draw.one(table("reading")["layout"]), {"passage": fill(row["text"], slots), "question": first})
    return talk(
        "reading",
        message,
        single.from_text(answer, slots),
        draw.careless(second),
        single.from_text(last, slots),
        expected={"value": value},
    )


def thanked(draw: Draw) -> Conversation:
    """An answer, thanks, and a friendly end."""
    thanks = next(topic for topic in table("smalltalk")["topic"] if topic["name"] == "thanks")
    return talk(
        "follow-ups",
        *texts(
            draw.one(
                (
                    single.one_fact,
                    single.arithmetic,
                    single.asked_list,
                    single.definition,
                    single.explanation,
                    everyday.how_to,
                    everyday.recipe,
                )
            )(draw)
        ),
        draw.careless(draw.wording(thanks["ask"])),
        draw.one(table("follow_ups")["length"]["thanks"]),
    )


def several_questions(draw: Draw) -> Conversation:
    """Two or three facts, one after the other."""
    rounds = [single.one_fact(draw) for _ in range(draw.choose.choice((2, 2, 3)))]
    return talk("facts", *(text for one in rounds for text in texts(one)), expected=rounds[-1].expected)


def insisted(draw: Draw) -> Conversation:
    """Pressed to say what happened after the encyclopedia ends, the assistant stays honest."""
    data = table("cutoff")
    chosen = draw.one([topic for topic in data["topic"] if topic["expect"] == "2015" and topic["name"] != "end"])
    slots = single.cutoff_slots(draw)
    turns = [draw.dress(draw.sentence(chosen["ask"], slots)), draw.answer(chosen["answer"], slots)]
    for _ in range(draw.choose.choice((1, 1, 2))):
        turns += [draw.careless(draw.wording(data["insist"]["say"])), draw.one(data["insist"]["answer"])]
    return talk("cutoff", *turns, expected={"value": "2015"})


# System prompts


def persona(draw: Draw) -> Conversation:
    """The system prompt gives a name and a role; a question of knowledge is answered as ever."""
    data = table("systems")["persona"]
    given = draw.one((draw.name(), draw.name(), draw.word()))
    role, _, title = draw.one(data["roles"]).partition(" = ")
    slots = {"p": f"{title} {given}" if title and draw.chance(0.6) else given, "role": role}
    asked = "who" if draw.chance(0.8) else "work"
    who = [draw.careless(draw.wording(data[asked])), draw.answer(data[f"{asked}_answer"], slots)]
    other = texts(single.one_fact(draw)) if draw.chance(0.4) else []
    expected = {"value": given if asked == "who" else slots["role"]}
    return talk("system prompts", *other, *who, system=draw.sentence(data["system"], slots), expected=expected)


def with_plain_system(draw: Draw) -> Conversation:
    """The usual "You are a helpful assistant." changes nothing."""
    makers = (
        single.one_fact,
        single.identity,
        single.asked_list,
        single.refusal,
        single.small_talk,
        single.story,
        single.later_years,
        remembered,
        corrected_and_recalled,
    )
    plain = draw.one(makers)(draw)
    return talk(
        "system prompts",
        *texts(plain),
        system=draw.wording(table("systems")["plain"]["system"]),
        expected=plain.expected,
    )


def under_a_rule(draw: Draw) -> Conversation:
    """A rule of style, kept in every answer."""
    data = table("systems")
    rule = draw.one(data["rule"])
    slots = draw.slots()
    slots |= {key: fill(draw.one(parts(data["slots"][key], " / ")), slots) for key in ("begin", "end")}
    turns: Turns = []
    for _ in range(draw.choose.choice((1, 1, 2))):
        turns += _in_shape(draw, rule["shape"], slots)
    return talk("system prompts", *turns, system=draw.sentence(rule["system"], slots))


def _in_shape(draw: Draw, shape: str, slots: Mapping[str, str]) -> Turns:
    """A question, and its answer as the rule wants it."""
    if shape not in ("{answer}", "{value}", "{bold}") and draw.chance(0.3):
        question, answer = texts(draw.one((single.small_talk, single.definition))(draw))
        value = answer
    else:
        fact = draw.one(single.everyday_facts())
        question, answer, value = draw.dress(single.ask_fact(draw, fact)), single.state(draw, fact), fact.value
    filled = {
        "answer": answer,
        "value": capitalise(value),
        "bold": _bold(answer, value),
        **{key: slots[key] for key in ("begin", "end", "name")},
    }
    voices = table("systems")["voices"]
    voice = shape.strip("{}")
    return [question, fill(draw.one(parts(voices[voice], " / ")) if voice in voices else shape, filled)]


def _bold(answer: str, value: str) -> str:
    """The last mention of the value between ** marks."""
    found = list(re.finditer(re.escape(value), answer, re.IGNORECASE))
    return answer[: found[-1].start()] + f"**{found[-1][0]}**" + answer[found[-1].end() :] if found else answer
