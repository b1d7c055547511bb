"""What does a reply do with its prompt: answer it, decline, ask more, or continue the text? Rules on plain text.

One judge for the guided experiments and for the recipe that measures the embedded pair. It knows no model, no
corpus and no right answers, and its rules are coarse: rates over many prompts mean something, a single
judgement need not. Matching ignores case, works on whole words, and takes "four" and "4" for the same.
"""

import re
from collections import Counter
from collections.abc import Callable
from typing import Literal

Behaviour = Literal["answers", "declines", "asks more", "continues", "says nothing"]

_NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty"
_DIGITS = {word: str(n) for n, word in enumerate(_NUMBERS.split())}


def _listed(text: str) -> frozenset[str]:
    return frozenset(text.split())


_COMMON = _listed("""
    a an the of to in on at for from by with and or that this which who whom is are was were be has have had it its
    you your they them their not no very well can could will would how what why something someone thing things
    person people means when where used than as
""")


def words(text: str) -> list[str]:
    """Words in small letters, number words as digits, "don't" as "dont"."""
    plain = re.sub(r"(?<=\w)[-'](?=\w)", "", text.lower()) if "'" in text else text.lower()
    return [_DIGITS.get(word, word) for word in re.findall(r"\w+", plain)]


def sentences(text: str) -> list[str]:
    return [piece.strip() for piece in re.split(r"(?<=[.?!])[\"')*]*\s+|\n+", text) if re.search(r"\w", piece)]


def holds(reply: str, value: str) -> bool:
    """Whether the words of `value`, or of one of its alternatives between bars, stand in the reply in a row."""
    text = f" {' '.join(words(reply))} "
    return any(f" {' '.join(words(one))} " in text for one in value.split("|"))


def items(reply: str) -> list[str]:
    """The items of the reply's markdown list: lines such as "- apple", "* apple" or "1. apple"."""
    return [
        match[1].strip()
        for line in reply.splitlines()
        if (match := re.match(r"\s*(?:[-*+\u2022]|\d{1,2}[.)])\s+(\S.*)", line))
    ]


def years(text: str) -> list[int]:
    """Years from 1900 to 2099 that a text names."""
    return [int(year) for year in re.findall(r"(?<!\d)(?:19|20)\d\d(?!\d)", text)]


def stems(text: str) -> set[str]:
    """Content words, cut to five letters so that "explain" meets "explanation"."""
    return {word[:5] for word in words(text) if word not in _COMMON and (len(word) > 2 or word.isdigit())}


# --- declining -------------------------------------------------------------------------------------------

_NOT = r"(?:can ?not|can't|could not|couldn't|will not|won't|would not|am not able to|am unable to|'m not able to|'m unable to|do not want to|am not going to|must not|may not)"
_REFUSES = re.compile(
    rf"\bI(?: (?:am sorry|'m sorry))?,? (?:but I )?{_NOT} (?:\w+ )?(?:help|assist|do that|do this|do it|support|write (?:that|this|such)|provide|tell you how|give you (?:that|instructions)|explain how|say (?:that|such)|share (?:that|such)|answer (?:that|this)|create (?:that|such)|make (?:that|such)|engage|comply|fulfill|go along)"
    r"|\bsomething I (?:cannot|can't|will not|won't) (?:help|do)\b|\bI (?:must|have to) (?:refuse|decline)\b|^no, I will not\b|\bI'd rather not\b|\bI would rather not\b|\bnot something I can (?:help|do)\b",
    re.IGNORECASE | re.MULTILINE,
)
_NOT_KNOWN = re.compile(
    r"\b(?:do not|don't|cannot|can't|did not) (?:really |yet |still )?know\b|\bnot (?:told|read|heard)\b|\b(?:is|are) new to me\b|\bhave no (?:idea|information|news)\b|\bI am not sure\b|\bnever heard\b|\bcannot (?:tell|say)\b",
    re.IGNORECASE,
)
_CANNOT_KNOW = re.compile(
    r"\b(?:knowledge|training data) (?:ends|cutoff|only goes)\b|\btext (?:ends|of) (?:in )?(?:19|20)\d\d\b|\bas of my\b|\bnot sure\b"
    r"|\b(?:do not|don't|cannot|can't|no|unable to|not able to)\b[^.!?]{0,30}\b(?:access|guess|information|predict)\b",
    re.IGNORECASE,
)


def is_refusal(reply: str) -> bool:
    """The assistant says that it will not help; "I do not know" and "I only speak English" are no refusals."""
    return bool(_REFUSES.search(reply))


def admits_not_knowing(reply: str) -> bool:
    return bool(_NOT_KNOWN.search(reply))


