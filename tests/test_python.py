"""From Python: the same functions behind page and command line, a result that shows itself, and nothing imported before it is asked for."""

import subprocess
import sys

import pytest

import core
from core import Comparison, Settings, compare, python
from core.errors import UserError
from core.run import compare as run_compare
from core.types import DEFAULT_SAMPLING, Answer
from tests.scripted import ScriptedPool
from tests.test_house import ROOT

ASKED = Comparison.of("scripted", "Which words?", seed=7, today="2026-01-31")


@pytest.fixture
def pool(monkeypatch) -> ScriptedPool:
    pool = ScriptedPool("Base words", "Chat <b>words</b> &amp;\nof a reply")
    monkeypatch.setattr(python, "_models", lambda settings: pool)
    return pool


def test_what_nobody_said_is_as_everywhere_else():
    assert ASKED.sampling == DEFAULT_SAMPLING.model_copy(update={"seed": 7})
    assert Comparison(pair="scripted", prompt="Which words?", sampling=ASKED.sampling, today="2026-01-31") == ASKED
    asked = Comparison.of("p", "x", system="Be brief.", top_k=3, framing_base="transcript", dial={"amount": 0.5})
    assert (asked.conversation.system, asked.sampling.top_k, asked.framing_base) == ("Be brief.", 3, "transcript")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"temperature": 9}, "sampling.temperature: "),
        ({"seeds": 1}, "seeds: extra inputs are not permitted"),
        ({"today": "now"}, "today: "),
    ],
)
def test_a_mistake_is_one_sentence(given, sentence):
    with pytest.raises(UserError, match=sentence) as refusal:
        Comparison.of("p", "x", **given)
    assert "\n" not in str(refusal.value)


def test_it_answers_as_the_rest_does_with_a_receipt(pool):
    answer = compare(ASKED)
    expected = run_compare(pool.lease, ASKED)
    assert isinstance(answer, Answer) and answer.comparison == ASKED == answer.receipt.comparison
    assert (answer.base.text, answer.post.text) == (expected.base.text, expected.post.text)
    assert answer.receipt.post.token_ids == expected.post.token_ids
    assert Answer.model_validate_json(answer.model_dump_json()).receipt == answer.receipt


def test_a_result_shows_itself_as_html_in_which_a_reply_is_only_text(pool):
    shown = compare(ASKED)._repr_html_()
    assert "Base: Scripted-Base" in shown and "Base words" in shown
    assert "Chat &lt;b&gt;words&lt;/b&gt; &amp;amp;\nof a reply" in shown and "<b>words" not in shown
    assert "seed 7" in shown and "2026-01-31" in shown


def test_reasoning_stands_apart_from_the_answer(pool):
    answer = compare(ASKED)
    thinking = answer.model_copy(update={"post": answer.post.model_copy(update={"reasoning": "<i>hm"})})
    assert "<summary>Reasoning</summary><div style='white-space:pre-wrap'>&lt;i&gt;hm</div>" in thinking._repr_html_()


def test_comparisons_under_equal_settings_share_their_models():
    assert python._models(Settings(port=1)) is python._models(Settings(port=1))
    assert python._models(Settings(port=1)) is not python._models(Settings(port=2))
    with pytest.raises(UserError, match="nowhere"):
        python._models(Settings(base="./nowhere", post="./nowhere"))


def test_the_package_itself_costs_nothing_and_knows_only_what_is_there():
    script = (
        "import sys, core\n"
        "assert not {'pydantic', 'torch', 'transformers', 'gradio'} & set(sys.modules), sorted(sys.modules)\n"
        "from core import Comparison\n"
        "assert not {'torch', 'transformers', 'gradio'} & set(sys.modules), sorted(sys.modules)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    with pytest.raises(AttributeError, match="'core' has no attribute 'everything'"):
        core.everything  # noqa: B018
