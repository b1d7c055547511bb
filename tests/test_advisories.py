"""Advisories for what is pinned: each lock is read whole, and no answer is not taken for a good one."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import yaml

from tests.test_house import ROOT, recipe_of
from tools import advisories


@pytest.fixture
def database() -> Iterator[tuple[str, dict]]:
    """One that speaks as OSV does; its address, and what it knows of which package."""
    known: dict[str, list[str]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["queries"]
            names = [query["package"]["name"] for query in asked if query["version"]]
            results = [{"vulns": [{"id": id} for id in known[name]]} if name in known else {} for name in names]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"results": results[: 3 if "too few" in known else None]}).encode())

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", known
    server.shutdown()
    server.server_close()


def test_an_advisory_is_named_and_no_answer_is_no_clean_one(database, capsys):
    address, known = database
    assert advisories.main(["--address", address]) == 0
    assert " versions, 0 with advisories" in capsys.readouterr().out
    known["gradio"] = ["GHSA-1", "PYSEC-2"]
    assert advisories.main(["--address", address]) == 1
    assert ": GHSA-1, PYSEC-2\n" in capsys.readouterr().out
    known["too few"] = []
    assert advisories.main(["--address", address]) == 2
    assert advisories.main(["--address", "http://127.0.0.1:9/"]) == 2
    assert "nothing was checked" in capsys.readouterr().out


def test_every_pin_of_the_locks_is_asked_about():
    names = {name for name, _ in advisories.pinned()}
    assert {"gradio", "torch", "transformers", "pytest"} <= names
    locked = (ROOT / "locks" / "run.txt").read_text("utf-8")
    assert len([line for line in locked.splitlines() if "==" in line]) <= len(names)


def test_the_workflow_runs_what_people_run_and_make_test_does_not():
    [job] = yaml.safe_load((ROOT / ".github" / "workflows" / "advisories.yml").read_text("utf-8"))["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make advisories"]
    assert recipe_of("advisories") == ["$(PYTHON) -m tools.advisories $(FLAGS)"]
    assert "advisories" not in recipe_of("test") + recipe_of("check") + recipe_of("style")
