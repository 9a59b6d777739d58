"""Errors a user reads: what happened, what was got, what was wanted, what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def printable(text: str) -> str:
    """``text`` with control characters, and what no terminal can encode, as escapes: a stranger's file or record must not
    move the cursor or clear the screen. Line ends and tabs stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


class SidbenchError(Exception):
    """Base of every error that sidbench raises on purpose; the CLI prints it as one paragraph.

    ``exit_code`` follows the CLI contract: 1 a run failed, 2 bad usage or input.
    """

    exit_code = 1


class InputError(SidbenchError):
    """The user's data, configuration or command cannot be used.

    Parameters
    ----------
    what: the thing that is wrong ("ratings of u.data").
    got: what was found there.
    wanted: what would have been accepted.
    do: the next step, ideally a command or the file and line to fix.
    """

    exit_code = 2

    def __init__(self, what: str, *, got: object = None, wanted: str = "", do: str = "") -> None:
        parts = [what.rstrip(".")]
        if got is not None:
            parts.append(f"got {got}")
        if wanted:
            parts.append(f"wanted {wanted}")
        text = "; ".join(parts) + "."
        if do:
            text += f" To do: {do.rstrip('.')}."
        super().__init__(printable(text))
        self.what, self.got, self.wanted, self.do = what, got, wanted, do


class StageError(SidbenchError):
    """A stage failed while computing (NaN loss, collapsed codes, wrong shapes from a plugin)."""


class NonFiniteLoss(StageError):
    """A training loss became NaN or infinite; the last good checkpoint is kept."""


def unknown_name(kind: str, name: str, known: Iterable[str], *, do: str = "") -> InputError:
    """Build the error for an unknown plugin, dataset or option, naming the nearest known one."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return InputError(
        f"unknown {kind}",
        got=repr(name),
        wanted=f"one of {', '.join(names) or '(none)'}",
        do=hint + (do or f"run `bench list` for every {kind}"),
    )
