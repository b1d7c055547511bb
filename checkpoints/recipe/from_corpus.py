"""Conversations made from the corpus: definitions, stories, explanations, instructions, tales to read.

Only short, plain pieces are taken. Where the question is a template of `intents/`, its held-out
wordings stay out here too.
"""

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator

from checkpoints.recipe import documents, single_turn
from checkpoints.recipe.draw import Conversation, Draw, capitalise, fill, normal, pairs, table, talk

GRIM = re.compile(
    r"\b(blood\w*|kill\w*|murder\w*|dead|death|die[ds]?|dying|corpse|knife|gun|guns|weapon\w*|drunk|beer|whiskey|sex\w*|naked|hell|damn|zombie\w*|demon\w*|devil|suicide|torture\w*|rape\w*|slave\w*|nazi\w*)\b",
    re.IGNORECASE,
)


STUFF = re.compile(
    r"the (?:act|making|state|quality|process|study|feeling|ability|practice|trait|condition|activity|art|science|fact|absence|property|branch)\b"
)


COMMONEST = 3000  # words that WordNet defines in the conversations


def sentences(text: str) -> list[str]:
    return re.findall(r"\S.*?[.!?][\"')]*(?=\s|$)", " ".join(text.split()))


def up_to(text: str, most: int) -> str:
    """Whole sentences from the start, at most so many words."""
    kept: list[str] = []
    for sentence in sentences(text):
        if len(" ".join([*kept, sentence]).split()) > most:
            break
        kept.append(sentence)
    return " ".join(kept)


def common(text: str, rank: dict[str, int], most: int) -> bool:
    return all(rank.get(word, most) < most for word in documents.WORD.findall(text.lower()))


def definitions(corpus: documents.Corpus, draw: Draw) -> Iterator[Conversation]:
    """The commonest words that can be glossed in common words."""
    own = explained_words()
    for word, kind, gloss in glosses(corpus):
        if word not in own:
            asks, start = single_turn.define(kind, word)
            for _ in range(3):
                expected = {"gloss": gloss}
                yield talk("definitions", draw.dress(draw.wording(asks)), f"{start} {gloss}.", expected=expected)


def explained_words() -> set[str]:
    """What `definitions.toml` and `explanations.toml` explain in words of our own."""
    rows = [row for kind in ("noun", "stuff", "verb", "word") for row in pairs(table("definitions")[kind])]
    rows += [row for kind in ("one", "many") for row in pairs(table("explanations")[kind])]
    return {re.sub(r"^(?:the|an?) ", "", normal(word)) for word, _ in rows}


def glosses(corpus: documents.Corpus) -> Iterator[tuple[str, str, str]]:
    """Word, kind as in `definitions.toml`, and gloss: the main sense of the commonest words whose gloss is plain."""
    rank, rows = documents.ranks(corpus), list(corpus.rows("oewn", "synsets.jsonl.xz"))
    narrower = Counter(above for row in rows for above in row.get("hyper") or ())
    senses: dict[str, list[tuple[float, dict]]] = {}
    for row in rows:
        for place, word in enumerate(row["words"]):
            senses.setdefault(word, []).append((_weight(row, place, narrower[row["id"]]), row))
    found = 0
    for word in sorted(senses.keys() & rank.keys(), key=lambda word: rank[word]):
        _, row = max(senses[word], key=lambda sense: sense[0])
        kind, gloss = _defined(row, word, rank)
        if kind and re.fullmatch(r"[a-z]{3,}(?<!ing)(?<!ed)(?<!s)", word):
            found += 1
            yield word, kind, gloss
        if found == COMMONEST:
            return


def _weight(row: dict, place: int, narrower: int) -> float:
    """How much a sense of a word looks like its main one: it heads its synset, has narrower ones below it, and examples."""
    return 2.0 * (place == 0) + math.log(1 + narrower) + 0.4 * len(row["ex"])


