"""Plain documents for pre-training, by kind, out of the corpus folder.

A document is a string that begins where a page begins and ends where it ends. This file knows the
corpus and nothing of tokens. The base model sees these and only these: no conversation markup.
"""

import csv
import hashlib
import json
import lzma
import random
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path

from checkpoints.recipe import pages, written

SOURCES = tomllib.loads((Path(__file__).parent / "sources.toml").read_text("utf-8"))

# Typographic marks that a 4,096-token vocabulary should not spend tokens on.
_PLAIN = str.maketrans(
    {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "...", "\u00a0": " ", "\u200b": ""}
)

_FOREIGN = re.compile(r" ?\([^()\n]*[^\x00-\xff\u2013][^()\n]*\)")  # names in other scripts, phonetic signs

COLONIAL_TITLES = (
    "The Settlers in Canada",
    "With Clive in India",
    "The Coral Island",
    "Masterman Ready",
    "Allan Quatermain",
    "King Solomon's Mines",
    "The Rival Crusoes",
    "Stalky & Co.",
    "The Surprising Adventures of Sir Toady Lion",
    "The Settlers at Home",
)
STORY_KINDS = (
    "generated-child",
    "generated-campfire",
    "generated-bedtime",
    "generated-food-stories",
    "llama-stories",
    "llama-slice-of-life",
)
EXPLAINING_KINDS = ("llama-eli5", "llama-explanations", "llama-wiki", "llama-howto", "llama-blog")
QUIZ_CATEGORIES = (
    "for-kids",
    "animals",
    "geography",
    "science-technology",
    "world",
    "general",
    "history",
    "literature",
    "humanities",
    "people",
    "hobbies",
)
# Kinds of noun in WordNet that a page can be about: things one can point at.
THINGS = ("noun.artifact", "noun.animal", "noun.plant", "noun.object")
WORD = re.compile(r"[a-z]+")
UNSUITABLE = re.compile(
    r"\b(prostitut\w*|drug\w*|gun|guns|weapon\w*|suicid\w*|abortion\w*|death|kill\w*|murder\w*|war|sex\w*|porn\w*|nazi\w*|terror\w*|slave\w*|racis\w*|tortur\w*|euthan\w*|alcohol\w*|gambl\w*)\b",
    re.IGNORECASE,
)


class Corpus:
    """The corpus folder, every file checked against `sources.toml` when it is first read."""

    def __init__(self, folder: Path):
        self.folder = folder

    def read(self, source: str, name: str) -> str:
        data = (self.folder / source / name).read_bytes()
        expected = SOURCES[source]["files"][name]
        if hashlib.sha256(data).hexdigest() != expected:
            raise ValueError(
                f"{source}/{name} is not the file that sources.toml names; fetch commit {SOURCES[source]['commit']} again"
            )
        return (lzma.decompress(data) if name.endswith(".xz") else data).decode("utf-8")

    def rows(self, source: str, name: str) -> Iterator:
        return map(json.loads, self.read(source, name).splitlines())

    def snakes(self, kinds: tuple[str, ...]) -> list[dict]:
        return [row for row in self.rows("snakes_llama31", "all.jsonl.xz") if row["kind"] in kinds]


def plain(text: str) -> str:
    """Straight quotes, no trailing spaces, at most one blank line in a row."""
    text = re.sub(r"[ \t]+\n", "\n", text.translate(_PLAIN).replace("\r\n", "\n"))
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def stories(corpus: Corpus) -> Iterator[str]:
    for row in corpus.snakes(STORY_KINDS):
        title = re.search(r"`(.+?)`", row["prompt"])
        answer = plain(row["answer"])
        yield (
            f"{title[1]}\n\n{answer}" if title and not answer.startswith(title[1]) and len(answer) % 3 == 0 else answer
        )


def tales(corpus: Corpus) -> Iterator[str]:
    for name in ("african_storybook.jsonl.xz", "pratham.jsonl.xz"):
        for row in corpus.rows("stories_cc", name):
            yield plain(f"{row['title']}\n\n{row['text']}")
    for row in corpus.rows("fairytaleqa", "stories.jsonl.xz"):
        yield plain(re.sub(r"(?<!\n)\n(?!\n)", " ", row["text"]))


def books(corpus: Corpus) -> Iterator[str]:
    for book in corpus.read("clic_books", "ChiLit.txt.xz").split("<|endoftext|>"):
        if not book.strip().startswith(COLONIAL_TITLES):
            yield from paged(plain(book), 6000)


def paged(text: str, size: int) -> Iterator[str]:
    """`text` in pieces of whole paragraphs, each about `size` characters."""
    page: list[str] = []
    for paragraph in text.split("\n\n"):
        page.append(paragraph)
        if sum(map(len, page)) >= size:
            yield "\n\n".join(page)
            page = []
    if page:
        yield "\n\n".join(page)


