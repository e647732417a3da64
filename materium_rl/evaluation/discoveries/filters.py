"""Filters and sort keys over a table of samples: ``band_gap > 1 and e_above_hull < 0.03``.

The text is read with Python's own parser and walked over a whitelist; nothing in it is evaluated.

Grammar::

    condition = comparison | column of True and False | not condition | condition and|or condition
    comparison = value (< | <= | > | >= | == | !=) value ... | value [not] in [literal, ...]
               | text [not] in elements
    value     = number | text | True | False | column | value (+ | - | * | /) value | - value

A column is a name of the table (``bandgap.value``), the name of a reward (its value), or one of
``ALIASES``. What was not measured is unknown: a comparison with it is neither true nor false, and a sample
passes only where the whole condition is true.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from materium_rl.errors import ConfigError, did_you_mean
from materium_rl.syntax import Expression, describe, is_number

if TYPE_CHECKING:
    import pandas as pd

ALIASES: dict[str, tuple[str, ...]] = {
    "band_gap": ("bandgap.value",),
    "e_above_hull": ("stability.value", "energy_above_hull"),
    "formation_energy": ("stability.formation_energy",),
    "density": ("validity.density",),
    "space_group": ("space_group_number",),
    "tier": ("novelty.tier",),
    "nearest": ("novelty.nearest_formula",),
}
"""Short name -> the columns that it may stand for; the first that the table has."""
ELEMENTS = "elements"
"""Column of the set of element symbols."""

_MAX_DEPTH = 50
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class Kind(StrEnum):
    """What a part of an expression gives."""

    NUMBER = "a number"
    TEXT = "text"
    TRUTH = "true or false"
    SET = "a set of elements"
    UNKNOWN = "a column without any value"


_KINDS: dict[type, Kind] = {
    bool: Kind.TRUTH,
    int: Kind.NUMBER,
    float: Kind.NUMBER,
    str: Kind.TEXT,
    frozenset: Kind.SET,
}


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of an expression: what it gives, and for row i the value (None if unknown)."""

    kind: Kind
    at: Callable[[int], Any]


@dataclass(frozen=True, slots=True)
class Evaluated:
    """An expression over a table.

    Args:
        values: One per row: True, False or a number; None where it is unknown.
        columns: The columns that it names, in order.
    """

    values: list[Any]
    columns: tuple[str, ...]


def condition(text: str, frame: pd.DataFrame) -> Evaluated:
    """True, False or unknown for each row.

    Raises:
        ConfigError: With a caret under what is wrong, and the column that may have been meant.
    """
    return _Reader(text, "filter", '"band_gap > 1 and e_above_hull < 0.03"', frame).evaluate(Kind.TRUTH)


def sort_key(text: str, frame: pd.DataFrame) -> Evaluated:
    """A number for each row, None where it is unknown.

    Raises:
        ConfigError: With a caret under what is wrong, and the column that may have been meant.
    """
    return _Reader(text, "sort key", "reward or -e_above_hull", frame).evaluate(Kind.NUMBER)


def column_of(name: str, columns: Sequence[str]) -> str | None:
    """The column that a name stands for: itself, the value of a reward of that name, or by ``ALIASES``."""
    candidates = (name, f"{name}.value", *ALIASES.get(name, ()))
    return next((candidate for candidate in candidates if candidate in columns), None)