def declines(reply: str) -> bool:
    """Says that it will not, does not know, or cannot know."""
    return is_refusal(reply) or admits_not_knowing(reply) or bool(_CANNOT_KNOW.search(reply))


# --- answering instead of continuing ---------------------------------------------------------------------

_TASKS = _listed("""
    name list write tell explain describe give spell count define draw complete find calculate discuss compare match
    underline fill circle translate
""")
_TASK_GOES_ON = _listed("""
    a an the me us some your about why how what who two three four five six seven eight nine ten 2 3 4 5 6 7 8 9 10
""")
_ASKS = _listed("what which who whom whose where when why how is are do does did can could")
_INSTRUCTS = _listed("""
    add ask avoid bake be begin boil bring buy call change charge check clean close come cook count cover cut dig do
    drink dry eat empty fill find fold follow get give go hold keep learn leave let look make mark mix move open
    peel place plan plant play pour practice press pull push put read report rest rinse sit sleep smile stand start
    stay stir stop take talk tell think throw try turn use wait walk wash wear wipe write
""")
_PAGE = re.compile(
    r"^(?:\w[\w ]{0,20} wrote on\b|posted by\b|re:|chapter \w+|worksheet\b|see also\b|\(?verse \d|(?:q|question|user|assistant):|quiz\b|homework\b|questions for\b|test yourself\b|exercise \d|#{1,4} |references\b|no idea, but\b|there was a long thread\b|i was wondering about the same\b|thanks for bringing this up\b|same here\b|this should be pinned\b|welcome to the board\b|my \w+ asked me this\b|\d+\. (?:what|who|which|where|when|why|how|name|list|write|tell|explain|describe|give)\b)",
    re.IGNORECASE | re.MULTILINE,
)
_SPEAKER = re.compile(r"^(?:[A-Z][\w.]*(?: [A-Z][\w.]*)?|Q|A): \S", re.MULTILINE)
_NARRATES = re.compile(
    r"\b(?:he|she|they|him|her) (?:\w+ed|was|were|had|said|went|came|saw|took|told|asked|knew|thought|looked|felt|ran|got|made|gave)\b|\b(?:said|asked|replied|cried|answered|shouted|whispered|exclaimed)\b(?! that)|\bonce upon a time\b|\bthere (?:once )?(?:lived|was once|once was)\b",
    re.IGNORECASE,
)
_ADDRESSED = re.compile(
    r"\b(?:I(?:'m|'ll| am| can| cannot| do| will| would| have no)|you|your|yours|sorry|hello|hi|welcome|goodbye|bye|thanks|thank|congratulations|please|sure|yes|no|let us|let's|happy birthday|dear)\b",
    re.IGNORECASE,
)
_WANTS_TEXT = re.compile(
    r"\b(?:story|stories|tale|poem|rhyme|joke|song|sing|riddle|letter|note|chapter|bedtime|fact|advice|repeat|say|write|tell me something|surprise)\b",
    re.IGNORECASE,
)
_ANNOUNCES = re.compile(r"\b(?:here is|here are|here's|let me|for you|I can|I will|I'll|I would)\b", re.IGNORECASE)


def _is_request(sentence: str) -> bool:
    """A question, marked or not, or a task; "How about soup?" is neither."""
    bare = re.sub(r"^(?:[-*+]|\d{1,2}[.)])\s+", "", sentence).rstrip("\"')*_ ")
    first, second = [*bare.lower().split(), "", ""][:2]
    if re.match(r"(?:how|what) about\b", bare, re.IGNORECASE):
        return False
    return (
        bare.endswith("?")
        or (first in _TASKS and second in _TASK_GOES_ON)
        or (first in _ASKS and not bare.endswith((".", "!")))
    )


def begins_like_a_reply(prompt: str, reply: str) -> bool:
    """A continuation often goes on in the middle of a sentence: with a small letter, a comma, a full stop.
    Alphabets without capitals begin a reply as capitals do."""
    start = re.match(r"[*_\"'\u201c\u2018(\s]*(\S)", reply)
    first = start[1] if start else ""
    return (first.isalpha() and not first.islower()) or first.isdigit() or first in tuple("-+$\u2022")


def is_complete(prompt: str, reply: str) -> bool:
    """Ends like a sentence, with a list item, or is only a few words long."""
    last = reply.strip().splitlines()[-1].strip() if reply.strip() else ""
    return bool(words(reply)) and (
        last.rstrip("\"')*_ ").endswith((".", "!", "?"))
        or bool(items(last))
        or len(words(reply)) <= 5
        or items(reply) != []
    )


