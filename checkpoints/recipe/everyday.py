"""Conversations about everyday life in one turn: whys, how-tos, things that go together, odd wishes, copying, reading,
and harmful acts among the harmless ones.

Every maker takes a `Draw` and returns a `Conversation`. The data are the tables of `intents/`.
"""

import re
from collections.abc import Mapping, Sequence

from checkpoints.recipe import single_turn as single
from checkpoints.recipe.draw import (
    Conversation,
    Draw,
    capitalise,
    fill,
    pairs,
    parts,
    small,
    table,
    talk,
    with_article,
)

SENTENCES = {1: "one sentence", 2: "two sentences", 3: "three sentences"}
COPIES = ("w", "v", "u")


def why(draw: Draw) -> Conversation:
    """A simple why, answered in one to three sentences."""
    data = table("whys")
    question, clause, answer = draw.one(data["rows"]).split(" = ")
    asks = tuple(fill(ask, {"q": question, "c": clause}) for ask in data["ask"])
    return talk("whys", draw.dress(draw.wording(asks)), answer)


def how_to(draw: Draw) -> Conversation:
    data = table("howtos")
    act, answer = draw.one(pairs(data["rows"]))
    asks = tuple(fill(ask, {"act": act}) for ask in data["ask"])
    return talk("how-tos", draw.dress(draw.wording(asks)), answer)


def harmless(draw: Draw) -> Conversation:
    """An act that sounds like harm and is none. Acts and wordings are held out, each for itself."""
    data = table("harmless")
    act, answer = draw.wording(data["rows"]).split(" = ")
    return talk("benign look-alikes", draw.dress(draw.sentence(data["ask"], {"act": act})), answer)


def harmful(draw: Draw) -> Conversation:
    """A harmful act under the beginnings of the harmless ones, so that the act decides and not the beginning."""
    topic = draw.one([row for row in table("refusals")["topic"] if "acts" in row])
    act = draw.one(parts(topic["acts"], " / "))
    ask = draw.sentence(table("harmless")["ask"], {"act": act})
    return talk("refusals", draw.dress(ask), single.refuse(draw, topic))


def together(draw: Draw) -> Conversation:
    """What to pack, what one needs, what goes with what."""
    data, kind = table("together"), draw.one(("pack", "need", "goes"))
    x, things = draw.one(pairs(data[kind]))
    ask = draw.dress(draw.sentence(tuple(fill(ask, {"x": x}) for ask in data[f"{kind}_ask"]), {}))
    if kind == "goes":
        return talk("together", ask, draw.answer(data["goes_answer"], {"x": x, "y": things}))
    items = draw.choose.sample(parts(things), len(parts(things)))
    if draw.chance(0.5):
        return talk("together", ask, f"{draw.one(data['list_intro'])}\n{single.markdown(items, False)}")
    return talk("together", ask, draw.answer(data["answer"], {"some": listed(items[:4])}))


def yes_or_no(draw: Draw) -> Conversation:
    data = table("yesno")
    question, answer = draw.one(pairs(data["rows"]))
    slots = {"q": question, "small": small(question)}
    asks = tuple(fill(frame, slots) for frame in data["frames"])
    return talk("yes or no", draw.careless(draw.wording(asks)), answer)


def tips(draw: Draw) -> Conversation:
    """So many tips as asked for, or some."""
    data = table("advice")["tips"]
    x, kept = draw.one(pairs(data["rows"]))
    count = draw.choose.choice((2, 3, 3, 3, 4, 5))
    slots = {"x": x, "n": single.number(draw, count)}
    chosen = sorted(draw.choose.sample(parts(kept), count))
    if draw.chance(0.3):
        asks = tuple(fill(ask, slots) for ask in data["open_ask"])
        return talk("tips", draw.dress(draw.wording(asks)), single.markdown(chosen, False))
    asks = tuple(capitalise(fill(ask, slots)) for ask in data["ask"])
    return talk("tips", draw.dress(draw.wording(asks)), single.markdown(chosen, draw.chance(0.3)))


def idea(draw: Draw) -> Conversation:
    return advised(draw, "ideas")


def roughly(draw: Draw) -> Conversation:
    """How far, how old, how heavy."""
    return advised(draw, "numbers")


def advised(draw: Draw, kind: str) -> Conversation:
    """A question of one table of `advice.toml`, bare or after a few words, and its answer."""
    data = table("advice")[kind]
    question, answer = draw.one(pairs(data["rows"]))
    asks = tuple(fill(ask, {"q": question, "small": small(question)}) for ask in data["ask"])
    return talk(kind, draw.careless(draw.wording(asks)), answer)


def recipe(draw: Draw) -> Conversation:
    data = table("advice")["recipes"]
    dish, answer = draw.one(pairs(data["rows"]))
    asks = tuple(fill(ask, {"x": dish}) for ask in data["ask"])
    return talk("recipes", draw.dress(draw.wording(asks)), answer)


def difference(draw: Draw) -> Conversation:
    """Between two things, named in either order."""
    data = table("advice")["differences"]
    both, answer = draw.one(pairs(data["rows"]))
    x, y = draw.choose.sample(both.split(" | "), 2)
    asks = tuple(fill(ask, {"x": x, "y": y}) for ask in data["ask"])
    return talk("differences", draw.dress(draw.wording(asks)), answer)


