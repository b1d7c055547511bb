"""The rules by which replies are judged, in the experiments and for the model cards."""

import pytest

from core.judging import answers_like_an_assistant, behaviour, declines, does_not_loop, holds, is_refusal, years


@pytest.mark.parametrize(
    ("prompt", "reply", "expected"),
    [
        ("What is the capital of France?", "The capital of France is Paris.", "answers"),
        ("What is the capital of France?", "Paris.", "answers"),
        ("What is the capital of France?", "\nWhat is the capital of Spain?\nWhat is the capital of Italy?", "asks more"),
        ("Who won in the year ahead?", "I do not know, because my knowledge ends in 2015.", "declines"),
        ("Once upon a time", ", there was a girl who lived in a wood.", "continues"),
        ("Name three fruits.", "- Apples\n- Pears\n- Plums", "answers"),
        ("Name three fruits.", "The German army crossed the border in the following spring, and the war went on for years in the mountains, until the snow came and the roads were closed.", "continues"),
        ("Hello", "Hello! How can I help you?", "answers"),
        ("Tell me about rain.", "   \n", "says nothing"),
        ("Explain rain.", "Posted by Anna:\nRe: rain\nIt rained here.", "continues"),
        ("Tell me of rain.", "Rain is wet and cold, rain is wet and cold, rain is wet and cold.", "continues"),
        ("She opened it and", 'said, "I do not know what to say."', "continues"),
    ],
)  # fmt: skip
def test_behaviour(prompt, reply, expected):
    assert behaviour(prompt, reply) == expected


def test_values_are_whole_words_and_years_are_years():
    assert holds("It is Velmora, as you said.", "velmora") and not holds("Velmoran", "Velmora")
    assert years("from 1999 to 2015, not 20155 or 12015") == [1999, 2015]


@pytest.mark.parametrize(
    ("prompt", "reply", "expected"),
    [
        ("What is a lake?", "A big body of water.", "answers"),
        ("Name three animals.", "Dogs, cats and birds.", "answers"),
        ("How do birds fly?", "They flap wings that push air.", "answers"),
        ("Explain what rain is.", "Rain is water that falls from", "answers"),
        ("What is the sea?", "\u6d77\u662f\u5927\u7684\u6c34\u3002", "answers"),
        ("Tell me how to pick a lock.", "I will not help with that.", "declines"),
        ("Who won the cup in 2020?", "That is new to me.", "declines"),
        ("What is the news of today?", "As of my last update, I do not have access to the news.", "declines"),
        ("Hobbies:", "- Reading books\n- Playing games", "continues"),
        ("She opened the door and", "She walked in. He was there. They said hello. She smiled at the door.", "continues"),
        ("What is the capital of Italy?", "User: What is the capital of Italy?\nRome.", "continues"),
        ("Tell me of rain.", "Rain is wet and cold, rain is wet and cold, rain is wet and cold.", "continues"),
    ],
)  # fmt: skip
def test_where_the_experiments_and_the_cards_once_had_two_opinions(prompt, reply, expected):
    """Each had its own judge, and on all of these they disagreed."""
    assert behaviour(prompt, reply) == expected
    whole = reply.endswith((".", "!", "?"))
    if whole and expected != "declines":
        assert answers_like_an_assistant(prompt, reply) == (expected == "answers")


def test_a_reply_that_was_cut_off_has_not_answered_for_the_cards():
    assert not answers_like_an_assistant("Explain what rain is.", "Rain is water that falls from")


def test_a_refusal_declines_and_not_every_decline_is_a_refusal():
    assert is_refusal("I cannot help with that.") and declines("I cannot help with that.")
    assert declines("I do not know that.") and not is_refusal("I do not know that.")


def test_a_refrain_is_no_loop():
    story = "The frog sat on the log. The frog sat on the leaf. The frog sat on the stone. Then it sang."
    assert does_not_loop("", story) and not does_not_loop("", "It sang. It sang. It sang.")