def _defined(row: dict, word: str, rank: dict[str, int]) -> tuple[str, str]:
    """Kind and gloss of a sense, or nothing."""
    speech, gloss = row["id"][-1], plain_gloss(row["gloss"], word, rank)
    if not gloss:
        return "", ""
    if speech == "n":
        counted = re.match(r"(?:an?|one|someone|somebody|something|any) ", gloss)
        return ("noun", gloss) if counted else ("stuff", gloss) if gloss.startswith("the ") else ("", "")
    if speech == "v":
        return "verb", gloss if gloss.startswith("to ") else f"to {gloss}"
    return {"a": "word", "s": "word"}.get(speech, ""), gloss


def plain_gloss(gloss: str, word: str, rank: dict[str, int]) -> str:
    """The gloss up to its first semicolon and without brackets, or nothing where it is long, odd or grim."""
    text = re.sub(r"\s*\([^()]*\)", "", documents.plain(gloss.split(";")[0])).strip().rstrip(",")
    odd = re.search(r"[()\d`\"/:]|\b(?:used|as of|e\.g|i\.e)\b", text) or text.startswith(
        ("especially", "usually", "of or", "or ", "and ")
    )
    stem = word[: max(4, len(word) - 2)]
    circular = any(other.startswith(stem) for other in documents.WORD.findall(text.lower()))
    fits = 2 <= len(text.split()) <= 16 and common(text, rank, 12000) and not circular
    return text if fits and not odd and not GRIM.search(f"{word} {text}") else ""


def stories(corpus: documents.Corpus, draw: Draw) -> Iterator[Conversation]:
    """The beginnings of corpus stories, cut at a sentence end, asked for by their title or subject."""
    rank, asks = documents.ranks(corpus), table("stories")["titled"]
    for request, text in _asked_stories(corpus):
        story = up_to(text, 125)
        length = len(story.split())
        simple = common(request, rank, 9000) and common(story, rank, 8000) and length <= 17 * len(sentences(story))
        if (
            length >= 55
            and simple
            and not GRIM.search(story + request)
            and story.count('"') % 2 == 0
            and not re.search(r"[*\[\]()#:]|\bI was\b|\ba [aeio][^n]|!!", story)
        ):
            yield talk(
                "stories",
                draw.courtesy(request if request.endswith(".") else fill(draw.one(asks), {"t": request})),
                story,
            )


def _asked_stories(corpus: documents.Corpus) -> Iterator[tuple[str, str]]:
    """Titles, or whole requests that end in a full stop, with the text of the story."""
    for row in corpus.snakes(("generated-child", "generated-bedtime", "llama-stories")):
        title, text = re.search(r"`(.+?)`", row["prompt"]), documents.plain(row["answer"])
        if title:
            yield title[1].rstrip("."), text.removeprefix(title[1]).strip()
        elif len(row["prompt"].split()) <= 30 and row["prompt"].endswith("."):
            yield documents.plain(row["prompt"]), text
    for name in ("african_storybook.jsonl.xz", "pratham.jsonl.xz"):
        for row in corpus.rows("stories_cc", name):
            yield documents.plain(row["title"]).rstrip("."), documents.plain(row["text"])


def explanations(corpus: documents.Corpus, draw: Draw) -> Iterator[Conversation]:
    """The first sentences that say what a thing is, without headings and chatter."""
    rank = documents.ranks(corpus)
    own = explained_words()
    for row in corpus.snakes(("llama-explanations", "llama-eli5", "llama-wiki")):
        prompt = re.search(r"(?:Explain|about) (.+?)(?: in simple terms| like I'm.*)?\.$", row["prompt"])
        if not prompt or normal(prompt[1]).removeprefix("the ") in own:
            continue
        subject, text = what_it_is(prompt[1], documents.plain(row["answer"]))
        if text and common(text, rank, 15000) and not GRIM.search(text):
            asks = table("explanations")["plural_ask" if f"{subject} are ".lower() in text.lower() else "ask"]
            for _ in range(2):
                yield talk("explanations", draw.dress(draw.sentence(asks, {"x": subject})), text)