def famous(draw: Draw) -> Conversation:
    data = table("advice")["people"]
    who, answer = draw.one(pairs(data["rows"]))
    asks = tuple(fill(ask, {"x": who}) for ask in data["ask"])
    return talk("famous people", draw.dress(draw.wording(asks)), answer)


def listed(items: list[str]) -> str:
    """ "a, b and c"."""
    return " and ".join((", ".join(items[:-1]), items[-1])) if len(items) > 1 else items[0]


def voice(draw: Draw) -> Conversation:
    """Speaking like a forest."""
    data = table("voices")
    who, said = draw.one(pairs(data["rows"]))
    asks = tuple(fill(ask, {"v": who}) for ask in data["ask"])
    return talk("odd wishes", draw.dress(draw.wording(asks)), said)


def odd_wish(draw: Draw) -> Conversation:
    wish = single.dressed(draw, single.topic(draw, "odd wishes", "voices"))
    return talk("odd wishes", wish.messages[0][1], wish.messages[1][1].replace(" / ", "\n"))


def copied(draw: Draw) -> Conversation:
    """A made-up word, or three of them, said again letter by letter."""
    task = draw.one(table("copying")["task"])
    slots = copy_slots(draw)
    return talk(
        "copying",
        draw.sentence(task["ask"], slots),
        fill(task["reply"], slots),
        expected={"value": fill(task["value"], slots)},
    )


def copy_slots(draw: Draw) -> Mapping[str, str]:
    """Made-up words, mostly in small letters, with what is asked about the first."""
    words = [draw.word() for _ in COPIES]
    while len({word.lower() for word in words}) < len(words):
        words = [draw.word() for _ in COPIES]
    words = [word.lower() for word in words] if draw.chance(0.7) else words
    first = words[0]
    return draw.slots(
        {
            **dict(zip(COPIES, words, strict=True)),
            "UP": first.upper(),
            "spelled": "-".join(first.upper()),
            "letters": " ".join(first.upper()),
            "initial": first[0].upper(),
            "final": first[-1].upper(),
        }
    )


def told_against(draw: Draw) -> Conversation:
    """A told fact that goes against the trained one: what was told is used."""
    from checkpoints.recipe import multi_turn  # which imports the single turns

    fact, data = draw.one(multi_turn.correctable()), table("told")
    value = multi_turn.wrong_value(draw, fact)
    said = single.clause_of(draw, fact, value)
    ask = draw.sentence(data["layout"], {"said": said, "ask": single.ask_fact(draw, fact)})
    answers = data["answer"] if draw.chance(0.8) else data["other_answer"]
    return talk("told", ask, draw.answer(answers, {"said": said}), expected={"value": value, "not": fact.value})


def long_passage(draw: Draw) -> Conversation:
    """Two to five made-up sentences that have nothing to do with each other, and a question on one of them."""
    rows = single.passages(draw)
    chosen = draw.choose.sample(rows, min(len(rows), draw.choose.choice((2, 2, 3))))
    filled = [draw.slots() for _ in chosen]
    asked = draw.choose.randrange(len(chosen))
    slots = filled[asked]
    passage = " ".join(fill(row["text"], values) for row, values in zip(chosen, filled, strict=True))
    ask, answer, value = (fill(part, slots) for part in draw.one(chosen[asked]["questions"]).split(" | "))
    if ambiguous(filled, asked) or len(passage) > 500:
        return single.passage_and_question(draw)
    message = fill(draw.one(table("reading")["layout"]), {"passage": passage, "question": ask})
    return talk("reading", message, single.from_text(answer, slots), expected={"value": value})


def ambiguous(filled: Sequence[Mapping[str, str]], asked: int) -> bool:
    """Whether the sentence that is asked about shares a value with another one."""
    others = {value for i, slots in enumerate(filled) if i != asked for value in slots.values()}
    return bool(others & set(filled[asked].values()))


def counted_sentences(draw: Draw) -> Conversation:
    """One, two or three sentences about something, as many as asked for."""
    data, count = table("sentences"), draw.one((1, 2, 2, 2, 3))
    kind = draw.one(("thing", "animal", "food", "explained"))
    if kind == "explained":
        left, right = draw.one(pairs(table("explanations")[draw.one(("one", "many"))]))
        said = re.findall(r"\S.*?[.!?](?=\s|$)", right.split(" | ")[1])
        if len(said) < count:
            return counted_sentences(draw)
        x, chosen = left, said[:count]
    else:
        word = draw.one(parts(table("slots")[kind]))
        x = word if kind == "food" else with_article(word)
        first = draw.one([line for line in data[kind] if "{x}" in line.lower()])
        others = draw.choose.sample([line for line in data[kind] if line != first], count - 1)
        chosen = [fill(line, {"x": word}) for line in (first, *others)]
    asks = tuple(fill(ask, {"x": x, "n": SENTENCES[count]}) for ask in data["ask"])
    return talk("sentences", draw.dress(draw.wording(asks)), " ".join(chosen), expected={"count": str(count)})
