"""Reward expressions: ``0.5*novelty + bandgap(target=2.0, width=0.3)``.

The text is read with Python's own parser and walked over a whitelist; nothing in it is evaluated.

Grammar::

    expression = term ("+" term)*
    term       = [weight "*"] reward | reward "*" weight
    reward     = name | name "(" [string,] option "=" literal | "curve" "=" curve | "risk" "=" number, ... ")"
    name       = identifier | "file.py:Class" (quoted) | "file.py:function" (quoted)
    curve      = identifier | identifier "(" parameter "=" literal | "curve" "=" curve, ... ")"
    literal    = number | string | True | False | None | [literal, ...]

``target=prompt`` stands for what the sample was asked for (``Reward.prompted_by``).
A text without a name is the reward's first option: ``matgl("my_model", target=2)``.
A weight of 0 makes a monitor: measured and recorded, no part of the reward. ``curve`` and ``risk`` belong
to the term, not to the reward: they say how its values become scores (``rewards.term_scores``). A curve may
be quoted.
"""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from materium_rl.errors import ConfigError
from materium_rl.syntax import Expression, describe, is_number

_BARE_FILE = re.compile(r"""([^"'()]+\.py:\w+)\s*(\(.*\))?""", re.DOTALL)
FIRST_OPTION = ""
"""Key in ``Term.options`` of the text that was written without a name."""
CURVE, RISK = "curve", "risk"
RESERVED_OPTIONS = (CURVE, RISK)
"""Keywords of every term; no reward may have an option of such a name."""
TARGET = "target"


class Placeholder(Enum):
    """A value that each sample has its own of."""

    PROMPT = "prompt"

    def __repr__(self) -> str:
        return str(self.value)


