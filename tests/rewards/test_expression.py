"""Reward expressions: what is read, what is refused, and where the caret points."""

from __future__ import annotations

import pytest

from materium_rl.errors import ConfigError
from materium_rl.rewards.expression import CurveCall, Term, format_expression, parse


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("novelty+bandgap", [Term("novelty"), Term("bandgap")]),
        (
            "0.5*novelty + bandgap(target=2.0, width=0.3)",
            [Term("novelty", {}, 0.5), Term("bandgap", {"target": 2.0, "width": 0.3})],
        ),
        (
            '"my_rewards.py:Hardness"(target=-30, on=True, by=["a", "b"], top=None)',
            [Term("my_rewards.py:Hardness", {"target": -30, "on": True, "by": ["a", "b"], "top": None})],
        ),
        ("0*a + b*2 + (c)", [Term("a", {}, 0.0), Term("b", {}, 2.0), Term("c")]),
        (
            'matgl("models/gap", target=2) + stability("sevenn")',
            [Term("matgl", {"": "models/gap", "target": 2}), Term("stability", {"": "sevenn"})],
        ),
        ("\n  a +\n  b\n", [Term("a"), Term("b")]),
        (
            "2*a(x=1, curve=double_sigmoid(low=-1, high=3.5), risk=1) + b(curve='reverse') + c(risk=0)",
            [
                Term("a", {"x": 1}, 2.0, CurveCall("double_sigmoid", {"low": -1, "high": 3.5}), 1.0),
                Term("b", curve=CurveCall("reverse")),
                Term("c"),
            ],
        ),
        (
            'a(curve=reverse(curve="step(low=1)"))',
            [Term("a", curve=CurveCall("reverse", {"curve": CurveCall("step", {"low": 1})}))],
        ),
        ("+".join(f"r{i}" for i in range(450)), [Term(f"r{i}") for i in range(450)]),
    ],
)
def test_reads_and_writes_back(text: str, terms: list[Term]) -> None:
    assert parse(text) == terms
    assert parse(format_expression(terms)) == terms


def test_canonical_text_of_an_option_without_a_name() -> None:
    assert format_expression(parse('m( "a",x = 1 )')) == "m('a', x=1)"


def test_canonical_text() -> None:
    assert format_expression(parse("a*0.50+2.0*b( x = 1 )+'f.py:C'")) == '0.5*a + 2*b(x=1) + "f.py:C"'
    curved = parse("a( risk=1, curve='reverse(curve=step( low=1 ))', x=2)")
    assert format_expression(curved) == "a(x=2, curve=reverse(curve=step(low=1)), risk=1.0)"


@pytest.mark.parametrize(
    ("text", "column", "reason"),
    [
        ("novelty + __import__(os)", 21, "name=value"),
        ("a('b', 'c')", 7, "only one text"),
        ("a('b' + 'c')", 2, "name=value"),
        ("novelty + os.system", 10, "attribute access"),
        ("a + os.system(x=1)", 4, "attribute access"),
        ("lambda: 1", 0, "lambda"),
        ("a + [x for x in y]", 4, "listcomp"),
        ("a(1.34)", 2, "name=value"),
        ("a(x=y)", 4, "option is a number"),
        ("a(x=1e999)", 4, "not finite"),
        ("a(x={'k': 1})", 4, "dict"),
        ("a(**b)", 4, "**"),
        ("a(x=1, x=2)", 9, "twice"),
        ("1e999*a", 0, "not finite"),
        ("-1*a", 0, "negative"),
        ("-a", 0, "negative"),
        ("a - b", 4, "subtracted"),
        ("a/2", 0, "only +"),
        ("a*b", 0, "number before"),
        ("True*a", 0, "number before"),
        ("2*(a+b)", 3, "one reward"),
        ("a + 3", 4, "plain value"),
        ("a + b + a", 8, "twice"),
        ("a(x=1) + a(x=2)", 9, "twice"),
        ("'hardness'", 0, "file.py"),
        ("my.py:Hardness", 5, "quotes"),
        ("a +", 3, "not a reward expression"),
        ("'é.py:C'(x=1) + 'b'", 16, "file.py"),
        ("a(x=step(low=1))", 4, "option is a number"),
        ("a(curve=1)", 8, "no curve"),
        ("a(curve=f.g(x=1))", 8, "no curve"),
        ("a(curve=step(1))", 13, "name=value"),
        ("a(curve=step(low=open))", 17, "option is a number"),
        ("a(curve=step(), curve=step())", 22, "twice"),
        ("a(risk='high')", 7, "standard deviations"),
        ("a(risk=-1)", 7, "standard deviations"),
        ("a(risk=True)", 7, "standard deviations"),
    ],
)
def test_refuses_with_a_caret(text: str, column: int, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    message, shown, caret = str(caught.value).splitlines()
    assert reason in message
    assert shown == f"  {text}"
    assert caret.index("^") - 2 == column


def test_a_quoted_curve_is_shown_by_itself() -> None:
    with pytest.raises(ConfigError, match=r"wrong curve: not a curve .*\n  step\(low=\n  +\^"):
        parse('a(curve="step(low=")')
    with pytest.raises(ConfigError, match="the curve is empty; expected"):
        parse('a(curve="")')


@pytest.mark.parametrize("text", ["", "  \n ", "a" * 5000, "a\0b", "(" * 900 + "a" + ")" * 900])
def test_refuses_text_that_is_no_expression(text: str) -> None:
    with pytest.raises(ConfigError):
        parse(text)
