"""Pages that begin with a question or a task and go on about its subject: discussions, worksheets, articles.

What a base model does with a question is what the page does after it. Here it goes on in many ways, never
with silence, and takes up a word of the question; it is hardly ever answered. The lines are in `pages.toml`.
"""

import random
import re
import tomllib
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from checkpoints.recipe import written
from checkpoints.recipe.draw import fill

LEAST = 1500  # characters of a page, about 400 tokens: only after so much text does a document end
PEOPLE = ("daughter", "son", "neighbor", "teacher", "friend", "aunt", "uncle", "sister", "brother", "colleague")


@cache
def lines(key: str) -> tuple[str, ...]:
    """One list of pages.toml."""
    table = tomllib.loads((Path(__file__).parent / "pages.toml").read_text("utf-8"))
    return tuple(part.strip() for line in table[key].strip().splitlines() for part in line.split(" / "))


def together(pages: Iterable[str], least: int = LEAST) -> Iterator[str]:
    """Neighbouring pages joined until each has `least` characters and does not end with a question."""
    open_page: list[str] = []
    for page in pages:
        open_page.append(page)
        if sum(map(len, open_page)) >= least and not page.rstrip('" ').endswith("?"):
            yield "\n\n".join(open_page)
            open_page = []


def _slots(choose: random.Random, things: Sequence[str]) -> dict[str, str]:
    thing, other = choose.sample(things, 2)
    return {
        "k": thing,
        "o": other,
        "act": choose.choice(lines("act")),
        "f": choose.choice(PEOPLE),
        "c": choose.choice(written.CITIES),
        "day": choose.choice(written.DAYS),
        "n": str(choose.randrange(3, 60)),
    }


def discussions(choose: random.Random, questions: Mapping[str, Sequence[str]], names: list[str]) -> Iterator[str]:
    """Threads: a question, then other people's remarks, which take up its subject. `questions` are those of the
    corpus by the thing they are about; half of the threads begin with one of them. Never ends."""
    things = list(questions)
    while True:
        slots = _slots(choose, things)
        own = choose.random() < 0.5
        opening = fill(choose.choice(lines("opening")), slots) if own else choose.choice(questions[slots["k"]])
        replies = choose.sample(lines("reply"), choose.randrange(2, 7))
        posts = [opening, *(fill(reply, slots) for reply in replies)]
        yield _thread(choose, posts, slots["k"], choose.sample(names, len(posts)))


def _thread(choose: random.Random, posts: list[str], subject: str, writers: list[str]) -> str:
    """The posts as a board prints them: bare, with names and dates, or as lines of speakers."""
    style = choose.randrange(6)
    if style == 0:
        return choose.choice(("\n", "\n\n")).join(posts)
    signed = list(zip(writers, posts, strict=True))
    if style <= 2:
        day = f"{choose.choice(written.MONTHS)} {choose.randrange(1, 29)}, {choose.randrange(2004, 2016)}"
        return f"{subject.capitalize()}\n\n" + "\n\n".join(f"{who} wrote on {day}:\n{post}" for who, post in signed)
    if style <= 4:
        return f"{posts[0]}\n" + "\n".join(f"{who}: {post}" for who, post in signed[1:])
    return f"{posts[0]}\n\n" + "\n\n".join(f"{who} wrote:\n{post}" for who, post in signed[1:])


