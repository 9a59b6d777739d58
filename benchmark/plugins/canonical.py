"""Source code as a text that says what the code does and not how it is worded.

Equal texts for code that differs in comments, formatting, docstrings, imports, annotations of functions, metadata
(``INFO``), documentation and ranges of settings, texts of errors and warnings, places of files, and names of what modules
define. The text does not depend on the version of Python that parses the code.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator

# What a name, or an attribute of a module, stands for: its place in the text, or None for a name of no module.
Resolve = Callable[[str, str], str | None]

_SILENT_FIELDS = {"ctx", "type_comment", "type_params", "kind", "returns", "annotation", "msg", "cause", "simple"}
_SILENT_NAMES = {"INFO", "__all__"}
_PLAIN_TYPES = {"int", "float", "bool", "str", "bytes", "tuple", "list", "dict", "set", "None"}
_TOLD = {"warn", "line"}  # methods whose arguments are words for people
_DECLARES = "setting"


def statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a body that do something: no imports, docstrings, ``pass``, metadata or type-checking blocks."""
    for node in body:
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.Pass)) or _is_text(node) or _is_type_checking(node):
            continue
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and bound_names(node) and bound_names(node) <= _SILENT_NAMES:
            continue
        yield node


def bound_names(node: ast.stmt) -> set[str]:
    """The names that a statement of a module binds, also inside its branches."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    names = {n.id for t in targets if t is not None for n in ast.walk(t) if isinstance(n, ast.Name)}
    for branch in ("body", "orelse", "finalbody"):
        names |= {name for inner in getattr(node, branch, []) for name in bound_names(inner)}
    for handler in getattr(node, "handlers", []):
        names |= {name for inner in handler.body for name in bound_names(inner)}
    return names


def canonical(node: ast.stmt, resolve: Resolve) -> str:
    """The text of one statement of a module.

    resolve: (name, attribute or "") -> what stands in the text instead; ``None`` leaves the name as it is.
    """
    return _Writer(resolve).node(node, top=True)


class _Writer:
    def __init__(self, resolve: Resolve) -> None:
        self.resolve = resolve

    def node(self, node: ast.AST, top: bool = False, in_class: bool = False) -> str:
        special = getattr(self, f"_{type(node).__name__}", None)
        if special is not None:
            text: str = special(node, in_class)
            return text
        silent = _SILENT_FIELDS | ({"name"} if top else set())
        inside = isinstance(node, ast.ClassDef)
        parts = [
            f"{name}={self.value(value, inside)}"
            for name, value in ast.iter_fields(node)
            if name not in silent and value is not None and value != []
        ]
        return f"{type(node).__name__}({','.join(parts)})"

    def value(self, value: object, in_class: bool = False) -> str:
        if isinstance(value, list):
            kept = statements(value) if value and isinstance(value[0], ast.stmt) else value
            return f"[{';'.join(self.value(v, in_class) for v in kept)}]"
        return self.node(value, in_class=in_class) if isinstance(value, ast.AST) else repr(value)

    # -- what is written otherwise than field by field ---------------------------------------------------------------
    def _Name(self, node: ast.Name, _: bool) -> str:
        return self.resolve(node.id, "") or node.id

    def _Attribute(self, node: ast.Attribute, _: bool) -> str:
        if isinstance(node.value, ast.Name) and (found := self.resolve(node.value.id, node.attr)) is not None:
            return found
        return f"{self.node(node.value)}.{node.attr}"

    def _Constant(self, node: ast.Constant, _: bool) -> str:
        is_path = isinstance(node.value, str) and node.value.startswith("sidbench.")
        return "''" if is_path else f"{type(node.value).__name__}:{node.value!r}"

    def _Raise(self, node: ast.Raise, _: bool) -> str:
        raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return f"Raise({raised.id if isinstance(raised, ast.Name) and _is_error(raised.id) else ''})"

    def _Call(self, node: ast.Call, _: bool) -> str:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if _is_error(name):
            return f"{name}()"
        if name in _TOLD and isinstance(node.func, ast.Attribute):
            return f"{self.node(node.func)}()"
        arguments = node.args[:1] if name == _DECLARES else [*node.args, *node.keywords]
        return f"{self.node(node.func)}({','.join(self.node(a) for a in arguments)})"

    def _AnnAssign(self, node: ast.AnnAssign, in_class: bool) -> str:
        names = {n.id for n in ast.walk(node.annotation) if isinstance(n, ast.Name)}
        kind = f":{ast.unparse(node.annotation)}" if in_class and names <= _PLAIN_TYPES else ""
        value = "" if node.value is None else self.node(node.value)
        return f"Assign({self.node(node.target)}{kind}={value})"


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _is_error(name: str) -> bool:
    return name.endswith(("Error", "Exception"))
