"""A page taken apart, and what must hold for any page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise


class Elements(HTMLParser):
    """Every element of a page with its attributes, every text with the element around it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self._open, data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def check(self) -> None:
        """Ids are distinct, references have targets, headings are in order, header cells have a scope."""
        ids = [a["id"] for _, a in self.elements if a.get("id")]
        named = [i for i in ids if not re.fullmatch(r"[mp][0-9a-f]{10}", i or "")]  # shapes of the charts
        assert len(named) == len(set(named))
        for _, attributes in self.elements:
            for name in ("aria-labelledby", "for"):
                assert attributes.get(name) is None or attributes[name] in ids
            link = attributes.get("href") or attributes.get("xlink:href") or ""
            assert not link.startswith("#") or link[1:] in ids
        levels = [int(tag[1]) for tag, _ in self.elements if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))
        assert all(a.get("scope") in ("col", "row") for a in self.all("th"))
