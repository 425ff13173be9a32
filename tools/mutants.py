"""Mutants of a module: the same text with one small fault in it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

SWAPPED: dict[type[ast.AST], str] = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "*",
}
"""What stands for an operator in a mutant; comparisons move by one, which is where bounds go wrong."""

DELETED = (ast.AugAssign, ast.Delete, ast.Raise, ast.Break, ast.Continue)
"""Statements that are left out whole; of assignments and calls only those that ``_is_deleted`` allows."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One edit of a module's text."""

    line: int
    start: int
    end: int
    text: str

    def apply(self, source: str) -> str:
        """Return the module's text with the fault in it."""
        return source[: self.start] + self.text + source[self.end :]


def mutants(source: str) -> list[Mutant]:
    """Return every mutant of a module, in the order of its text."""
    text = _Text(source)
    found = (mutant for node in _code(ast.parse(source)) for mutant in _of(node, text))
    return sorted(set(found), key=lambda one: (one.start, one.end, one.text))


class _Text:
    """The text of a module by the positions of its nodes, which count bytes of a line."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._lines = source.splitlines(keepends=True)
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))

    def _offset(self, line: int, column: int) -> int:
        return self._starts[line - 1] + len(self._lines[line - 1].encode()[:column].decode())

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._offset(node.lineno, node.col_offset), self._offset(node.end_lineno, node.end_col_offset)

    def of(self, node: ast.expr) -> str:
        start, end = self.span(node)
        return self.source[start:end]

    def replaced(self, node: ast.expr | ast.stmt, text: str) -> Mutant:
        return Mutant(node.lineno, *self.span(node), text)


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes that run: no annotations, decorators, overloads, format strings, or code for type checkers."""
    children = ast.iter_child_nodes(node)
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            if any("overload" in ast.unparse(decorator) for decorator in node.decorator_list):
                return
            defaults = (default for default in node.args.kw_defaults if default is not None)
            children = chain(node.args.defaults, defaults, node.body)
        case ast.ClassDef():
            children = iter(node.body)
        case ast.AnnAssign():
            children = iter([node.value] if node.value else [])
        case ast.If() if "TYPE_CHECKING" in ast.unparse(node.test):
            return
        case ast.JoinedStr():
            return
    yield node
    for child in children:
        yield from _code(child)


def _of(node: ast.AST, text: _Text) -> Iterator[Mutant]:
    match node:
        case ast.stmt() if _is_deleted(node):
            yield text.replaced(node, "pass")
        case ast.BoolOp(op=operator, values=values):
            same, other = ("and", "or") if isinstance(operator, ast.And) else ("or", "and")
            clauses = [f"({text.of(value)})" for value in values]
            yield text.replaced(node, f"({f' {other} '.join(clauses)})")
            for n in range(len(clauses)):
                yield text.replaced(node, f"({f' {same} '.join(clauses[:n] + clauses[n + 1 :])})")
        case ast.Compare(left=left, ops=[operator], comparators=[right]):
            yield text.replaced(node, f"({text.of(left)}) {SWAPPED[type(operator)]} ({text.of(right)})")
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in SWAPPED:
            yield text.replaced(node, f"(({text.of(left)}) {SWAPPED[type(operator)]} ({text.of(right)}))")
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield text.replaced(node, f"({text.of(operand)})")
        case ast.Constant(value=bool() as value):
            yield text.replaced(node, str(not value))
        case ast.Constant(value=int() | float() as value):
            yield text.replaced(node, repr(value + 1))
    if isinstance(node, (ast.If, ast.IfExp)):
        yield text.replaced(node.test, f"(not ({text.of(node.test)}))")


def _is_deleted(node: ast.stmt) -> bool:
    """Whether a mutant leaves this statement out and still means something."""
    match node:
        case ast.Expr(value=ast.Call() | ast.Await()) | ast.Return(value=None):
            return True
        case ast.Assign(targets=targets):  # without a local name's value the fault would be an error at once
            return all(isinstance(target, (ast.Attribute, ast.Subscript)) for target in targets)
    return isinstance(node, DELETED)
