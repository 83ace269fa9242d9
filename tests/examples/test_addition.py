"""The addition script on one-digit numbers."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("tyro")
from examples import addition


def test_questions_and_answers():
    config = addition.Config(digits=2, questions=200)
    sides = addition.draw(config)
    assert [len(side["asked"]) for side in sides] == [178, 2, 20]
    decode = lambda ids: "".join(addition.LETTERS.decode(ids)).strip()  # noqa: E731
    seen = set()
    for side in sides:
        for asked, labels, tokens in zip(*(side[k] for k in ("asked", "labels", "tokens"))):  # noqa: B905
            question = decode(asked[::-1])
            a, b = map(int, question.split("+"))
            assert decode(labels) == str(a + b)
            np.testing.assert_array_equal(tokens[1:], labels[:-1])
            seen.add(question)
    assert len(seen) == 200
    asked = [tuple(map(int, text.split("+"))) for text in seen]
    assert len({tuple(sorted(pair)) for pair in asked}) == 200  # none in both orders
    assert 40 < sum(a > b for a, b in asked) < 160  # but either order comes


@pytest.mark.slow
@pytest.mark.parametrize("attention", [False, True])
def test_a_short_run_learns_and_answers(tmp_path, capsys, attention):
    config = addition.Config(
        ask=("1+1",), digits=1, questions=25, hidden_size=16, epochs=30, batch_size=8,
        learning_rate=0.02, attention=attention, out=tmp_path,
    )  # fmt: skip
    rates = addition.main(config)
    assert 0 <= rates["answers"] <= rates["characters"] <= 1
    assert "1+1 = " in capsys.readouterr().out
    assert (tmp_path / "learning_curve.png").exists()
    assert addition.main(dataclasses.replace(config, resume=True)) == rates


@pytest.mark.quick("options[1-5]*")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ask": ("12345+678901",)}, "--ask: expected two numbers of up to 3 digits, got '12345"),
        ({"ask": ("one",)}, "--ask: expected two numbers"),
        ({"digits": 0}, "--digits: expected at least 1"),
        ({"digits": 20}, "--digits: expected at most 9, got 20"),
        ({"questions": 5}, "--questions: expected at least 10, got 5"),
        ({"digits": 1, "questions": 100}, "--questions: expected at most 27"),
    ],
)
def test_mistakes(tmp_path, options, message):
    with pytest.raises(SystemExit, match=message):
        addition.main(addition.Config(out=tmp_path, **options))
