"""README and docs/ are true: their commands parse, their paths and links exist, their numbers are the ledger's."""

import ast
import importlib.util
import json
import pathlib
import re
import shlex
import subprocess
import sys

import cli
import pytest
import yaml
from absl import flags
from ml_collections import config_flags

from emoflax import command_line  # noqa: F401  registers how a dictionary is written on the command line
from emoflax.configs import default
from emoflax.corpora import synthetic
from emoflax.experiment import checks
from emoflax.reporting import ledger

ROOT = cli.ROOT
PAGES = sorted((ROOT / "docs").rglob("*.md"))
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")] + PAGES
HISTORY = ("results.md", "experiments.md", "benchmarks.md")  # may name fields and commands of their day
NOT_THERE = {"configs/solved.py"}  # closed_form.py's name in old rows
MAIN = (ROOT / "main.py").read_text()


def fenced(path: pathlib.Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


def commands(path: pathlib.Path) -> list[list[str]]:
    """Every command in the fenced shell blocks, as a list of words; also those inside a quoted argument."""
    lines = [line for block in fenced(path, "bash") for line in block.replace("\\\n", " ").splitlines()]
    nested = [inner for line in lines for inner in re.findall(r'--command="(.*?)"', line)]
    parts = [part for line in (*lines, *nested) for part in re.split(r"&&", re.sub(r'--command=".*?"', "", line))]
    return [words for part in parts if (words := shlex.split(part))]


def arguments_of_main(words: list[str]) -> list[str] | None:
    """What follows `main.py` or `emoflax`; None for another program."""
    if "main.py" in words:
        return words[words.index("main.py") + 1 :]
    return words[1:] if words[0] == "emoflax" else None


OF_MAIN = [
    pytest.param(arguments, id=f"{path.name}: {shlex.join(arguments)[:70]}")
    for path in DOCUMENTS
    for words in commands(path)
    if (arguments := arguments_of_main(words)) is not None
]


@pytest.mark.parametrize("arguments", OF_MAIN)
def test_every_command_names_a_config_flags_and_fields_that_exist_with_values_they_can_have(arguments):
    arguments = arguments[: arguments.index("--")] if "--" in arguments else arguments  # behind it: Beam's own options
    arguments = [in_the_repository(word) for word in arguments]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "", flag_values=values, lock_config=True, sys_argv=["main.py", *arguments]
    )
    kinds = {"_bool": flags.DEFINE_bool, "_integer": flags.DEFINE_integer, "_multi": flags.DEFINE_multi_string}
    for kind, name in re.findall(r'(?<!_)flags\.DEFINE(\w*)\((?:PATH,|flags\.\w+\(\),|\s)*"(\w+)"', MAIN):
        kinds.get(kind, flags.DEFINE_string)(name, None, "", flag_values=values)
    assert values(["main.py", *arguments]) == ["main.py"]
    assert (values.mode or "train") in constant("MODES")
    assert values.config is not None or values.mode in ("predict", "export", "compare", "serve")
    if values.config is not None:
        checks.check(values.config)


def in_the_repository(word: str) -> str:
    """--config=cnn2 and --config=configs/cnn2.py as a path that does not depend on the current folder."""
    if not word.startswith("--config="):
        return word
    path = ROOT / "configs" / f"{pathlib.PurePath(word.removeprefix('--config=')).stem}.py"
    assert path.is_file(), word
    return f"--config={path}"


def constant(name: str):
    """The value of a constant of main.py, without running anything."""
    assigned = [node for node in ast.parse(MAIN).body if isinstance(node, ast.Assign)]
    return next(ast.literal_eval(node.value) for node in assigned if node.targets[0].id == name)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_modules_that_are_run_exist_and_know_their_options(path):
    for words in commands(path):
        if words[1:2] == ["-m"] and words[2].startswith("emoflax."):
            source = pathlib.Path(importlib.util.find_spec(words[2]).origin).read_text()
            options = [word.removeprefix("--").split("=")[0] for word in words if word.startswith("--")]
            assert all(option in source for option in options), words


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if path.name not in HISTORY], ids=lambda path: path.name)
def test_every_config_field_in_the_text_exists(path):
    config = default.get_config()
    text = "".join(re.split(r"^```.*?^```", path.read_text(), flags=re.MULTILINE | re.DOTALL))
    for name in re.findall(r"\bconfig\.([a-z_]+(?:\.[a-z_]+)*)(?![\w(/])", text.replace("config.json", "")):
        group = config
        for part in name.removesuffix(".py").split("."):
            assert part in group, f"config.{name}"
            group = group[part]


@pytest.mark.parametrize("path", [*DOCUMENTS, ROOT / "CHANGELOG.md"], ids=lambda path: path.name)
def test_every_path_that_is_named_exists(path):
    words = re.split(r"[\s`=,;:()\[\]\"'#]+", path.read_text())
    folders = ("configs/", "emoflax/", "precompute/", "tests/", "docs/", ".ci/")
    named = {word.rstrip(".") for word in words if word.startswith(folders)} - NOT_THERE
    missing = [name for name in named if not (ROOT / name).exists() and not name.startswith("configs/CONFIG")]
    assert not missing


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_continuous_integration_calls_the_test_command():
    readme = (ROOT / "README.md").read_text()
    command = next(line for line in readme.splitlines() if "pytest" in line and line.startswith("python3 -m venv"))
    assert command in (ROOT / ".ci" / "run").read_text()
    assert command in (ROOT / "CONTRIBUTING.md").read_text()


def test_the_results_page_is_the_ledger():
    shown = (ROOT / "docs" / "results.md").read_text().split(ledger.BEGIN)[1].split(ledger.END)[0]
    assert shown.strip() == ledger.tables(ledger.read(ROOT / ledger.PATH)).strip()