def _wiki(corpus: Corpus, name: str) -> Iterator[str]:
    for article in corpus.read("wiki2015", name).split("\n\n"):
        if article.count("\n") and len(article) > 200:
            yield plain(_FOREIGN.sub("", article).replace("(; ", "(").replace(" (])", ""))


def encyclopedia_simple(corpus: Corpus) -> Iterator[str]:
    return _wiki(corpus, "wiki_simple.txt.xz")


def encyclopedia_leads(corpus: Corpus) -> Iterator[str]:
    return _wiki(corpus, "wiki_lead2.txt.xz")


def encyclopedia(corpus: Corpus) -> Iterator[str]:
    return _wiki(corpus, "wiki_medium.txt.xz")


def explanations(corpus: Corpus) -> Iterator[str]:
    for row in corpus.snakes(EXPLAINING_KINDS):
        yield plain(row["answer"])


def textbooks(corpus: Corpus) -> Iterator[str]:
    for row in corpus.snakes(("llama-textbook",)):
        yield from paged(plain(row["answer"]), 4000)


def poems(corpus: Corpus) -> Iterator[str]:
    for row in corpus.snakes(("llama-song-poems",)):
        topic = re.search(r"about (.+?)\.?$", row["prompt"])
        yield plain(f"{topic[1].capitalize()}\n\n{row['answer']}" if topic else row["answer"])


def dialogues(corpus: Corpus) -> Iterator[str]:
    names = random.Random(7)
    people = corpus_names(corpus)
    for row in corpus.rows("sgd", "dialogues.jsonl.xz"):
        yield _dialogue([(who == "USER", text) for who, text in row["turns"]], names.sample(people, 2))
    for turns in corpus.rows("tm4", "coffee.jsonl.xz"):
        yield _dialogue([(who == "user", text) for who, text in turns], ["Customer", "Barista"])
    for name in ("data__Synthetic-Persona-Chat_valid.csv", "data__Synthetic-Persona-Chat_test.csv"):
        for row in csv.DictReader(corpus.read("synthetic_persona_chat", name).splitlines(keepends=True)):
            turns = re.findall(r"User (1|2): (.+)", row["Best Generated Conversation"])
            yield _dialogue([(who == "1", text) for who, text in turns], names.sample(people, 2))


def _dialogue(turns: list[tuple[bool, str]], names: list[str]) -> str:
    return plain("\n".join(f"{names[0] if first else names[1]}: {text}" for first, text in turns))


def corpus_names(corpus: Corpus) -> list[str]:
    return json.loads(corpus.read("dariusk_corpora_cc0", "data__humans__firstNames.json"))["firstNames"]


def podcasts(corpus: Corpus) -> Iterator[str]:
    """Talks on the air and debates at school: questions are followed by other people's views."""
    for row in corpus.snakes(("generated-podcast", "llama-debates")):
        if not UNSUITABLE.search(row["prompt"] + row["answer"][:600]):
            yield plain(row["answer"])


def word_examples(corpus: Corpus) -> Iterator[str]:
    for row in corpus.snakes(("llama-sentences", "llama-synonyms")):
        yield plain(row["answer"])


@lru_cache(maxsize=1)
def ranks(corpus: Corpus) -> dict[str, int]:
    """How common a word is in the stories: 0 for the commonest."""
    counts: Counter[str] = Counter()
    for reader in (stories, tales):
        for text in reader(corpus):
            counts.update(WORD.findall(text.lower()))
    return {word: i for i, (word, _) in enumerate(counts.most_common())}


@lru_cache(maxsize=1)
def _questions(corpus: Corpus) -> tuple[str, ...]:
    """Questions of the corpus: a quiz's and those on tales."""
    asked = [plain(row["q"]) for row in corpus.rows("opentriviaqa", "trivia.jsonl.xz") if row["cat"] in QUIZ_CATEGORIES]
    asked += [plain(row["q"]) for row in corpus.rows("fairytaleqa", "qa.jsonl.xz")]
    return tuple(dict.fromkeys(q for q in asked if q.endswith("?") and 15 < len(q) < 110 and not UNSUITABLE.search(q)))


def _nouns(corpus: Corpus, files: tuple[str, ...] = ()) -> dict[str, int]:
    """Nouns that are nothing but nouns and neither among the commonest words nor rare, with their rank; of these
    WordNet files, if any are named."""
    rank, rows = ranks(corpus), list(corpus.rows("oewn", "synsets.jsonl.xz"))
    others = {word for row in rows if not row["file"].startswith("noun.") for word in row["words"][:1]}
    found = {
        word
        for row in rows
        if row["file"] in files or (not files and row["file"].startswith("noun."))
        for word in row["words"][:1]
        if len(word) > 2 and 100 < rank.get(word, 10**9) < 12000 and not UNSUITABLE.search(word)
    }
    return {word: rank[word] for word in sorted(found - others)}


