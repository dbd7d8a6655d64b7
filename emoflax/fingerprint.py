"""Which code made something: a hash of every module that it used, so that other code is noticed.

A module's hash is that of its syntax tree without docstrings: comments, docstrings and formatting do not change it.
What a module imports is read in its text; nothing is imported for that. About 2 ms per module, once in a process.
"""

import ast
import functools
import hashlib
import importlib.metadata
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path


def of_modules(names: Iterable[str], within: tuple[str, ...]) -> dict[str, str]:
    """Name -> hash of those modules and of all that they import, directly or not, from packages in `within`."""
    hashes, left = {}, list(names)
    while left:
        name = left.pop()
        if name not in hashes:
            hashes[name], imported = _read(name)
            left += (module for module in imported if _is_within(module, within))
    if missing := [name for name, code in hashes.items() if not code]:
        raise ModuleNotFoundError(f"no code named {', '.join(missing)}")
    return dict(sorted(hashes.items()))


def of_function(function: Callable, within: tuple[str, ...]) -> dict[str, str]:
    """As `of_modules`, of a function at a module's top level and of what is imported inside of it."""
    return of_modules([f"{function.__module__}.{function.__name__}"], within)


def changed(then: Mapping[str, str]) -> list[str]:
    """Names, of those that `of_modules` returned, whose code is another one now or is gone."""
    return [name for name, known in then.items() if _read(name)[0] != known]


def versions(*distributions: str) -> dict[str, str]:
    """Installed versions of those distributions."""
    return {name: importlib.metadata.version(name) for name in distributions}


def _is_within(name: str, within: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in within)


def _file_of(name: str) -> Path | None:
    """The file of a module; found without importing it, if it is one of this package."""
    package, *parts = name.split(".")
    if package != "emoflax":  # an encoder of somebody else's, which is imported where it is used
        file = getattr(sys.modules.get(name), "__file__", None)
        return Path(file) if file else None
    for root in sys.modules[__package__].__path__:
        place = Path(root, *parts)
        for path in (place.with_name(f"{place.name}.py"), place / "__init__.py"):
            if parts and path.is_file():
                return path
    return None


@functools.cache
def _read(name: str) -> tuple[str, frozenset[str]]:
    """Hash of the code of a module, or of a function at a module's top level, and the modules that it imports.

    '' and none where there is no code of that name.
    """
    if path := _file_of(name):
        tree = ast.parse(path.read_bytes())
    else:
        module, _, function = name.rpartition(".")
        nodes = ast.parse(path.read_bytes()).body if (path := _file_of(module)) else []
        tree = next((node for node in nodes if isinstance(node, ast.FunctionDef) and node.name == function), None)
        if tree is None:
            return "", frozenset()
    parts, imports = [], []
    _walk(tree, parts, imports)
    modules = frozenset(module for node in imports for module in _imported(node))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16], modules


def _walk(node: ast.AST, parts: list[str], imports: list[ast.AST]) -> None:
    """Collects what the code is made of, and its imports; in one pass, three times as fast as ast.dump and ast.walk."""
    parts.append(node.__class__.__name__)
    if isinstance(node, ast.Import | ast.ImportFrom):
        imports.append(node)
    for field in node._fields:
        value = getattr(node, field, None)
        if field == "ctx" or value is None or value == []:  # says nothing that its place does not say
            continue
        parts.append(field)
        if isinstance(value, ast.AST):
            _walk(value, parts, imports)
        elif isinstance(value, list):
            for item in value[1:] if field == "body" and _is_docstring(value[0]) else value:
                if isinstance(item, ast.AST):
                    _walk(item, parts, imports)
                else:
                    parts.append(repr(item))
            parts.append("end")
        else:
            parts.append(repr(value))


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _imported(node: ast.Import | ast.ImportFrom) -> set[str]:
    """Modules of this package that the statement imports; a package itself only for names that are no modules of it."""
    names = {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        inner = {f"{node.module}.{name}" for name in names}
        modules = {name for name in inner if _file_of(name)}
        names = modules if len(modules) == len(inner) else modules | {node.module or ""}
    return {name for name in names if name.startswith("emoflax.") and _file_of(name)}
