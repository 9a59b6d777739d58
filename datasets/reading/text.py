"""Text of shop metadata: HTML entities resolved, white space collapsed, both counted."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from sidbench.datasets.foundation.errors import InputError


@dataclass
class TextCleaner:
    """Cleans strings and counts in ``counts`` how many needed it ("html_entities_unescaped", "whitespace_repaired").

    Half a surrogate pair, which no file can hold, becomes the replacement character ("half_characters_replaced").
    """

    counts: Counter[str] = field(default_factory=Counter)

    def __call__(self, text: str) -> str:
        if "&" in text:
            plain = html.unescape(text)
            self.counts["html_entities_unescaped"] += plain != text
            text = plain
        if not text.isascii():
            whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            self.counts["half_characters_replaced"] += whole != text
            text = whole
        clean = " ".join(text.split())
        self.counts["whitespace_repaired"] += clean != text
        return clean

    @property
    def repairs(self) -> dict[str, int]:
        """The counts for a card; half characters, which hardly any file has, only where there are some."""
        usual = {name: self.counts[name] for name in ("html_entities_unescaped", "whitespace_repaired")}
        half = self.counts["half_characters_replaced"]
        return usual | ({"half_characters_replaced": half} if half else {})

    def value(self, value: object, where: str) -> str:
        """A metadata value as clean text: missing is empty, a list of strings is joined by spaces.

        Raises ``InputError`` naming ``where`` (file, line and key) for any other type.
        """
        if value is None:
            return ""
        if isinstance(value, str):
            return self(value)
        if isinstance(value, (list, tuple)) and all(isinstance(part, str) for part in value):
            return self(" ".join(value))
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return str(value)
        raise InputError(where, got=f"a {type(value).__name__}", wanted="text", do="repair or remove the line")


def text_columns(columns: dict[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Only the columns in which at least one item has text, in the given order."""
    return {name: tuple(column) for name, column in columns.items() if any(column)}


def count_without_text(text: dict[str, tuple[str, ...]], n_items: int) -> int:
    """Number of items with no text in any column."""
    return sum(not any(column[i] for column in text.values()) for i in range(n_items))
