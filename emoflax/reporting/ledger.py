"""The ledger: configs/results.jsonl holds every recorded result, and docs/results.md shows them as tables.

`python -m emoflax.reporting.ledger` writes the tables between the two markers of docs/results.md. Both paths are those
of a checkout and count from the folder in which the command is started.
"""

import importlib.metadata
import json
import math
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

from emoflax.data import speakernorm, splits
from emoflax.errors import UserError
from emoflax.files import parse_json
from emoflax.parallel.workers import usable_cores
from emoflax.reporting.metrics import METRICS, count_seeds

PATH = pathlib.Path("configs/results.jsonl")
PAGE = pathlib.Path("docs/results.md")
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
TOP = pathlib.Path(__file__).parents[2]  # holds emoflax/: the top of a checkout, or site-packages
CODE = ("emoflax", "configs", "precompute", "main.py", f":!{PATH.as_posix()}")  # what a result depends on


def machine() -> str:
    """Processor or accelerator, and how many."""
    import jax

    if jax.default_backend() != "cpu":
        return f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    info = pathlib.Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if (info.exists())
        else []
    )
    return f"{names[0] if names else platform.processor() or platform.machine()}, {usable_cores()} cores"


def commit() -> str:
    """Abbreviated git commit of the code that runs, wherever it is started; "+": its files differ from the commit's.

    An installed package, whose files no repository tracks, gives its version, like 'v0.1.0'; 'unknown' without either.
    """
    try:
        _git("ls-files", "--error-unmatch", "emoflax/__init__.py")  # fails where some other project's repository is
        head = _git("rev-parse", "--short", "HEAD")
        return f"{head}+" if _git("status", "--porcelain", "--untracked-files=all", "--", *CODE) else head
    except (OSError, subprocess.CalledProcessError):
        pass
    try:
        return f"v{importlib.metadata.version('emoflax')}"
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _git(*arguments: str) -> str:
    """Output of git about the repository around TOP; $GIT_DIR and the like, set in hooks, would name another one."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(TOP), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.strip()


def check_recordable(path: pathlib.Path = PATH) -> None:
    """To be called before a training of hours whose result --record will append.

    Raises:
      UserError: there is no folder for the ledger here.
    """
    if not path.parent.is_dir():
        raise UserError(
            f"--record appends to {path}, but there is no folder {path.parent.absolute()}; start from the top of a "
            "checkout of EmoFlax, or leave --record out: report.json in the run's folder holds the same numbers"
        )


def append(entries: list[dict[str, Any]], path: pathlib.Path = PATH) -> None:
    """Adds lines in one write. Raises UserError where the file cannot be written."""
    check_recordable(path)
    try:
        with path.open("a+b") as file:
            torn = file.seek(0, os.SEEK_END) and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
            lines = "".join(json.dumps(entry) + "\n" for entry in entries)
            file.write(b"\n" * torn + lines.encode())  # a line that a kill has torn must not swallow the next one
    except OSError as error:
        raise UserError(
            f"cannot record results in {path}: {error.strerror}; the run's report.json holds them"
        ) from error


def entries_of(summary: dict[str, dict], facts: dict[str, Any]) -> list[dict[str, Any]]:
    """One line per metric.

    Args:
      summary: of `metrics.summarise`.
      facts: 'config', 'corpus', 'protocol', 'seeds', 'ensemble', 'pretrained', 'command', 'minutes', 'commit',
        'machine', 'date'.
    """
    lines = []
    for name in METRICS:
        values = summary[name]
        numbers = {
            key: values[key] if values[key] is None else round(values[key], 4) for key in ("mean", "low", "high")
        }
        each = values["seeds"]
        spread = round(max(each) - min(each), 4) if len(each) > 1 else None
        lines.append(facts | {"metric": name} | numbers | {"spread": spread})
    return lines


def read(path: pathlib.Path = PATH) -> list[dict[str, Any]]:
    """Raises UserError where a line is no result."""
    entries = []
    for number, line in enumerate(path.read_bytes().split(b"\n") if path.exists() else [], start=1):
        try:
            entry = parse_json(line) if line.strip() else {}
            problem = "" if entry == {} or _is_result(entry) else "it is no result of a run"
        except ValueError as error:
            problem = getattr(error, "msg", str(error))
        if problem:
            raise UserError(
                f"{path}, line {number}: {problem}; every line holds one result as JSON: mend or remove that line"
            )
        entries += [entry] if entry else []
    return entries


def _is_result(entry: Any) -> bool:
    """Whether a line has what the tables show."""
    if not isinstance(entry, dict):
        return False
    texts = ("config", "corpus", "protocol", "metric", "command", "commit", "machine", "date")
    limits, seeds = [entry.get("low"), entry.get("high")], entry.get("seeds")
    return (
        all(isinstance(entry.get(name), str) for name in texts)
        and entry["metric"] in METRICS
        and all(_is_number(entry.get(name)) for name in ("mean", "minutes", "ensemble"))
        and (limits == [None, None] or all(map(_is_number, limits)))
        and isinstance(entry.get("pretrained", False), bool)
        and isinstance(seeds, list)
        and (len(seeds) == 1 or entry["ensemble"] > 1 or _is_number(entry.get("spread")))
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def tables(entries: list[dict[str, Any]]) -> str:
    """Markdown, one table for each corpus, protocol and kind of beginning (from scratch, pretrained weights).

    Results under different protocols, with and without pretrained weights, or with and without per-speaker or
    per-corpus normalisation (which is part of the protocol's name) are not comparable, so they never share a table.
    Of models that are scored on another corpus than they were trained on, one table has all pairs of corpora.
    The newest result of a config replaces older ones.
    """
    latest: dict[tuple, dict[tuple, dict[str, dict]]] = {}
    for entry in entries:
        corpus, pair = ("", entry["corpus"]) if _is_across(entry["protocol"]) else (entry["corpus"], "")
        group = (corpus, entry["protocol"], entry.get("pretrained", False))
        latest.setdefault(group, {}).setdefault((pair, entry["config"]), {})[entry["metric"]] = entry
    for (corpus, protocol, _), rows in latest.items():
        for (pair, config), by_metric in rows.items():
            if missing := [name for name in METRICS if name not in by_metric]:
                raise UserError(
                    f"{PATH} has no line of {', '.join(missing)} of {config} on {pair or corpus}, {protocol}: put it "
                    "back, or remove the other lines of that result"
                )
    parts, section = [], None
    for group, rows in sorted(latest.items(), key=lambda item: _order(item[0])):
        if group[0] != section:
            section = group[0]
            parts.append(f"## {section or 'Trained on some corpora, scored on another one'}\n")
        parts.append(_heading(*group))
        head = ["train -> test", "config", "accuracy", "UAR", "macro-F1", "weighted F1", "seeds", "minutes", "measured"]
        head = head[1:] if section else head
        parts += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        parts += [_row([f"`{name}`" for name in names if name], by_metric) for names, by_metric in sorted(rows.items())]
        commands = dict.fromkeys(by_metric["uar"]["command"] for _, by_metric in sorted(rows.items()))
        parts += ["", *(f"- `{command}`" for command in commands), ""]
    return "\n".join(parts)


def _is_across(protocol: str) -> bool:
    return splits.base_of(protocol) in splits.ACROSS_CORPORA


def _order(group: tuple[str, str, bool]) -> tuple:
    """RAVDESS first, then other corpora, then several; inner scores last."""
    corpus, protocol, pretrained = group
    return corpus != "ravdess", not corpus, corpus, protocol.endswith("-inner"), protocol, pretrained


def _heading(corpus: str, protocol: str, pretrained: bool) -> str:
    notes = ["**pretrained weights**" if pretrained else "from scratch"]
    if protocol.startswith("random"):
        notes.append("**speakers are shared between train and test**")
    if protocol.endswith("-inner"):
        notes.append("scored on inner validation speakers; no test clip is scored")
    if _is_across(protocol):
        notes.append(splits.ACROSS_CORPORA[splits.base_of(protocol)])
    if suffix := speakernorm.suffix_of(protocol):
        notes.append(speakernorm.NOTES[suffix])
    return f"**{corpus or 'another corpus'}, `{protocol}`**: {'; '.join(notes)}\n"


def _row(names: list[str], by_metric: dict[str, dict]) -> str:
    cells = []
    for name in ("accuracy", "uar", "macro_f1", "weighted_f1"):
        entry = by_metric[name]
        bounds = f" [{100 * entry['low']:.1f}, {100 * entry['high']:.1f}]" if entry["low"] is not None else ""
        cells.append(f"{100 * entry['mean']:.1f}{bounds}")
    entry = by_metric["uar"]
    measured = f"{entry['date']}, {entry['machine']}, {entry['commit']}"
    return f"| {' | '.join([*names, *cells, _seeds(entry), format(entry['minutes'], '.1f'), measured])} |"


def _seeds(entry: dict[str, Any]) -> str:
    """How many models were scored, and how far apart; an ensemble is scored once, whatever seeds its members have."""
    if entry["ensemble"] > 1:
        return f"ensemble of {entry['ensemble']}"
    seeds = count_seeds(len(entry["seeds"]))
    return seeds if len(entry["seeds"]) == 1 else f"{seeds} (UAR spread {100 * entry['spread']:.1f})"


def rewrite_page() -> None:
    """Raises UserError unless both files are there and the page has its two markers."""
    entries = read()
    if not entries:
        raise UserError(f"there are no results in {PATH.absolute()}; start from the top of a checkout of EmoFlax")
    text = PAGE.read_text() if PAGE.exists() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"{PAGE} must exist and hold the lines '{BEGIN}' and '{END}'; the tables go between them")
    PAGE.write_text(f"{before}{BEGIN}\n{tables(entries)}\n{END}{after}")


if __name__ == "__main__":
    try:
        rewrite_page()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
