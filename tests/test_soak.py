"""Half a minute of `make soak`: nothing is lost, nobody sees another's words, every refusal is a sentence. How fast is not tested."""

import json
import subprocess
import sys

import pytest

from benchmarks.soak.__main__ import held
from benchmarks.soak.book import OUTCOMES, Book, Crossed, check_own, is_sentence, percentile
from benchmarks.soak.process import Server
from benchmarks.soak.server import FAULTS

MINE, THEIRS = "mark0123456789ab", "markfedcba987654"


@pytest.mark.slow
@pytest.mark.first
def test_half_a_minute_of_visitors_and_faults_loses_nothing_and_mixes_nothing_up():
    command = [sys.executable, "-m", "benchmarks.soak", "--minutes", "0.5", "--no-browser"]  # it has tests of its own
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    turns, server, newcomers, again, end = (
        part["rows"] for part in json.loads(ended.stdout.splitlines()[-1])["tables"]
    )
    everybody = turns[0]
    assert everybody["turns"] > 50 and everybody["answered"] > 5
    assert [everybody[what] for what in OUTCOMES[4:]] == [0, 0, 0]
    figures = {row["figure"]: row["value"] for row in server}
    assert all(figures[f"faults: {name}"] >= 1 for name in (*FAULTS, "killed"))
    assert newcomers[0]["readers"] == 30
    assert again[0]["equal"] == again[0]["replies asked again alone"] > 0
    assert end[0]["exit status after SIGTERM"] == 143 and end[0]["tracebacks in its log of no injected fault"] == 0


def test_anybody_elses_mark_is_noticed_and_so_is_what_is_no_sentence():
    check_own(f"a reply about {MINE}", {MINE})
    with pytest.raises(Crossed, match=THEIRS):
        check_own(f"{MINE} and {THEIRS}", {MINE})
    assert is_sentence("The base side failed: this pass is broken; ask again in a minute.")
    for said in ("", "None", "Error", "list index out of range", "Traceback (most recent call last): ValueError: x."):
        assert not is_sentence(said)


def test_a_turn_is_counted_once_under_what_became_of_it_and_what_must_not_happen_is_kept_in_words():
    book = Book()
    book.note("API", "answered")
    book.note("API", "lost", "no end")
    book.note("stop", "told why not", "Wait 5 minutes.")
    every, api, stop = book.rows()
    assert (every["turns"], every["lost"], api["answered"], stop["told why not"]) == (3, 1, 1, 1)
    assert book.wrong == ["API, lost: no end"] and dict(book.told) == {"Wait N minutes.": 1}
    assert percentile([1.0], 95) == 1 and percentile([0.0, 1.0], 50) == 0.5


def test_tracebacks_that_no_fault_explains_are_found_in_the_log(tmp_path, monkeypatch):
    caused = "RuntimeError: an injected fault\n\nThe above exception was the direct cause of the following exception:\n\nTraceback (most recent call last):\n  File z\nUserError: no\n"
    log = f"Traceback (most recent call last):\n  File x\n    y()\n{caused}Traceback (most recent call last):\n  File x\nKeyError: 5\n"
    monkeypatch.setattr(Server, "log", lambda self: log)
    with Server(()) as server:
        assert server.surprises() == ["KeyError: 5"]


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_one_turn_of_which_something_became_that_must_not_fails_the_whole(outcome):
    book = Book()
    book.note("API", outcome, "why")
    again = {"replies asked again alone": 4, "equal": 4}
    assert held(book.rows(), again, 143, None) == held(book.rows(), again, 143, 75) == (outcome not in OUTCOMES[4:])


@pytest.mark.parametrize(
    "again, ended, hung", [((4, 3), 143, 75), ((0, 0), 143, 75), ((4, 4), 1, 75), ((4, 4), 143, 1), ((4, 4), -9, None)]
)
def test_a_reply_that_differs_or_another_status_fails_the_whole(again, ended, hung):
    assert not held(Book().rows(), dict(zip(("replies asked again alone", "equal"), again, strict=True)), ended, hung)
