"""What whoever runs the server is told: whether it is ready, and figures without anybody's name or words."""

import logging
import re

import httpx
import pytest

from core.hub import HuggingFaceHub
from core.pool import Pool
from core.run import compare
from core.settings import Settings
from core.ui.page import FOOT
from tests import tiny
from tests.browser import served
from tests.pairs import comparison
from tests.scripted import ScriptedPool
from tests.test_house import ROOT
from tests.test_logins import USERS


def figures(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"^(same_seed_\S+) (\S+)$", text, re.MULTILINE)}


def test_the_figures_follow_what_happens_and_have_nobodys_words(_scripted_page, monkeypatch):
    pool, url = _scripted_page
    monkeypatch.setattr(pool, "written", 12)
    with httpx.Client(base_url=url, timeout=60) as client:
        before = figures(client.get("/metrics").text)
        client.get("/config")
        client.get("/nothing-of-mine")
        logging.getLogger("core.test").error("my secret words")
        with client.stream("GET", "/gradio_api/heartbeat/my-secret-session"):
            answer = client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8" and "secret" not in answer.text
    after = figures(answer.text)
    assert after["same_seed_pages"] == before["same_seed_pages"] + 1
    assert after["same_seed_errors_total"] == before["same_seed_errors_total"] + 1
    assert after['same_seed_answers_total{status="2xx"}'] >= before['same_seed_answers_total{status="2xx"}'] + 2
    assert after["same_seed_cluster_lost_total"] == 3
    assert after["same_seed_tokens_total"] == 12 and after["same_seed_memory_bytes"] > 1e7
    for name in {name.partition("{")[0] for name in after}:
        assert answer.text.count(f"# TYPE {name} ") == answer.text.count(f"# HELP {name} ") == 1


@pytest.mark.slow
def test_ready_needs_no_password_and_figures_need_one_where_the_page_does():
    pool = ScriptedPool()
    with served(pool, auth=USERS) as url, httpx.Client(base_url=url) as client:
        assert client.get("/ready").json() == {"ready": True}
        pool.ready = False
        assert client.get("/ready").status_code == 503
        for wrong in (None, ("ann", "wrong"), ("nobody", ""), ("ann", "")):
            refused = client.get("/metrics", auth=wrong)
            assert refused.status_code == 401 and "same_seed" not in refused.text
        assert "same_seed_ready 0" in client.get("/metrics", auth=USERS[0]).text
        assert client.get("/metrics", headers={"authorization": "Basic \u00e4".encode()}).status_code == 401
        client.post("/login", data=dict(zip(("username", "password"), USERS[1], strict=True)))
        assert client.get("/metrics").status_code == 200


def test_a_pool_is_ready_from_when_its_pair_was_loaded_until_it_ends_and_counts_tokens(tmp_path, monkeypatch):

    base, post = tiny.save_pair(tmp_path)
    with Pool(Settings(base=str(base), post=str(post), device="cpu", slots=3), HuggingFaceHub()) as pool:
        assert not pool.ready
        with pool.wait(pool.default.id) as lease:
            assert pool.ready
            result = compare(lease, comparison(pair=pool.default.id, max_new_tokens=5))
        assert pool.written == sum(side.usage.output_tokens for side in (result.base, result.post)) > 0
        pool.take_no_more()
        assert not pool.ready


def test_what_is_logged_and_kept_is_said_alike_on_the_page_and_in_the_documentation():
    page = (ROOT / "core" / "ui" / "kept.html").read_text("utf-8")
    [said] = re.findall("<p>(.*)</p>", page)
    assert f"\n{said}\n" in (ROOT / "docs" / "operating.md").read_text("utf-8")
    assert page in FOOT