@dataclass(frozen=True, slots=True)
class CurveCall:
    """A curve as written, not yet checked: ``step(low=1)``.

    Args:
        name: Name of the curve.
        parameters: Plain Python literals; under ``curve`` another call.
    """

    name: str
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Term:
    """One summand of a reward expression.

    Args:
        name: Registered reward name, or ``file.py:Class`` / ``file.py:function``.
        options: Options as written (plain Python literals); ``FIRST_OPTION`` for the one without a name.
        weight: Finite and not negative; 0 makes a monitor.
        curve: Scores the values in place of the reward's own curve.
        risk: Standard deviations by which a value may be off, to the disadvantage of the score.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    curve: CurveCall | None = None
    risk: float = 0.0

    @property
    def prompted(self) -> bool:
        """Whether its target is what each sample was asked for."""
        return self.options.get(TARGET) is Placeholder.PROMPT


def parse(text: str) -> list[Term]:
    """Read a reward expression.

    Returns:
        The terms in the order written.

    Raises:
        ConfigError: With a caret under the offending column and the reason.
    """
    return _Reader(text).read()


def parse_one(text: str) -> Term:
    """Read one reward without a weight; here a file may stand without quotes: ``file.py:Class(option=1)``.

    Raises:
        ConfigError: It is something else.
    """
    file = _BARE_FILE.fullmatch(text.strip())
    term, *more = parse(json.dumps(file[1], ensure_ascii=False) + (file[2] or "") if file else text)
    if more or term.weight != 1:
        raise ConfigError(f"expected one reward without a weight, found {text!r}")
    return term


def format_expression(terms: list[Term] | tuple[Term, ...]) -> str:
    """Write terms as canonical text, such that ``parse`` gives the same terms back."""
    return " + ".join(_format_term(term) for term in terms)


def _format_term(term: Term) -> str:
    name = term.name if term.name.isidentifier() else json.dumps(term.name, ensure_ascii=False)
    options = dict(term.options)
    if term.curve is not None:
        options[CURVE] = term.curve
    if term.risk:
        options[RISK] = term.risk
    call = _format_call(name, options)
    weight = repr(float(term.weight)).removesuffix(".0")
    return call if weight == "1" else f"{weight}*{call}"


def _format_call(name: str, options: dict[str, Any]) -> str:
    written = [
        f"{key}={_format_value(value)}" if key else _format_value(value) for key, value in options.items()
    ]
    return f"{name}({', '.join(written)})" if written else name


def _format_value(value: Any) -> str:
    return _format_call(value.name, value.parameters) if isinstance(value, CurveCall) else repr(value)


class _Reader(Expression):
    """Walks the syntax tree of a reward expression, or of a curve."""

    def __init__(self, text: str, kind: str = "reward expression", example: str = "novelty+bandgap") -> None:
        super().__init__(text, kind, example)

    def unreadable(self, reason: str) -> str:
        hint = '; a file needs quotes: "my_rewards.py:Hardness"(target=30)' if ".py:" in self.text else ""
        return f"not a {self.kind} ({reason}){hint}"

    def read(self) -> list[Term]:
        terms: list[Term] = []
        for node in self._summands(self.tree()):
            term = self._term(node)
            if any(term.name == other.name for other in terms):
                raise self.wrong(node, f"{term.name!r} appears twice; write each reward once")
            terms.append(term)
        return terms

    def read_curve(self) -> CurveCall:
        return self._curve(self.tree())

    def _summands(self, node: ast.expr) -> list[ast.expr]:
        stack, found = [node], []
        while stack:
            current = stack.pop()
            if isinstance(current, ast.BinOp) and isinstance(current.op, ast.Add):
                stack += [current.right, current.left]
            else:
                found.append(current)
        return found

    def _term(self, node: ast.expr) -> Term:
        if isinstance(node, ast.BinOp):
            return self._weighted(node)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            raise self.wrong(node, "a weight cannot be negative; turn the reward's own curve round instead")
        if isinstance(node, ast.Call):
            options = self._options(node)
            curve, risk = options.pop(CURVE, None), options.pop(RISK, 0.0)
            return Term(self._name(node.func), options, curve=curve, risk=risk)
        return Term(self._name(node))

    def _weighted(self, node: ast.BinOp) -> Term:
        if isinstance(node.op, ast.Sub):
            raise self.wrong(node.right, "rewards are added, not subtracted; a weight cannot be negative")
        if not isinstance(node.op, ast.Mult):
            raise self.wrong(node, "only + between rewards and * between a weight and a reward are allowed")
        left, right = node.left, node.right
        if _is_signed_number(right) and not _is_signed_number(left):
            left, right = right, left
        if not _is_signed_number(left):
            raise self.wrong(left, "expected a number before *; rewards are combined with +")
        if isinstance(right, ast.BinOp):
            raise self.wrong(right, "a weight belongs to one reward; write 0.5*a + 0.5*b")
        weight = self.number(left)
        if weight < 0:
            raise self.wrong(left, "a weight cannot be negative; turn the reward's own curve round instead")
        return replace(self._term(right), weight=weight)

    def _name(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name):
            return node.id
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            path, _, attribute = node.value.rpartition(":")
            if path.endswith(".py") and attribute.isidentifier():
                return node.value
            raise self.wrong(node, "a quoted reward must read file.py:Class or file.py:function")
        if isinstance(node, ast.Constant):
            raise self.wrong(node, "expected a reward, found a plain value")
        raise self.wrong(node, f"{describe(node)} is not allowed here; expected a reward name")

    def _options(self, node: ast.Call) -> dict[str, Any]:
        options: dict[str, Any] = {}
        for argument in node.args:
            if options or not (isinstance(argument, ast.Constant) and isinstance(argument.value, str)):
                raise self.wrong(
                    argument, "options are written as name=value; only one text may stand without a name"
                )
            options[FIRST_OPTION] = argument.value
        for keyword in node.keywords:
            if keyword.arg is None:
                raise self.wrong(keyword.value, "** is not allowed; write each option as name=value")
            if keyword.arg in options:
                raise self.wrong(keyword.value, f"option {keyword.arg!r} is given twice")
            options[keyword.arg] = self._value(keyword.arg, keyword.value)
        return options

    def _value(self, option: str, node: ast.expr) -> Any:
        if option == CURVE:
            return self._curve(node)
        if option == RISK:
            return self._risk(node)
        if option == TARGET and isinstance(node, ast.Name) and node.id == Placeholder.PROMPT.value:
            return Placeholder.PROMPT
        return self._literal(node)

    def _curve(self, node: ast.expr) -> CurveCall:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return _Reader(node.value, "curve", "step(low=1, high=3)").read_curve()
        if isinstance(node, ast.Name):
            return CurveCall(node.id)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.args:
                raise self.wrong(node.args[0], "parameters of a curve are written as name=value")
            return CurveCall(node.func.id, self._options(node))
        raise self.wrong(node, f"{describe(node)} is no curve; expected for example step(low=1, high=3)")

    def _risk(self, node: ast.expr) -> float:
        if not _is_signed_number(node) or (risk := self.number(node)) < 0:
            raise self.wrong(node, "risk is a number of standard deviations, 0 or more")
        return risk

    def _literal(self, node: ast.expr) -> Any:
        if isinstance(node, ast.List):
            return [self._literal(item) for item in node.elts]
        if _is_signed_number(node):
            self.number(node)
            return ast.literal_eval(node)
        if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, bool | str)):
            return node.value
        raise self.wrong(
            node,
            f"{describe(node)} is not allowed; an option is a number, text, True, False, "
            "None or a list of these",
        )


def _is_signed_number(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        node = node.operand
    return is_number(node)
