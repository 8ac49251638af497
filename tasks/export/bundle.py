"""One file of Python out of a module of this project and the definitions that it uses from others.

What is copied are the project's own definitions, so that a program without the project draws, names and reads what the
project does, and nothing is written twice.
"""

import ast
import builtins
import importlib.util
from collections.abc import Mapping
from pathlib import Path

PROJECT = ("tasks", "backbones")
_ANNOTATIONS = ("annotation", "returns")


def bundle(module: str, instead: Mapping[tuple[str, str], str] | None = None) -> str:
    """The source of `module` with everything that it imports from this project, and that this uses in turn.

    `instead` says for a (module, name) which definition of `module` takes its place, which then has that name.
    Two definitions of one name cannot be in one file; AssertionError names it.
    """
    bundler = _Bundler(module, instead or {})
    tree, _ = _parse(module)
    bundler.take_all(module)
    parts = ["\n".join(sorted(bundler.imports)), *bundler.definitions.values()]
    document = ast.get_docstring(tree, clean=False)
    return f'"""{document}"""\n\nfrom __future__ import annotations\n\n' + "\n\n\n".join(parts) + "\n"


class _Bundler:
    def __init__(self, root: str, instead: Mapping[tuple[str, str], str]) -> None:
        self.root, self.instead = root, instead
        self.imports: set[str] = set()
        self.definitions: dict[tuple[str, str], str] = {}
        self.owner: dict[str, str] = {}
        """Module of each name of the new file."""

    def take_all(self, module: str) -> None:
        """Every definition of `module`, and what it does when it is run."""
        tree, text = _parse(module)
        for node in tree.body:
            for name in _defined(node):
                self.take(module, name)
            if isinstance(node, ast.If):
                self.definitions[module, f"line {node.lineno}"] = str(ast.get_source_segment(text, node))

    def take(self, module: str, name: str) -> None:
        """The definition of `name` in `module`, after those that it uses."""
        if (module, name) in self.instead:
            new = self.instead[module, name]
            self.take(self.root, new)
            self.definitions[module, name] = f"{name} = {new}"
            return
        tree, text = _parse(module)
        for node in tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                self._take_import(module, node, name)
            elif name in _defined(node) and (module, name) not in self.definitions:
                assert self.owner.setdefault(name, module) == module, f"{name}: {module}, {self.owner[name]}"
                self.definitions[module, name] = ""  # a definition may use itself
                for used in sorted(_used(node)):
                    self.take(module, used)
                self._take_types(tree, node)
                del self.definitions[module, name]  # what it uses comes before it
                self.definitions[module, name] = _source(text, tree, node)

    def _take_types(self, tree: ast.Module, node: ast.stmt) -> None:
        """Imports from the standard library for annotations, for whoever reads the file."""
        names = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
        for line in tree.body:
            if isinstance(line, ast.ImportFrom) and line.module in ("typing", "collections.abc", "pathlib"):
                self.imports |= {f"from {line.module} import {a.name}" for a in line.names if a.name in names}

    def _take_import(self, module: str, node: ast.Import | ast.ImportFrom, name: str) -> None:
        for alias in node.names:
            if name != (alias.asname or alias.name.split(".")[0]):
                continue
            if isinstance(node, ast.ImportFrom) and _is_ours(node):
                assert alias.asname is None, f"{module}: {alias.name} under another name"
                self.take(_absolute(module, node), alias.name)
            elif isinstance(node, ast.ImportFrom):
                self.imports.add(f"from {node.module} import {ast.unparse(alias)}")
            else:
                self.imports.add(f"import {ast.unparse(alias)}")


def _parse(module: str) -> tuple[ast.Module, str]:
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None, module
    text = Path(spec.origin).read_text(encoding="utf-8")
    return ast.parse(text), text


def _is_ours(node: ast.ImportFrom) -> bool:
    return node.level > 0 or str(node.module).split(".")[0] in PROJECT


def _absolute(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return str(node.module)
    package = module.split(".")[: -node.level]
    return ".".join([*package, *([node.module] if node.module else [])])


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    names = [n for target in targets for n in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return [name.id for name in names if isinstance(name, ast.Name)]


def _used(node: ast.AST) -> set[str]:
    """Names that running the definition, or what it defines, looks up; annotations are never evaluated."""
    found: set[str] = set()
    for name, value in ast.iter_fields(node):
        if name not in _ANNOTATIONS:
            for child in value if isinstance(value, list) else [value]:
                found |= _used(child) if isinstance(child, ast.AST) else set()
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and not hasattr(builtins, node.id):
        found.add(node.id)
    return found


def _source(text: str, tree: ast.Module, node: ast.stmt) -> str:
    """The lines of a definition with its decorators, and the string below that says what it means."""
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(d.lineno for d in decorators)])
    following = tree.body[tree.body.index(node) + 1 :]
    is_text = (
        following and isinstance(following[0], ast.Expr) and isinstance(following[0].value, ast.Constant)
    )
    last = following[0].end_lineno if is_text else node.end_lineno
    return "\n".join(text.splitlines()[first - 1 : last])
