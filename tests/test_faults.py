"""What goes wrong: what a stranger sends that cannot be read is no fault and is not in the log, and a fault is told and is."""

import io
import logging
import re
import sys

import httpx
import pytest

from core.cli import log
from core.ui import faults

JOIN, RUN = "/gradio_api/queue/join", "/gradio_api/run/predict"
WORDS = "my secret words"


@pytest.fixture
def number(scripted) -> dict[str, int]:
    """The events of the page by the name of what they call."""
    events = httpx.get(f"{scripted('x')}/config").json()["dependencies"]
    return {"queued": next(each["id"] for each in events if each["api_name"] == "compare"), "at once": len(events) // 2}


def test_what_cannot_be_read_is_refused_and_writes_no_traceback_and_no_words(scripted, number, capfd, caplog):
    """Each of these was a traceback, some with what was sent."""
    said = {"data": [WORDS], "session_hash": WORDS}
    with httpx.Client(base_url=scripted("x"), timeout=60) as client:
        for path, body in (
            (JOIN, {"fn_index": 9999, **said}),
            (RUN, {"fn_index": 9999, **said}),
            ("/gradio_api/run/nothing", said),
            ("/gradio_api/call/nothing", said),
            ("/gradio_api/call/compare", {"data": []}),
            (JOIN, {"fn_index": number["queued"], **said, "data": []}),
        ):
            assert client.post(path, json=body).status_code in (200, 400), body
        assert WORDS not in client.get("/gradio_api/queue/data", params={"session_hash": WORDS}).text.replace(
            "data: ", ""
        )
        for path in (f"/gradio_api/queue/data?session_hash=no {WORDS}", f"/gradio_api/call/compare/no {WORDS}"):
            assert client.get(path).status_code == 200, "it says that there is none, and ends"
        named = {"other": b"x"}, {"files": (None, WORDS)}, {"files": ("..", WORDS)}
        assert all(client.post("/gradio_api/upload", files=files).status_code < 500 for files in named)
    written = capfd.readouterr().err + caplog.text
    assert "Traceback" not in written and WORDS not in written
    assert re.search(r"not answered: KeyError at gradio/\w+\.py:\d+", written)


def test_a_fault_of_the_app_is_told_without_its_words_and_is_in_the_log(caplog):
    def broken(words: str) -> int:
        return int(words)

    error = None
    try:
        broken(WORDS)
    except ValueError as raised:
        error = raised
    assert faults.report(error), "raised by what is not Gradio"
    assert caplog.records[-1].exc_info[1] is error


@pytest.fixture
def written(monkeypatch) -> io.StringIO:
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    log.log_harmlessly()
    return shown


def test_a_traceback_says_where_and_not_what_somebody_wrote(written):
    logger = logging.getLogger("core.somewhere")
    for kind in (ValueError, RuntimeError):
        try:
            try:
                raise KeyError(WORDS)
            except KeyError as before:
                raise kind("of the machine" if kind is RuntimeError else WORDS) from before
        except (ValueError, RuntimeError):
            logger.exception("it failed")
    text = written.getvalue()
    assert WORDS not in text.replace("raise ", "") and text.count("Traceback") == 4
    assert (
        "RuntimeError: of the machine\n" in text
        and "\nValueError\n" in text
        and text.index("KeyError\n") < text.index("ValueError\n")
    )


def test_a_flood_of_errors_has_an_end_and_is_counted(written, monkeypatch):
    logger, now = logging.getLogger("core.somewhere"), [1000.0]
    monkeypatch.setattr(log, "monotonic", lambda: now[0])
    vars(logging.getLogger().handlers[0])["_began"] = now[0]
    for number in range(5000):
        logger.warning("not answered: %s", number)
    for number in range(5000):
        logger.warning(f"another sentence {number}")
    assert len(written.getvalue().splitlines()) <= log.IN_ALL + log.OF_ONE_KIND
    assert "not answered: 2" in written.getvalue()
    now[0] += 61
    logger.warning("not answered: %s", "later")
    *_, counted, last = written.getvalue().splitlines()
    assert "more like those above" in counted and last.endswith("later")
    left = int(re.sub(r"\D", "", counted))
    assert left + len(written.getvalue().splitlines()) - 2 == 10_000
