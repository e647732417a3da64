"""Short expressions of the user, read with Python's own parser; wrong ones are refused with a caret.

Nothing is evaluated: a reader walks the syntax tree over a whitelist of its own.
"""

from __future__ import annotations

import ast
import math
import warnings

from materium_rl.errors import ConfigError

MAX_LENGTH = 4000


class Expression:
    """One expression and its text, for messages that point at a place in it.

    Args:
        text: As written; line breaks become spaces.
        kind: What it is, for messages: ``filter``.
        example: What a right one looks like, for the message on an empty one.
    """

    def __init__(self, text: str, kind: str, example: str) -> None:
        self.text = " ".join(text.splitlines()).strip()
        self.kind = kind
        self.example = example

    def tree(self) -> ast.expr:
        """The syntax tree.

        Raises:
            ConfigError: Empty, too long, or no Python expression.
        """
        if not self.text:
            raise ConfigError(f"the {self.kind} is empty; expected for example {self.example}")
        if len(self.text) > MAX_LENGTH:
            raise ConfigError(f"the {self.kind} is longer than {MAX_LENGTH} characters")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # "str object is not callable", invalid escapes
                return ast.parse(self.text, mode="eval").body
        except SyntaxError as error:
            column = min((error.offset or len(self.text) + 1) - 1, len(self.text))  # 0: at the end
            raise self._wrong_at(column, self.unreadable(error.msg)) from None
        except (ValueError, RecursionError, MemoryError) as error:
            raise ConfigError(f"cannot read the {self.kind}: {error}") from None

    def unreadable(self, reason: str) -> str:
        """What is said of a text that Python's parser turns down."""
        return f"cannot be read ({reason})"

    def number(self, node: ast.expr) -> float:
        """A number as written, with its sign.

        Raises:
            ConfigError: It is not finite.
        """
        try:
            value = float(ast.literal_eval(node))
        except OverflowError:
            value = math.inf
        if not math.isfinite(value):
            raise self.wrong(node, "the number is not finite")
        return value

    def wrong(self, node: ast.expr, reason: str) -> ConfigError:
        """The error to raise, with a caret under the node."""
        return self._wrong_at(len(self.text.encode()[: node.col_offset].decode()), reason)

    def _wrong_at(self, column: int, reason: str) -> ConfigError:
        return ConfigError(f"wrong {self.kind}: {reason}\n  {self.text}\n  {' ' * column}^")


def is_number(node: ast.expr) -> bool:
    """Whether a node is a number as written, without a sign."""
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def describe(node: ast.expr) -> str:
    """What a node is, in words."""
    names = {
        ast.Attribute: "attribute access",
        ast.Call: "a function call",
        ast.Lambda: "a lambda",
        ast.Subscript: "a subscript",
        ast.IfExp: "if ... else",
        ast.JoinedStr: "an f-string",
        ast.NamedExpr: ":=",
    }
    return names.get(type(node), type(node).__name__.lower())
