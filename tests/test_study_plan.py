"""What a study asks: its cells and their seeds, the tests of a reply, and suites whose bad rows are named."""

import json

import pytest
from pydantic import ValidationError

from core import apart, canonical
from core.errors import UserError
from core.study import checks, suite
from core.study.checks import Check, expectation, passes, read_check
from core.study.plan import StudyPlan, StudyPrompt
from core.types import DEFAULT_SAMPLING, Turn, explain


def plan(*prompts: str, **changes) -> StudyPlan:
    rows = tuple(StudyPrompt(prompt=prompt) for prompt in prompts or ("What is the sea?",))
    given = {"prompts": rows, "pairs": ("embedded",), "sampling": DEFAULT_SAMPLING, "today": "2026-01-02"}
    return StudyPlan(**{**given, **changes})


# --- the plan -------------------------------------------------------------------------------------------


def test_every_checkpoint_gets_the_same_seeds_and_no_prompt_shares_its_luck():
    asked = plan("One?", "Two?", seeds=9, pairs=("a", "b"))
    seeds: dict = {}
    for cell in asked.cells():
        seeds.setdefault((cell.prompt, cell.repetition), set()).add(asked.comparison(cell).sampling.seed)
    assert all(len(of_arms) == 1 for of_arms in seeds.values())
    assert len({seed for of_arms in seeds.values() for seed in of_arms}) == 2 * 9
    assert plan("Two?", seeds=64).seed(0, 8) == asked.seed(1, 8), "wherever it stands and however many there are"
    other = DEFAULT_SAMPLING.model_copy(update={"seed": 1})
    assert plan("Two?", sampling=other).seed(0, 8) != asked.seed(1, 8)


def test_a_seed_can_be_computed_by_anybody():
    named = [1234, {"system": "", "turns": []}, "What is the sea?", 3]
    assert plan().seed(0, 3) == int(canonical.sha256(named)[:13], 16)


def test_each_checkpoint_is_also_asked_under_the_others_framing():
    asked = plan()
    assert [(arm.side, arm.framing) for arm in asked.arms()] == [
        ("base", "document"), ("post", "chat"), ("post", "document"), ("base", "chat")
    ]  # fmt: skip
    assert [contrast.title for contrast in asked.contrasts()] == [
        "each under its own framing", "both under document", "both under chat"
    ]  # fmt: skip
    assert len(plan(crossed=False).arms()) == len(plan(framing_base="chat").arms()) == 2
    assert asked.total == 4 * 64 == len(list(asked.cells()))
    cell = next(iter(asked.cells()))
    assert asked.comparison(cell).framing(cell.arm.side) == cell.arm.framing


def test_at_temperature_0_each_prompt_is_asked_once():
    greedy = DEFAULT_SAMPLING.model_copy(update={"temperature": 0})
    assert plan(sampling=greedy).repetitions == 1 and plan(sampling=greedy, crossed=False).total == 2


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"seeds": 7}, "one prompt needs 8 to 1,024 seeds"),
        ({"seeds": 1025}, "less than or equal to 1024"),
        ({"prompts": ()}, "at least 1 item"),
        ({"prompts": tuple(StudyPrompt(prompt=str(i)) for i in range(20)), "seeds": 1024}, "81,920 replies"),
        (
            {"prompts": (StudyPrompt(prompt="x" * 300_000), StudyPrompt(prompt="y" * 300_000))},
            "at most 500,000 characters",
        ),
    ],
)
def test_a_study_that_is_too_small_or_too_large_is_refused(changes, why):
    with pytest.raises(ValidationError) as refused:
        plan(**changes)
    assert why in str(explain(refused.value))


# --- tests of a reply -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "passing", "failing"),
    [
        ("contains:Paris|Lyon", ["It is PARIS.", "lyon"], ["Rome", ""]),
        ("contains:a:b", ["see a:b"], ["a b"]),
        ("equals:Yes|no", ["yes", " 'Yes.' ", "**No**", "NO!"], ["yes, it is", "", "not"]),
        ("number:3..5", ["2 + 2 = 4", "4.5.", "3", "that is 1,000 less: 5"], ["6 or 4,000", "two", "-4", ""]),
        ("number:..-1", ["-1", "so -2.5"], ["0", "1"]),
        ("number:1000..", ["1,000"], ["1.000", "999"]),
        ("number:7", ["is 7", "7.0"], ["8"]),
        (r"regex:\b[Pp]aris\b", ["Paris", "in paris."], ["PARIS", "comparison"]),
        ("regex:(?i)^a.c$", ["abc", "AxC"], ["abcd", "a\nc"]),
    ],
)
def test_a_reply_passes_or_does_not(check, passing, failing):
    verdicts = passes(read_check(check), [*passing, *failing])
    assert verdicts == [True] * len(passing) + [False] * len(failing)
    assert str(read_check(check)) == check


@pytest.mark.parametrize("text", ["Paris", "contains:", "like:Paris", ""])
def test_what_is_no_test_says_what_one_is(text):
    with pytest.raises(UserError, match=r"is no test; write contains:\.\.\., equals:"):
        read_check(text)


@pytest.mark.parametrize("text", ["number:5..3", "number:a..b", "number:nan", "number:1...2"])
def test_a_range_that_is_none_is_refused(text):
    with pytest.raises(ValidationError, match=r"written as 3\.\.5"):
        read_check(text)


def test_a_suite_may_expect_a_plain_text():
    assert expectation("see: Paris") == Check(kind="contains", value="see: Paris")
    assert expectation("equals:4") == Check(kind="equals", value="4")