@lru_cache(maxsize=1)
def _by_subject(corpus: Corpus) -> dict[str, list[str]]:
    return pages.by_subject(_questions(corpus), _nouns(corpus))


@lru_cache(maxsize=1)
def _by_thing(corpus: Corpus) -> dict[str, list[str]]:
    """Questions by thing; a thing that no question names stands with one on another."""
    asked, choose = _questions(corpus), random.Random(5)
    by_subject = _by_subject(corpus)
    return {thing: by_subject.get(thing, [choose.choice(asked)]) for thing in _nouns(corpus, THINGS)}


@lru_cache(maxsize=1)
def _articles(corpus: Corpus) -> dict[str, str]:
    """The first paragraphs of articles by title, the title as their first line."""
    texts = {text.split("\n")[0]: text for text in _wiki(corpus, "wiki_lead2.txt.xz")}
    return {title: text for title, text in texts.items() if 3 < len(title) < 40 and not UNSUITABLE.search(text)}


def quizzes(corpus: Corpus) -> Iterator[str]:
    return islice(pages.sheets(random.Random(11), _by_subject(corpus), corpus_names(corpus)), 9000)


def worksheets(corpus: Corpus) -> Iterator[str]:
    return islice(pages.worksheets(random.Random(13), _by_thing(corpus)), 9000)


def discussions(corpus: Corpus) -> Iterator[str]:
    return islice(pages.discussions(random.Random(29), _by_thing(corpus), corpus_names(corpus)), 40000)


def questioned(corpus: Corpus) -> Iterator[str]:
    """Articles with questions about their subject, and under a line that names it."""
    choose, texts = random.Random(37), _articles(corpus)
    for _ in range(3):
        yield from pages.articles(choose, pages.by_title(_questions(corpus), texts), texts)
    yield from pages.introduced(choose, texts)


def read_and_asked(corpus: Corpus) -> Iterator[str]:
    """Pieces of fairy tales with their questions."""
    asked: dict[str, list[str]] = {}
    for row in corpus.rows("fairytaleqa", "qa.jsonl.xz"):
        if row["q"].endswith("?"):
            asked.setdefault(row["story"].removesuffix("-story"), []).append(plain(row["q"]))
    tales_by_name = {
        row["story"].removesuffix("-story"): re.sub(r"(?<=[.!?]) ", "\n\n", plain(re.sub(r"\s+", " ", row["text"])))
        for row in corpus.rows("fairytaleqa", "stories.jsonl.xz")
    }
    return pages.read_and_asked(
        random.Random(41),
        (
            (piece.replace("\n\n", " "), pages.closest(asked[name], piece))
            for name, text in tales_by_name.items()
            if name in asked
            for piece in paged(text, 1200)
        ),
    )


def fact_questions(corpus: Corpus) -> Iterator[str]:
    return written.fact_sheets()


def dictionary(corpus: Corpus) -> Iterator[str]:
    """Dictionary pages of a few neighbouring entries each, rare Latin names left out."""
    choose = random.Random(17)
    speech = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}
    entries = []
    for row in corpus.rows("oewn", "synsets.jsonl.xz"):
        word, gloss = row["words"][0], plain(row["gloss"])
        if word.islower() and word.isascii() and len(word) < 16 and 10 < len(gloss) < 130:
            example = f" Example: {plain(row['ex'][0])}." if row["ex"] else ""
            entries.append(f"{word} ({speech[row['id'][-1]]}): {gloss}.{example}")
    choose.shuffle(entries)
    for start in range(0, len(entries), 6):
        yield "\n".join(sorted(entries[start : start + 6]))


Reader = Callable[[Corpus], Iterator[str]]
KINDS: dict[str, Reader] = {
    "stories": stories,
    "tales": tales,
    "books": books,
    "encyclopedia_simple": encyclopedia_simple,
    "encyclopedia_leads": encyclopedia_leads,
    "encyclopedia": encyclopedia,
    "explanations": explanations,
    "textbooks": textbooks,
    "poems": poems,
    "dialogues": dialogues,
    "podcasts": podcasts,
    "word_examples": word_examples,
    "dictionary": dictionary,
    "records": lambda corpus: written.records(corpus_names(corpus)),
    "lists": lambda corpus: written.lists(),
    "facts": lambda corpus: written.fact_pages(),
    "fact_questions": fact_questions,
    "quizzes": quizzes,
    "worksheets": worksheets,
    "discussions": discussions,
    "questioned": questioned,
    "read_and_asked": read_and_asked,
}


def read(kind: str, corpus: Corpus, choose: random.Random) -> list[str]:
    """The documents of a kind in random order, short ones together on a page: none ends soon or behind a question."""
    texts = list(KINDS[kind](corpus))
    choose.shuffle(texts)
    return list(pages.together(texts))
