"""The documents of pre-training: what follows a question, where a document ends, and how often a template comes."""

import random
import tomllib
from itertools import islice
from pathlib import Path

from checkpoints.recipe import documents, pages, written

QUESTIONS = {
    "kettle": ["Why does a kettle whistle?", "Who made the first kettle?"],
    "boat": ["How does a boat float?", "What is the oldest boat?"],
    "owl": ["When does an owl sleep?", "Where does an owl live?"],
}
NAMES = [f"Name{chr(65 + i)}" for i in range(20)]
MIXTURE = tomllib.loads((Path(documents.__file__).parent / "config.toml").read_text("utf-8"))["mixture"]


def some(generator, count: int = 300) -> list[str]:
    return list(islice(generator, count))


def test_no_document_is_short_or_ends_behind_a_question():
    sheets = some(pages.sheets(random.Random(1), QUESTIONS, NAMES))
    threads = some(pages.discussions(random.Random(1), QUESTIONS, NAMES))
    for kind in (sheets, threads, some(written.fact_sheets())):
        joined = list(pages.together(kind))
        assert len(joined) > 20
        assert all(len(page) >= pages.LEAST and not page.endswith("?") for page in joined)
        assert "\n\n".join(kind).startswith("\n\n".join(joined)), "nothing is lost but an unfinished last page"


def test_a_thread_takes_up_the_subject_of_its_question():
    threads = some(pages.discussions(random.Random(2), QUESTIONS, NAMES))
    named = [page.lower() for page in threads if any(thing in page.lower() for thing in QUESTIONS)]
    repeated = [page for page in named if max(page.count(thing) for thing in QUESTIONS) >= 2]
    assert len(repeated) > 0.6 * len(named) > 100


def test_a_thread_does_not_begin_its_second_line_like_an_answer():
    for page in some(pages.discussions(random.Random(3), QUESTIONS, NAMES)):
        assert not page.startswith(("Yes", "No,")) and "\n" in page


def test_questions_are_found_by_their_subject_and_their_longest_title():
    asked = ["Which planet has rings?", "How many planets are there?", "Who wrote the Moon and Stars?"]
    assert pages.by_subject(asked, {"planet", "moon"}) == {"planet": asked[:2]}
    assert pages.by_title(asked, ["Planet", "Moon", "Moon and Stars"]) == {
        "planet": asked[:1],
        "moon and stars": asked[2:],
    }


def test_the_closest_questions_share_words_with_the_text():
    asked = ["What did the fox steal?", "Who built the tall tower?", "Why was the tower tall?"]
    assert pages.closest(asked, "A tall tower stood on the hill.", 2)[0] == "Why was the tower tall?"


def test_every_kind_of_the_mixture_has_a_reader():
    assert MIXTURE.keys() == documents.KINDS.keys()


def test_no_family_of_template_questions_is_more_than_half_a_percent_of_the_rows():
    total = sum(MIXTURE.values())
    families = {
        "facts": MIXTURE["fact_questions"],
        "openings": MIXTURE["discussions"] / len(pages.lines("opening")),
        "tasks": MIXTURE["worksheets"] / len(pages.lines("task")),
        "titles": MIXTURE["questioned"] / len(pages.lines("about")),
    }
    assert max(families.values()) / total <= 0.005, families


def test_the_lines_of_pages_are_filled_in_and_end_as_sentences_do():
    slots = pages._slots(random.Random(4), list(QUESTIONS))
    for key in ("opening", "reply", "task", "note"):
        assert len(set(pages.lines(key))) == len(pages.lines(key)) >= 11
        for line in pages.lines(key):
            assert line[-1] in ".?!" and "{" not in pages.fill(line, slots), line


def test_made_up_words_are_many_and_pronounceable():
    choose = random.Random(5)
    words = {written.made_up_word(choose) for _ in range(2000)}
    assert len(words) > 1900
    assert all(word.isalpha() and 4 <= len(word) <= 11 and word.istitle() for word in words)