def test_a_regular_expression_that_is_none_or_never_ends_is_one_sentence(monkeypatch):
    with pytest.raises(UserError, match=r"regex:\(a is no regular expression of Python: missing \)"):
        checks.try_out(read_check("regex:(a"))
    checks.try_out(read_check("regex:a"))
    monkeypatch.setattr(apart, "SECONDS", 0.2)
    with pytest.raises(UserError, match=r"was ended, because it takes more than .*; write a simpler one"):
        passes(read_check("regex:^(a|a)*$"), ["a" * 40 + "b"])
    assert passes(read_check("regex:b"), ["ab"]) == [True], "and the next one is served"


# --- suites ---------------------------------------------------------------------------------------------------


def test_a_csv_and_json_lines_say_the_same():
    history = [{"prompt": "Hi", "base": "Yes?", "post": "Hello."}]
    rows = [
        {"prompt": "Caf\u00e9, \u201cnow\u201d?\nPlease.", "category": "food", "expect": "contains:yes"},
        {"prompt": "And you?", "system": "Be brief.", "history": history},
    ]
    lines = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    csv = (
        "\ufeffprompt,system,category,expect,history\r\n"
        '"Caf\u00e9, \u201cnow\u201d?\nPlease.",,food,contains:yes,\r\n'
        '\r\nAnd you?,Be brief.,,,"' + json.dumps(history).replace('"', '""') + '"\r\n'
    )
    found = suite.read_suite("rows.jsonl", lines.encode())
    assert found == suite.read_suite("rows.CSV", csv.encode())
    assert found[0].expect == Check(kind="contains", value="yes") and found[0].category == "food"
    assert found[1].conversation.system == "Be brief." and found[1].conversation.turns == (Turn(**history[0]),)


def test_openais_messages_are_a_conversation_that_both_sides_share():
    messages = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1."},
        {"role": "user", "content": [{"type": "text", "text": "Two?"}]},
    ]
    [row] = suite.read_suite("a.jsonl", json.dumps({"messages": messages, "expect": 2}).encode())
    assert row.prompt == "Two?" and row.conversation.system == "Be kind."
    assert row.conversation.turns == (Turn(prompt="One?", base="1.", post="1."),)
    assert row.expect == Check(kind="contains", value="2")


def good(*after: str) -> str:
    return "\n".join(['{"prompt": "fine"}', *after])


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.jsonl", good("{"), "Row 2 of a.jsonl: This row is damaged"),
        ("a.jsonl", good('{"prompt": "x", "prompt": "y"}'), "Row 2 of a.jsonl: This row cannot be read: it names 'prompt' twice"),
        ("a.jsonl", good('{"question": "x"}'), "Row 2 of a.jsonl: there is a field 'question'; those of a suite are prompt"),
        ("a.jsonl", good("[1]"), "Row 2 of a.jsonl: it is no JSON object"),
        ("a.jsonl", good('{"prompt": 3}'), "Row 2 of a.jsonl: prompt: input should be a valid string"),
        ("a.jsonl", good('{"prompt": " "}'), "Row 2 of a.jsonl: it has no prompt"),
        ("a.jsonl", good('{"prompt": "x", "expect": "number:5..3"}'), "Row 2 of a.jsonl: the value: a range of numbers"),
        ("a.jsonl", good('{"prompt": "x", "history": [{"prompt": "y"}]}'), "Row 2 of a.jsonl: turns.0.base: field required"),
        ("a.jsonl", good('{"messages": [{"role": "user", "content": "x"}], "prompt": "y"}'), "leave out prompt"),
        ("a.jsonl", good('{"messages": [{"role": "assistant", "content": "x"}]}'), "user and assistant in turn"),
        ("a.jsonl", good('{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}'), "only text is asked"),
        ("a.jsonl", good('{"messages": []}'), "with a user at the end"),
        ("a.jsonl", " \n", "a.jsonl has no row; write 1 to 1,000 rows."),
        ("a.jsonl", good(*['{"prompt": "x"}'] * 1000), "a.jsonl has more; write 1 to 1,000 rows."),
        ("a.csv", "prompt\nfine\nx,y\n", "Row 2 of a.csv: it has more fields than the first line"),
        ("a.csv", "question\nfine\n", "Row 1 of a.csv: there is a field 'question'"),
        ("a.csv", 'prompt,history\nfine,\nx,"[{]"\n', "Row 2 of a.csv: This history is damaged"),
        ("a.csv", 'prompt\nfine\n"x\n', "Row 2 of a.csv: unexpected end of data"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_by_its_number(name, text, why):
    with pytest.raises(UserError) as refused:
        suite.read_suite(name, text.encode())
    assert why in str(refused.value)


def test_a_file_that_is_no_text_or_too_large_is_refused(monkeypatch):
    with pytest.raises(UserError, match=r"a\.csv is not UTF-8 text"):
        suite.read_suite("a.csv", b"prompt\n\xff\n")
    monkeypatch.setattr(suite, "MOST_BYTES", 10)
    with pytest.raises(UserError, match="has 11 bytes, and at most 10 are read"):
        suite.read_suite("a.csv", b"prompt\nfour")


@pytest.mark.parametrize("name, prompts, categories", [("everyday", 60, 10), ("claims", 30, 7)])
def test_the_suites_that_come_with_the_app_can_be_asked(name, prompts, categories):
    rows = suite.own_suite(name)
    assert name in suite.NAMES
    assert (len({row.prompt + str(row.conversation) for row in rows}), len({row.category for row in rows})) == (
        prompts,
        categories,
    )
    assert (
        StudyPlan(prompts=rows, pairs=("embedded",), seeds=4, sampling=DEFAULT_SAMPLING, today="2026-11-29").total
        == prompts * 4 * 4
    )
