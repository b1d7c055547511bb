"""Does a reply answer, or does it continue the text? A few rules on plain text: no model, no corpus, no list of right answers.

They are coarse on purpose. Experiments report rates over several prompts, beside the replies themselves.
"""

import re
from collections import Counter
from typing import Literal

Behaviour = Literal["answers", "declines", "asks more", "continues", "says nothing"]

_DECLINES = re.compile(
    r"\b(?:do not|don't|cannot|can't|can not|am not able to|unable to|not sure|no information)\b[^.!?]{0,40}\b(?:know|say|tell|answer|help|guess|sure|information|access|predict|provide)\b"
    r"|\bnot sure\b|\bno information\b|\bknowledge (?:ends|cutoff|only goes)\b|\btext (?:ends|of) (?:in )?(?:19|20)\d\d\b|\bas of my\b",
    re.IGNORECASE,
)
_SPEAKS_TO_THE_PERSON = re.compile(
    r"\b(?:I|I'm|I'll|you|your|sorry|sure|certainly|hello|hi|thanks|thank you|welcome|please|here (?:is|are)|let me)\b",
    re.IGNORECASE,
)
_PAGE_FURNITURE = re.compile(
    r"^(?:#{1,6} |\(?verse \d|chapter \w+|posted by\b|re:|question:|answer:|q:|a:|exercise\b|references\b|see also\b|user:|assistant:)",
    re.IGNORECASE | re.MULTILINE,
)
_ITEM = re.compile(r"^\s*(?:[-*+\u2022]|\d{1,2}[.)])\s+\S", re.MULTILINE)


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:'[^\W_]+)?", text.lower())


_QUESTION_WORDS = frozenset(
    words("what which who whom whose where when why how can could do does did is are was were name")
)
_COMMON = frozenset(
    words(
        "a an the of to in on at for from by with and or that this which who is are was were be have has had it its you your they them not no very what when where how do does did me my please tell name give one some about"
    )
)


def holds(reply: str, value: str) -> bool:
    """Whether the value stands in the reply, as whole words, in any case."""
    return f" {' '.join(words(value))} " in f" {' '.join(words(reply))} "


def declines(reply: str) -> bool:
    """Says that it does not know or will not say."""
    return bool(_DECLINES.search(reply))


def sentences(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"(?<=[.?!])[\"')*]*\s+|\n+", text) if words(part)]


def is_question(sentence: str) -> bool:
    first = next(iter(words(sentence)), "")
    return sentence.rstrip("\"')*_ ").endswith("?") or (first in _QUESTION_WORDS and not sentence.endswith((".", "!")))


def behaviour(prompt: str, reply: str) -> Behaviour:
    """What a reply does with its prompt.

    It asks more when most of it are questions, one short question back to the person excepted. It answers
    when it begins as a reply does (not in the middle of a sentence), looks like no page of a book or a
    forum, does not go round in circles, and either takes up a word of the prompt, speaks to the person,
    is a list or is only a word or three.
    """
    found = sentences(reply)
    if not found:
        return "says nothing"
    if declines(reply) and _begins_anew(reply):
        return "declines"
    asks_back = len(found) <= 2 and re.search(r"\byour?\b", found[-1], re.IGNORECASE)
    asked = sum(map(is_question, found))
    if not asks_back and (asked * 2 > len(found) or (asked * 2 == len(found) and is_question(found[-1]))):
        return "asks more"
    if not _begins_anew(reply) or _PAGE_FURNITURE.search(reply) or _loops(reply):
        return "continues"
    about = bool(_content(prompt) & _content(reply)) or bool(_ITEM.search(reply))
    addressed = bool(_SPEAKS_TO_THE_PERSON.search(" ".join(found[:2])))
    return "answers" if about or addressed or len(words(reply)) <= 3 else "continues"


def _begins_anew(reply: str) -> bool:
    """With a capital, a figure, a list item, or in an alphabet that may have no capitals."""
    first = re.sub(r"^[\s*_\"'(]+", "", reply)[:1]
    return first.isupper() or first.isdigit() or first in tuple("-*+$\u2022") or not first.isascii()


def _loops(reply: str) -> bool:
    """Some four words come three times."""
    found = words(reply)
    runs = Counter(tuple(found[i : i + 4]) for i in range(len(found) - 3))
    return max(runs.values(), default=0) >= 3


def _content(text: str) -> set[str]:
    """Words that carry meaning, cut to five letters so that "plants" meets "plant"."""
    return {word[:5] for word in words(text) if word not in _COMMON and len(word) > 2}


def like_an_assistant(behaviour: Behaviour) -> bool:
    """Whether somebody was spoken to, rather than a text continued."""
    return behaviour in ("answers", "declines")


def years(text: str) -> list[int]:
    """Years from 1900 to 2099 that a text names."""
    return [int(year) for year in re.findall(r"(?<!\d)(?:19|20)\d\d(?!\d)", text)]