def worksheets(choose: random.Random, questions: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Tasks about one thing with the teacher's notes and questions of the corpus among them. Never ends."""
    things = list(questions)
    while True:
        slots = _slots(choose, things)
        tasks = [fill(task, slots) for task in choose.sample(lines("task"), choose.randrange(2, 6))]
        asked = choose.sample(questions[slots["k"]], min(len(questions[slots["k"]]), choose.randrange(0, 3)))
        rows = [*tasks, *asked]
        choose.shuffle(rows)
        notes = "\n".join(fill(note, slots) for note in choose.sample(lines("note"), choose.randrange(1, 3)))
        yield f"{written.sheet(choose, slots['k'], rows)}\n\n{notes}"


def articles(choose: random.Random, questions: Mapping[str, Sequence[str]], texts: Mapping[str, str]) -> Iterator[str]:
    """Articles under a question about their subject, or with questions beneath them. `texts` are articles by title,
    the title as their first line."""
    titles = [title for title in texts if title.lower() in questions]
    for title in choose.sample(titles, len(titles)):
        asked = list(questions[title.lower()])
        some = "\n".join(choose.sample(asked, min(len(asked), choose.randrange(1, 4))))
        yield choose.choice(
            (
                f"{some}\n\n{texts[title]}",
                f"{choose.choice(asked)}\n\n{texts[title]}",
                f"{choose.choice(asked)} {choose.choice(lines('between'))}:\n\n{texts[title]}",
                f"{texts[title]}\n\n{choose.choice(lines('between'))}\n\n{some}",
            )
        )


def introduced(choose: random.Random, texts: Mapping[str, str]) -> Iterator[str]:
    """Articles under a request or a question that only names their title."""
    for title in choose.sample(list(texts), len(texts)):
        yield f"{fill(choose.choice(lines('about')), {'t': title})}\n\n{texts[title]}"


def read_and_asked(choose: random.Random, texts: Iterable[tuple[str, Sequence[str]]]) -> Iterator[str]:
    """Pieces of a tale with the questions on it before or after them."""
    for text, asked in texts:
        some = written.sheet(choose, "the tale", list(asked))
        yield choose.choice((f"{some}\n\n{text}", f"{asked[0]}\n\n{text}", f"{text}\n\n{some}"))


def by_subject(questions: Iterable[str], subjects: Container[str], most: int = 400) -> dict[str, list[str]]:
    """Questions by each of the subjects that they name, in the singular or the plural; subjects of one question left out."""
    found: dict[str, list[str]] = {}
    for question in questions:
        for word in set(re.findall(r"[a-z]{3,}", question.lower())):
            subject = word if word in subjects else word.removesuffix("s")
            if subject in subjects:
                found.setdefault(subject, []).append(question)
    return {subject: rows[:most] for subject, rows in found.items() if len(rows) >= 2}


def by_title(questions: Iterable[str], titles: Iterable[str]) -> dict[str, list[str]]:
    """Questions by the longest title that they name, in small letters."""
    known = {title.lower() for title in titles}
    found: dict[str, list[str]] = {}
    for question in questions:
        words = re.findall(r"[\w'-]+", question.lower())
        spans = (" ".join(words[i : i + size]) for size in (3, 2, 1) for i in range(len(words) - size + 1))
        if title := next((span for span in spans if span in known and len(span) > 3), None):
            found.setdefault(title, []).append(question)
    return found


def closest(questions: Sequence[str], text: str, most: int = 5) -> list[str]:
    """The questions that share most of their longer words with a text."""
    here = set(re.findall(r"[a-z]{4,}", text.lower()))

    def shared(question: str) -> float:
        words = set(re.findall(r"[a-z]{4,}", question.lower()))
        return len(words & here) / (len(words) + 1)

    return sorted(questions, key=shared, reverse=True)[:most]


def sheets(choose: random.Random, questions: Mapping[str, Sequence[str]], names: list[str]) -> Iterator[str]:
    """Questions about one thing, followed by more about another one, by remarks or by tasks; each row of the
    corpus about as often as any other. Never ends."""
    things = list(questions)
    talk, tasks = discussions(choose, questions, names), worksheets(choose, questions)
    counts: Counter[str] = Counter()
    while True:
        thing = min(choose.sample(things, 3), key=lambda one: counts[one] / len(questions[one]))
        counts[thing] += 1
        rows = choose.sample(questions[thing], min(len(questions[thing]), choose.randrange(2, 8)))
        page = written.sheet(choose, thing, rows)
        way = choose.random()
        yield page if way < 0.5 else f"{page}\n\n{next(talk if way < 0.8 else tasks)}"
