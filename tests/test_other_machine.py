"""What two machines computed, held against each other bit by bit. The other machine itself is `make other-machine`'s."""

import math

from tools.other_machine import compared, whole


def machine(**changed: list) -> dict:
    told = {
        "tokens": [5, 6],
        "margins": [0.25, None],
        "log-probabilities": [-0.5, -0.0],
        "logits": ["aa", "bb"],
    }
    return {"base": told, "post": {**told, **changed}}


def test_the_same_bits_are_the_same_at_every_token():
    rows = compared(machine(), machine())
    assert [row["tokens"] for row in rows] == [2, 2] == [row["logits"] for row in rows]
    assert all(map(whole, rows))


def test_one_bit_of_one_figure_is_seen():
    for figure, there in {
        "tokens": [5, 7],
        "margins": [math.nextafter(0.25, 1.0), None],
        "log-probabilities": [-0.5, 0.0],
        "logits": ["aa", "bc"],
    }.items():
        base, post = compared(machine(), machine(**{figure: there}))
        assert post[figure] == 1
        assert whole(base) and not whole(post)


def test_a_reply_that_stopped_sooner_is_not_the_same():
    _, post = compared(machine(), machine(tokens=[5], margins=[0.25], logits=["aa"]))
    assert (post["of"], post["tokens"]) == (2, 1)
    assert not whole(post)