class _Reader(Expression):
    """Turns one expression into functions of the row number."""

    def __init__(self, text: str, kind: str, example: str, frame: pd.DataFrame) -> None:
        super().__init__(text, kind, example)
        self._frame = frame
        self._columns: dict[str, _Part] = {}
        self._depth = 0

    def evaluate(self, wanted: Kind) -> Evaluated:
        tree = self.tree()
        part = self._part(tree)
        if part.kind not in (wanted, Kind.UNKNOWN):
            raise self.wrong(tree, f"gives {part.kind}, expected {wanted}, as in {self.example}")
        return Evaluated([part.at(i) for i in range(len(self._frame))], tuple(self._columns))

    def _part(self, node: ast.expr) -> _Part:
        if self._depth == _MAX_DEPTH:
            raise ConfigError(f"the {self.kind} is nested more than {_MAX_DEPTH} deep; make it shorter")
        self._depth += 1
        try:
            return self._any_part(node)
        finally:
            self._depth -= 1

    def _any_part(self, node: ast.expr) -> _Part:
        match node:
            case ast.BoolOp():
                return self._and_or(node)
            case ast.UnaryOp(op=ast.Not()):
                inner = self._of_kind(node.operand, Kind.TRUTH)
                return _Part(Kind.TRUTH, lambda i: _not(inner.at(i)))
            case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
                inner = self._of_kind(node.operand, Kind.NUMBER)
                sign = -1 if isinstance(node.op, ast.USub) else 1
                return _Part(Kind.NUMBER, lambda i: None if (x := inner.at(i)) is None else sign * x)
            case ast.BinOp():
                return self._arithmetic(node)
            case ast.Compare():
                return self._comparison(node)
            case ast.Constant():
                return self._constant(node)
            case ast.Name() | ast.Attribute():
                return self._column(node)
        raise self.wrong(node, f"{describe(node)} is not allowed in a {self.kind}")

    def _of_kind(self, node: ast.expr, kind: Kind) -> _Part:
        part = self._part(node)
        if part.kind not in (kind, Kind.UNKNOWN):
            raise self.wrong(node, f"this is {part.kind}, expected {kind}")
        return part

    def _and_or(self, node: ast.BoolOp) -> _Part:
        parts = [self._of_kind(value, Kind.TRUTH) for value in node.values]
        decisive = isinstance(node.op, ast.Or)
        return _Part(Kind.TRUTH, lambda i: _joined([part.at(i) for part in parts], decisive))

    def _arithmetic(self, node: ast.BinOp) -> _Part:
        function = _ARITHMETIC.get(type(node.op))
        if function is None:
            raise self.wrong(node.right, "only + - * / are allowed between numbers")
        left, right = (self._of_kind(side, Kind.NUMBER) for side in (node.left, node.right))
        return _Part(Kind.NUMBER, lambda i: _calculated(function, left.at(i), right.at(i)))

    def _comparison(self, node: ast.Compare) -> _Part:
        sides = [node.left, *node.comparators]
        parts = [
            self._pair(left, op, right)
            for left, op, right in zip(sides[:-1], node.ops, sides[1:], strict=True)
        ]
        return _Part(Kind.TRUTH, lambda i: _joined([part.at(i) for part in parts], False))

    def _pair(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> _Part:
        if isinstance(op, ast.In | ast.NotIn):
            part = self._membership(left, right)
            return _Part(Kind.TRUTH, lambda i: _not(part.at(i))) if isinstance(op, ast.NotIn) else part
        if (function := _COMPARISONS.get(type(op))) is None:
            raise self.wrong(right, "'is' is not allowed; write == or !=")
        a, b = self._part(left), self._part(right)
        if Kind.UNKNOWN in (a.kind, b.kind):
            return _Part(Kind.TRUTH, lambda _: None)
        if a.kind is not b.kind:
            raise self.wrong(right, f"{a.kind} cannot be compared with {b.kind}")
        if a.kind is Kind.SET:
            raise self.wrong(left, 'ask for one element at a time, as in "O" in elements')
        if a.kind is not Kind.NUMBER and function not in (operator.eq, operator.ne):
            raise self.wrong(right, f"{a.kind} is compared with == or !=")
        return _Part(Kind.TRUTH, lambda i: _compared(function, a.at(i), b.at(i)))

    def _membership(self, left: ast.expr, right: ast.expr) -> _Part:
        item = self._part(left)
        if isinstance(right, ast.List | ast.Tuple | ast.Set):
            choices = [self._choice(node, item.kind) for node in right.elts]
            return _Part(Kind.TRUTH, lambda i: None if (x := item.at(i)) is None else x in choices)
        whole = self._part(right)
        if whole.kind is not Kind.SET or item.kind is not Kind.TEXT:
            expected = 'expected [..., ...] or elements, as in tier in ["known"] or "O" in elements'
            raise self.wrong(right, expected)
        return _Part(
            Kind.TRUTH, lambda i: None if (x := item.at(i)) is None or (s := whole.at(i)) is None else x in s
        )

    def _choice(self, node: ast.expr, kind: Kind) -> Any:
        number = node.operand if isinstance(node, ast.UnaryOp) else node
        if not isinstance(number, ast.Constant):
            raise self.wrong(node, "a list holds numbers or texts only")
        return self._part(node).at(0) if kind is Kind.UNKNOWN else self._of_kind(node, kind).at(0)

    def _constant(self, node: ast.Constant) -> _Part:
        value = self.number(node) if is_number(node) else node.value
        if (kind := _KINDS.get(type(value))) is None:
            raise self.wrong(node, f"{value!r} is not allowed; expected a number, text, True or False")
        return _Part(kind, lambda _: value)

    def _column(self, node: ast.Name | ast.Attribute) -> _Part:
        name = self._dotted(node)
        columns = [str(column) for column in self._frame.columns]
        column = column_of(name, columns)
        if column is None:
            known = [*columns, *(alias for alias in ALIASES if column_of(alias, columns))]
            hint = did_you_mean(name, known) or f"; it has {', '.join(sorted(known)[:12])}, ..."
            raise self.wrong(node, f"the table has no column {name!r}{hint}")
        if column not in self._columns:
            self._columns[column] = self._read(node, column)
        return self._columns[column]

    def _dotted(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name):
            return node.id
        if isinstance(node, ast.Attribute):
            return f"{self._dotted(node.value)}.{node.attr}"
        raise self.wrong(node, f"{describe(node)} is not allowed in a {self.kind}")

    def _read(self, node: ast.expr, column: str) -> _Part:
        values = [None if _is_missing(value) else value for value in self._frame[column].tolist()]
        kinds = {_KINDS.get(type(value)) for value in values if value is not None}
        if len(kinds) > 1 or None in kinds:
            raise self.wrong(node, f"column {column!r} holds neither numbers nor texts")
        kind = kinds.pop() if kinds else Kind.UNKNOWN
        assert kind is not None
        return _Part(kind, values.__getitem__)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _not(value: bool | None) -> bool | None:
    return None if value is None else not value


def _joined(values: Sequence[bool | None], decisive: bool) -> bool | None:
    """``or`` (decisive True) and ``and`` (False) of values that may be unknown."""
    if decisive in values:
        return decisive
    return None if None in values else not decisive


def _calculated(function: Callable[[float, float], float], a: float | None, b: float | None) -> float | None:
    if a is None or b is None or (function is operator.truediv and b == 0):
        return None
    return function(a, b)


def _compared(function: Callable[[Any, Any], bool], a: Any, b: Any) -> bool | None:
    return None if a is None or b is None else function(a, b)
