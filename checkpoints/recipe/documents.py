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
from collections.abc import Callable, Iterator
from pathlib import Path

from checkpoints.recipe import written

SOURCES = tomllib.loads((Path(__file__).parent / "sources.toml").read_text("utf-8"))

# Typographic marks that a 4,096-token vocabulary should not spend tokens on.
_PLAIN = str.maketrans(
    {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "...", "\u00a0": " ", "\u200b": ""}
)

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
            yield from pages(plain(book), 6000)


def pages(text: str, size: int) -> Iterator[str]:
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
            yield plain(article)


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
        yield from pages(plain(row["answer"]), 4000)


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


def quizzes(corpus: Corpus) -> Iterator[str]:
    """Questions followed by more questions, never by an answer: what the base learns to do with a question."""
    choose = random.Random(11)
    by_category: dict[str, list[str]] = {name: [] for name in QUIZ_CATEGORIES}
    for row in corpus.rows("opentriviaqa", "trivia.jsonl.xz"):
        question = plain(row["q"])
        if row["cat"] in by_category and question.endswith("?") and 15 < len(question) < 110:
            by_category[row["cat"]].append(question)
    tale_questions = [plain(row["q"]) for row in corpus.rows("fairytaleqa", "qa.jsonl.xz") if row["q"].endswith("?")]
    for category, questions in {**by_category, "reading": tale_questions}.items():
        for _ in range(2):
            choose.shuffle(questions)
            start = 0
            while start < len(questions):
                size = choose.randrange(5, 16)
                yield written.sheet(choose, category.replace("-", " "), questions[start : start + size])
                start += size


def writing_prompts(corpus: Corpus) -> Iterator[str]:
    """Instructions followed by more instructions, as on a worksheet."""
    choose = random.Random(13)
    kinds = (*STORY_KINDS, *EXPLAINING_KINDS, "llama-song-poems", "generated-jokes", "generated-spelling")
    prompts = [plain(row["prompt"].replace("`", '"')) for row in corpus.snakes(kinds) if len(row["prompt"]) < 140]
    choose.shuffle(prompts)
    start = 0
    while start < len(prompts):
        size = choose.randrange(4, 12)
        yield written.sheet(choose, "writing prompts", prompts[start : start + size])
        start += size


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
    "quizzes": quizzes,
    "writing_prompts": writing_prompts,
    "dictionary": dictionary,
    "records": lambda corpus: written.records(corpus_names(corpus)),
    "lists": lambda corpus: written.lists(),
    "forum": lambda corpus: written.forum(corpus_names(corpus)),
    "facts": lambda corpus: written.fact_pages(),
}
