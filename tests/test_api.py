"""The named endpoints, through the queue: the page's replies as JSON, and one sentence for whatever cannot be run."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from core.run import compare
from core.types import DEFAULT_SAMPLING, SIDES, Comparison

DOCUMENTATION = (Path(__file__).parent.parent / "docs" / "api.md").read_text("utf-8")
SHORT = {**DEFAULT_SAMPLING.model_dump(), "max_new_tokens": 12}
ASKED = {"pair": "embedded", "prompt": "The sea is", "sampling": SHORT, "today": "2026-01-31"}


@pytest.fixture(scope="module")
def client(url):
    client = Client(url, verbose=False)
    yield client
    client.close()


def ask(client: Client, comparison) -> dict:
    return client.predict(comparison, api_name="/compare")


@pytest.mark.slow
def test_compare_returns_what_the_page_would_show(client, pool):
    lease = pool.wait("embedded")
    expected = compare(lease, Comparison.model_validate(ASKED))
    lease.release()
    answer = ask(client, ASKED)
    assert Comparison.model_validate(answer["comparison"]) == expected.comparison
    for side in SIDES:
        assert answer[side]["text"] == expected.side(side).text
        assert tuple(answer[side]["token_ids"]) == expected.side(side).token_ids
        assert tuple(answer[side]["logprobs"]) == expected.side(side).logprobs
        assert answer[side]["prompt_sha256"] == expected.side(side).prompt_sha256


@pytest.mark.slow
def test_pairs_names_what_can_be_asked_for(client, pool):
    assert client.predict(api_name="/pairs") == [pair.model_dump(mode="json") for pair in pool.pairs]


@pytest.mark.slow
def test_the_comparisons_of_the_documentation_run(client):
    examples = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", DOCUMENTATION, re.DOTALL)]
    assert len(examples) == 2
    for example in examples:
        answer = ask(client, example)
        assert answer["comparison"]["prompt"] == example["prompt"]
        for field in answer["base"]:
            assert f"`{field}`" in DOCUMENTATION, f"{field} is not in docs/api.md"


@pytest.mark.slow
def test_many_at_once_get_the_replies_of_one_alone(client):
    asked = [{**ASKED, "sampling": {**SHORT, "seed": seed}} for seed in range(6)]
    alone = [ask(client, each) for each in asked]
    with ThreadPoolExecutor(6) as several:
        together = list(several.map(lambda each: ask(client, each), asked))
    for one, other in zip(alone, together, strict=True):
        assert [one[side]["token_ids"] for side in SIDES] == [other[side]["token_ids"] for side in SIDES]
    assert len({tuple(answer["base"]["token_ids"]) for answer in alone}) > 1, "the seeds differ"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({**ASKED, "pair": "nobody"}, "There is no pair 'nobody' here"),
        ({**ASKED, "pair": "../../etc/passwd"}, "There is no pair '../../etc/passwd' here"),
        ({**ASKED, "pair": "x" * 501}, "pair: string should have at most 500 characters"),
        ({**ASKED, "prompt": 5}, "prompt: input should be a valid string"),
        ({**ASKED, "prompt": "word " * 5000}, "and its context holds"),
        ({**ASKED, "sampling": {}}, "sampling.seed: field required"),
        ({**ASKED, "sampling": {**SHORT, "temperature": 1e308}}, "sampling.temperature: "),
        ({**ASKED, "sampling": {**SHORT, "max_new_tokens": 10**12}}, "sampling.max_new_tokens: "),
        ({**ASKED, "conversation": {"turns": [{}]}}, "conversation.turns.0.prompt: field required"),
        ({**ASKED, "today": "2026-13-45"}, "today: "),
        ({**ASKED, "__class__": "os.system"}, "__class__: extra inputs are not permitted"),
        ({}, "pair: field required"),
        ([], "valid dictionary"),
        (None, "valid dictionary"),
        ("<script>", "valid dictionary"),
    ],
    ids=str,
)
def test_what_cannot_be_run_is_one_sentence(client, asked, sentence):
    with pytest.raises(AppError) as refusal:
        ask(client, asked)
    said = str(refusal.value)
    assert sentence in said
    assert "\n" not in said and "Traceback" not in said and len(said) < 400


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[" * 50_000,
        b'{"data": [{"pair": "embedded", "prompt": "\\ud800", "today": "2026-01-31"}]}',
        b'{"data": [NaN]}',
        b'{"data": []}',
        b'{"data": "x"}',
        b"\xff\xfe",
    ],
    ids=lambda body: repr(body[:24]),
)
def test_bytes_that_are_no_request_are_refused_and_tell_nothing_of_the_machine(url, body):
    """Refused at once, or by the event that the queue answers with; never by a trace."""
    answer = httpx.post(f"{url}/gradio_api/call/compare", content=body, headers={"content-type": "application/json"})
    text = answer.text
    if answer.status_code == 200:
        with httpx.stream("GET", f"{url}/gradio_api/call/compare/{answer.json()['event_id']}", timeout=60) as events:
            text = events.read().decode()
        assert "event: error" in text
    assert "Traceback" not in text and str(Path(__file__).parent.parent) not in text


@pytest.mark.slow
def test_a_body_that_is_too_large_is_refused(url):
    answer = httpx.post(f"{url}/gradio_api/call/compare", content=b"x" * 9_000_000)
    assert answer.status_code == 413


@pytest.mark.slow
def test_only_the_documented_endpoints_are_offered(client):
    offered = set(client.view_api(return_format="dict", print_info=False)["named_endpoints"])
    assert {"/compare", "/pairs"} <= offered
    for name in offered:
        assert f"`{name}`" in DOCUMENTATION, f"{name} is not in docs/api.md"


def test_the_info_names_a_type_for_every_parameter(_scripted_page):
    """What "Use via API" at the foot of the page shows, and what clients in other languages are made of."""
    info = httpx.get(f"{_scripted_page[1]}/gradio_api/info").json()["named_endpoints"]
    assert set(info) == {"/compare", "/replay", "/lens", "/experiment", "/study", "/pairs"}
    for name, endpoint in info.items():
        assert endpoint["description"], name
        for parameter in endpoint["parameters"]:
            assert parameter["parameter_name"] and parameter["type"], name
            assert parameter["python_type"]["type"] not in ("", "Any"), name
    [comparison] = info["/compare"]["parameters"]
    assert set(comparison["type"]["properties"]) == set(Comparison.model_fields)
    assert comparison["type"]["required"] == ["pair", "prompt", "sampling", "today"]
    assert "temperature: float" in comparison["python_type"]["type"]
    receipt, side, context = info["/lens"]["parameters"]
    assert "seals" in receipt["type"]["properties"]
    assert (side["type"], context["type"]) == ({"enum": ["base", "post"]}, {"enum": ["identical", "own"]})