def test_the_readme_tables_are_the_ledger_with_one_protocol_per_column_and_pretrained_models_in_a_table_of_their_own():
    newest = {
        (line["config"], line["protocol"]): line
        for line in ledger.read(ROOT / ledger.PATH)
        if line["metric"] == "uar" and line["corpus"] == "ravdess"
    }
    section = (ROOT / "README.md").read_text().split("## Results")[1].split("\n## ")[0]
    tables = [part.splitlines() for part in section.split("\n\n") if part.startswith("|")]
    assert [len(table) for table in tables] == [2 + 8, 2 + 2]
    for table, pretrained in zip(tables, (False, True), strict=True):
        head, _, *rows = [line.strip("|").split("|") for line in table]
        protocols = [cell.strip(" `") for cell in head[1:4]]
        assert protocols == ["emobox6", "luna5", "loso24"] and "literature" in head[4]
        for row in rows:
            for protocol, cell in zip(protocols, row[1:4], strict=True):
                line = newest.get((row[0].split("`")[1], protocol))
                assert line is None or line["pretrained"] == pretrained
                shown = f"{100 * line['mean']:.1f} [{100 * line['low']:.1f}, {100 * line['high']:.1f}]" if line else ""
                assert cell.strip() == shown, (row[0], protocol)


def test_random_and_actor_disjoint_protocols_never_share_a_table():
    entry = {"corpus": "ravdess", "config": "c", "mean": 0.5, "low": 0.4, "high": 0.6, "seeds": [0], "spread": 0.0,
             "minutes": 1.0, "date": "d", "machine": "m", "commit": "c", "command": "x", "ensemble": 1}  # fmt: skip
    entries = [
        entry | {"protocol": protocol, "metric": metric}
        for protocol in ("emobox6", "random_split")
        for metric in ("accuracy", "uar", "macro_f1", "weighted_f1")
    ]
    tables = ledger.tables(entries).split("**ravdess, ")[1:]
    assert len(tables) == 2 and sum("shared between train and test" in table for table in tables) == 1


def anchors(path: pathlib.Path) -> set[str]:
    """Of a page's headings, as MkDocs makes them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


@pytest.mark.parametrize("path", [*DOCUMENTS, ROOT / "CHANGELOG.md"], ids=lambda path: path.name)
def test_links_inside_the_repository_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        page = path.parent / file if file else path
        assert page.exists(), target
        assert not anchor or anchor in anchors(page), target


class Settings(yaml.SafeLoader):
    """mkdocs.yml may hold Python names, which nothing here needs."""


Settings.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)


def test_every_page_is_in_the_navigation_and_everything_in_it_is_a_page():
    nav = yaml.load((ROOT / "mkdocs.yml").read_text(), Settings)["nav"]
    assert sorted(leaves(nav)) == sorted(path.relative_to(ROOT / "docs").as_posix() for path in PAGES)


def leaves(entry) -> list[str]:
    """The pages of a navigation: a list of {title: page or another such list}."""
    if isinstance(entry, str):
        return [entry]
    inner = entry if isinstance(entry, list) else entry.values()
    return [page for item in inner for page in leaves(item)]


def test_the_api_page_names_modules_that_exist():
    names = re.findall(r"^::: ([\w.]+)", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    files = [ROOT.joinpath(*name.split(".")) for name in names]
    assert names and all(file.with_suffix(".py").is_file() or (file / "__init__.py").is_file() for file in files)


def test_the_figure_is_what_its_script_draws_and_is_small():
    spec = importlib.util.spec_from_file_location("figure", ROOT / "docs" / "figure.py")
    figure = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(figure)
    svg = (ROOT / "docs" / "figure.svg").read_text()
    assert svg == figure.draw() and len(svg) < 100_000


def test_the_citation_file_has_what_the_format_requires():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "version"} <= set(citation)
    assert f"## [{citation['version']}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_commands_of_the_first_model_run_as_they_are_written(tmp_path):
    """Train, predict and report again, of README and docs/first-model.md, with one clip of each emotion per speaker."""
    synthetic.make(tmp_path / "cache" / f"synthetic-{synthetic.VERSION}", clips_per_emotion=1)
    for name in ("main.py", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    written = [tuple(words) for name in ("README.md", "docs/first-model.md") for words in commands(ROOT / name)]
    train, predict, report = [
        words for words in dict.fromkeys(written) if "tiny" in shlex.join(words) and "wide" not in shlex.join(words)
    ]
    assert all(words[:2] == ("python", "main.py") for words in (train, predict, report))
    first = cli.run(*train[2:], cwd=tmp_path)
    assert all(kept in first for kept in ("- actor-disjoint: no test speaker", "| UAR |", "| recall of |"))
    last = cli.run(*predict[2:], cwd=tmp_path).splitlines()[-1]
    assert set(json.loads(last)["probabilities"]) == set(synthetic.LABELS)
    again = cli.run(*report[2:], cwd=tmp_path)
    assert re.findall(r"^\| UAR .*", again, re.MULTILINE) == re.findall(r"^\| UAR .*", first, re.MULTILINE) != []


def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    cells = json.loads((ROOT / "docs" / "first_model.ipynb").read_text())["cells"]
    code = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    environment = cli.ENVIRONMENT | {"MPLBACKEND": "Agg", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "docs", env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "| UAR |" in done.stdout and "32 test clips of 2 speakers" in done.stdout
    assert all(re.search(rf"^{label} +0\.\d\d\d", done.stdout, re.MULTILINE) for label in synthetic.LABELS)