def what_it_is(subject: str, text: str) -> tuple[str, str]:
    """From "Pluto is a small planet ..." on, at most 40 words, with the subject as the sentence names it; or nothing."""
    body = " ".join(line for line in text.split("\n") if line and not re.match(r"[*#\d-]", line))
    subject = re.sub(r"^(?:the|an?) ", "", subject, flags=re.IGNORECASE)
    named = rf"(?<![\w,] )\b(?P<subject>(?:The |An? )?{re.escape(subject)}) (?:is|are) (?:an?|the|one|tiny|small|large) [^*:]+"
    found = re.search(named, body, re.IGNORECASE)
    answer = up_to(found[0], 40) if found else ""
    if not found or len(answer.split()) < 7 or re.search(r"[*:()]|!|\b(?:Let|I|I'm)\b", answer):
        return "", ""
    name = found["subject"]
    article = re.match(r"(?:The|An?) ", name, re.IGNORECASE)
    proper = subject[:1].isupper() and not re.search(rf"\b{re.escape(subject.lower())}", body)
    return (article[0].lower() if article else "") + (subject if proper else subject.lower()), capitalise(answer)


OURS = re.compile(
    r"synonym|antonym|opposite|capital|plural|past tense|spell|rhyme|joke|story|poem|translate|language model|continent|author|wrote|how many|symbol|20\d\d|calculate|temperature|current|latest",
    re.IGNORECASE,
)


def instructions(corpus: documents.Corpus, draw: Draw) -> Iterator[Conversation]:
    """Short instructions with their answers, where no intent of our own covers them."""
    for row in json.loads(corpus.read("rasbt_instruct", "ch07__01_main-chapter-code__instruction-data.json")):
        request = documents.plain(f"{row['instruction']}\n{row['input']}".strip())
        answer = documents.plain(row["output"])
        if (
            len(f"{request} {answer}".split()) <= 60
            and f"{request}{answer}".isascii()
            and not OURS.search(request)
            and not GRIM.search(request + answer)
        ):
            yield talk("instructions", request, answer)
            if not row["input"]:
                yield talk("instructions", draw.dress(request), answer)


def tales_to_read(corpus: documents.Corpus, draw: Draw) -> Iterator[Conversation]:
    """One or two sentences of a tale that hold the answer word for word, and the question."""
    tales = {
        row["story"].removesuffix("-story"): sentences(documents.plain(re.sub(r"\s+", " ", row["text"])))
        for row in corpus.rows("fairytaleqa", "stories.jsonl.xz")
    }
    for row in corpus.rows("fairytaleqa", "qa.jsonl.xz"):
        question, answer = documents.plain(row["q"]), documents.plain(row["a"]).rstrip(".")
        passage = _passage(tales.get(row["story"].removesuffix("-story"), []), question, answer)
        if passage and question.endswith("?") and not GRIM.search(passage + question):
            message = fill(draw.one(table("reading")["layout"]), {"passage": passage, "question": question})
            yield talk("reading", message, capitalise(answer) + ".", expected={"value": answer})


def _passage(tale: list[str], question: str, answer: str) -> str:
    """The first two neighbouring sentences that hold the answer and two content words of the question."""
    wanted = {word for word in normal(question).split() if len(word) > 3} - {
        "what",
        "where",
        "when",
        "which",
        "whom",
        "whose",
        "that",
        "were",
        "have",
        "they",
        "with",
        "from",
        "this",
    }
    if not 1 <= len(answer.split()) <= 8:
        return ""
    for first, second in itertools.pairwise(tale):
        text = f"{first} {second}"
        if (
            len(text.split()) <= 50
            and text.count('"') % 2 == 0
            and f" {normal(answer)} " in f" {normal(text)} "
            and len(wanted & set(normal(text).split())) >= 3
        ):
            return text
    return ""
