"""Rules read from the source files: who may see a config, who may import whom, how long files and functions are."""

import ast
import pathlib
import subprocess
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# Who stands above whom; imports point down. What is in one line does not import each other.
FLOORS = (
    ("__main__",),
    ("main",),
    ("command_line", "job"),
    ("benchmark",),
    ("selection",),
    ("inference",),
    ("experiment",),
    ("precompute",),
    ("reporting",),
    ("features",),
    ("pretrained",),
    ("training",),
    ("corpora",),
    ("models",),
    ("data",),
    ("audio",),
    ("parallel",),
    ("files", "fingerprint"),
    ("batch", "errors", "masks", "configs"),
)
FLOOR = {part: number for number, parts in enumerate(FLOORS) for part in parts}
SEES_CONFIGS = ("main", "command_line", "job", "benchmark", "selection", "inference", "experiment", "configs")
TOP_LEVEL = {
    "emoflax", "configs", "main.py", "tests", "requirements.txt", "README.md", "precompute", "docs", "pyproject.toml",
    ".ci", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "mkdocs.yml", ".gitignore",
}  # fmt: skip
VAGUE = {"utils", "util", "helpers", "helper", "misc", "common"}
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 400, 60


def git(*arguments: str) -> list[str]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()


SOURCES = {
    path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8"), str(path))
    for part in ("emoflax", "precompute", "configs", "tests", "main.py")
    for path in (sorted((ROOT / part).rglob("*.py")) if (ROOT / part).is_dir() else [ROOT / part])
}
MODULES = {
    ".".join(("emoflax", *path.with_suffix("").parts[path.parts[0] == "emoflax" :])).removesuffix(".__init__"): path
    for path in SOURCES
    if path.parts[0] != "tests"
}


def part_of(module: str) -> str:
    """'emoflax.data.splits' -> 'data'; the package itself is ''."""
    return module.split(".")[1] if "." in module else ""


def imports_of(module: str) -> Iterator[tuple[str, int]]:
    """Modules of emoflax that a module imports anywhere, in functions and under TYPE_CHECKING too; and the line."""
    for node in ast.walk(SOURCES[MODULES[module]]):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{MODULES[module]}, line {node.lineno}: a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner if inner in MODULES else node.module), node.lineno


def internal(module: str) -> list[tuple[str, int]]:
    return [(name, line) for name, line in imports_of(module) if name.split(".")[0] == "emoflax"]


def test_the_rules_below_read_what_there_is():
    assert {"emoflax", "emoflax.main", "emoflax.job", "emoflax.experiment.run", "emoflax.precompute.build",
            "emoflax.configs.default", "emoflax.data.splits"} <= set(MODULES)  # fmt: skip
    assert sum(len(internal(module)) for module in MODULES) > 200
    assert {part_of(module) for module in MODULES} - {""} == set(FLOOR)


@pytest.mark.parametrize("part", sorted(set(FLOOR) - set(SEES_CONFIGS)))
def test_a_part_below_experiment_sees_no_configdict(part):
    for module in (name for name in MODULES if part_of(name) == part):
        text = (ROOT / MODULES[module]).read_text(encoding="utf-8")
        assert "ConfigDict" not in text and "ml_collections" not in text, MODULES[module]


@pytest.mark.parametrize("part", sorted(FLOOR, key=FLOOR.get))
def test_imports_point_down(part):
    wrong = [
        f"{MODULES[module]}, line {line}: {name}"
        for module in MODULES
        if part_of(module) == part
        for name, line in internal(module)
        if part_of(name) not in ("", part) and (FLOOR[part_of(name)] <= FLOOR[part] or part == "configs")
    ]
    assert not wrong, "\n".join(wrong)


def test_no_circle_of_imports_between_modules():
    """Imports inside functions count: they only hide a circle."""
    graph = {module: {name for name, _ in internal(module) if name in MODULES} - {module} for module in MODULES}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for name in sorted(graph[module]):
                visit(name, (*path, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


def test_configs_and_precompute_are_imported_by_their_names_in_the_package():
    """At the top level they would be anybody's `configs`, and a second copy of the module."""
    wrong = [
        f"{path}, line {node.lineno}"
        for path, tree in SOURCES.items()
        if path.parts[0] != "tests"
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
        if name and name.split(".")[0] in ("configs", "precompute", "main", "tests")
    ]
    assert not wrong, "\n".join(wrong)


def test_no_file_is_longer_than_one_reads():
    lengths = {path: len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert not {str(path): lines for path, lines in lengths.items() if lines > MOST_LINES}


def test_no_function_is_longer_than_a_page():
    """But those of configs, which are lists of fields."""
    long = {
        f"{path}:{node.lineno} {node.name}": lines
        for path, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and path.parts[0] != "configs"
        if (lines := node.end_lineno - node.lineno + 1) > MOST_LINES_OF_A_FUNCTION
    }
    assert not long


def test_no_module_is_named_for_nothing_in_particular():
    assert not [str(path) for path in SOURCES if VAGUE & {part.removesuffix(".py") for part in path.parts}]


def test_no_source_file_is_ignored_by_git():
    """`data/` in .gitignore once left emoflax/data/ out of every clone."""
    assert not git("check-ignore", "--no-index", *map(str, SOURCES))


def test_the_top_level_holds_what_was_agreed_and_nothing_else():
    known = git("ls-files", "--cached", "--others", "--exclude-standard") or list(map(str, SOURCES))
    parts = {pathlib.Path(name).parts[0] for name in known if (ROOT / name).is_file()}
    assert parts <= TOP_LEVEL
    assert {"emoflax", "configs", "main.py", "tests", "requirements.txt", "README.md", "precompute"} <= parts