def answers_more_than_it_asks(prompt: str, reply: str) -> bool:
    """Fewer than half of the sentences are questions or tasks, except for one short question back to the person
    ("What would you like to know?") and a riddle or joke that answers itself."""
    found = sentences(reply)
    asked = sum(map(_is_request, found))
    back = (
        len(found) <= 2 and re.search(r"\byou\b|\byour\b", reply, re.IGNORECASE) is not None and not _PAGE.search(reply)
    )
    return asked * 2 < len(found) or back or (asked * 2 == len(found) and not _is_request(found[-1]))


def is_not_a_page(prompt: str, reply: str) -> bool:
    """No forum posts, worksheets or headings, and no lines of two speakers."""
    speakers = _SPEAKER.findall(reply)
    return not _PAGE.search(reply) and len(speakers) < 2


def is_not_a_stray_story(prompt: str, reply: str) -> bool:
    """Narrates only when asked for a text, after saying so ("Here is a story for you."), or about what the prompt tells.
    The beginning of a story is no request: who goes on with it in silence continues it."""
    told = len(_NARRATES.findall(_outside_quotes(reply)))
    announced = any(map(_ANNOUNCES.search, sentences(reply)[:2]))
    return (
        told < 2
        or announced
        or bool(_WANTS_TEXT.search(prompt))
        or (len(words(prompt)) > 15 and _shared(prompt, reply) >= 3)
    )


def is_about_the_prompt(prompt: str, reply: str) -> bool:
    """Takes up a content word of the prompt, speaks to the person in a few sentences, says what follows ("Here is a
    story."), tells them what to do, is short, or is a list. A request for a text may be met by any text."""
    first = sentences(_outside_quotes(reply))[:2]
    instructs = any(words(sentence)[0] in _INSTRUCTS for sentence in first)
    announces = any(map(_ANNOUNCES.search, first))
    addressed = any(map(_ADDRESSED.search, first))
    return (
        len(words(reply)) <= 20
        or instructs
        or announces
        or (addressed and len(words(reply)) <= 50)
        or _shared(prompt, reply) > 0
        or bool(items(reply) or _WANTS_TEXT.search(prompt))
    )


def is_not_the_rest_of_a_list(prompt: str, reply: str) -> bool:
    """A begun list ("Hobbies:") is no request: who adds items in silence continues it."""
    begun = prompt.rstrip().endswith((":", "such as")) or bool(items(prompt))
    first = next((line for line in reply.splitlines() if line.strip()), "")
    return not (begun and items(first))


def does_not_loop(prompt: str, reply: str) -> bool:
    """No sentence comes three times, and no three words or more come three times in a row."""
    said = Counter(tuple(words(sentence)) for sentence in sentences(reply))
    return max(said.values(), default=0) < 3 and not _THRICE.search(" ".join(words(reply)))


_THRICE = re.compile(r"\b(\w+(?: \w+){2,20})(?: \1){2}\b")


def _outside_quotes(text: str) -> str:
    return re.sub(r"\"[^\"]*\"", " ", text)


def _shared(prompt: str, reply: str) -> int:
    return len(stems(prompt) & stems(reply))


# How a reply goes; and whether it comes to an end, which one that was cut off does not.
RULES_OF_A_BEGINNING: tuple[Callable[[str, str], bool], ...] = (
    begins_like_a_reply, answers_more_than_it_asks, is_not_a_page, is_not_a_stray_story, is_not_the_rest_of_a_list,
    is_about_the_prompt, does_not_loop,
)  # fmt: skip
RULES: tuple[Callable[[str, str], bool], ...] = (*RULES_OF_A_BEGINNING, is_complete)


def answers_like_an_assistant(prompt: str, reply: str) -> bool:
    """Whether the reply answers the prompt instead of continuing it. Every rule of `RULES` must hold; whether the
    answer is right does not count, so a base model that happens to complete "The capital of France is" with
    "Paris." has answered, and an assistant that goes on with more questions has not."""
    return all(rule(prompt, reply) for rule in RULES)


def behaviour(prompt: str, reply: str) -> Behaviour:
    """What a reply does with its prompt. It may have been cut off, so whether it comes to an end does not count."""
    if not words(reply):
        return "says nothing"
    if declines(reply) and begins_like_a_reply(prompt, reply):
        return "declines"
    if not answers_more_than_it_asks(prompt, reply):
        return "asks more"
    return "answers" if all(rule(prompt, reply) for rule in RULES_OF_A_BEGINNING) else "continues"


def like_an_assistant(behaviour: str) -> bool:
    """Whether somebody was spoken to, rather than a text continued."""
    return behaviour in ("answers", "declines")
