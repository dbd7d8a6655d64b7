"""configs/results.jsonl: every result that the README shows, one line each, and the README's table made from it.

`python -m emoflax.reporting.ledger` rewrites the table between the README's two markers.
"""

import json
import pathlib
import platform
import subprocess
from typing import Any

from emoflax.data import speakernorm
from emoflax.errors import UserError
from emoflax.parallel.workers import usable_cores
from emoflax.reporting.metrics import METRICS

PATH = pathlib.Path("configs/results.jsonl")
README = pathlib.Path("README.md")
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


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
    """Abbreviated git commit, with "+" where tracked files beside the ledger were changed; "" outside a repository."""
    try:
        head = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", f":!{PATH.as_posix()}")
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{head}+" if changed else head


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def append(entries: list[dict[str, Any]], path: pathlib.Path = PATH) -> None:
    """Adds lines in one write. Raises UserError where the file cannot be written."""
    try:
        with path.open("a") as file:
            file.write("".join(json.dumps(entry) + "\n" for entry in entries))
    except OSError as error:
        raise UserError(f"cannot record results in {path}: {error.strerror}; run from the project's root") from error


def entries_of(summary: dict[str, dict], facts: dict[str, Any]) -> list[dict[str, Any]]:
    """One line per metric.

    Args:
      summary: of `metrics.summarise`.
      facts: 'config', 'corpus', 'protocol', 'seeds', 'ensemble', 'pretrained', 'command', 'minutes', 'commit',
        'machine', 'date'.
    """
    rounded = [
        {key: value if value is None else round(value, 4) for key, value in values.items() if key != "seeds"}
        | {"spread": round(max(values["seeds"]) - min(values["seeds"]), 4)}
        for values in (summary[name] for name in METRICS)
    ]
    return [facts | {"metric": name} | values for name, values in zip(METRICS, rounded, strict=True)]


def read(path: pathlib.Path = PATH) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line] if path.exists() else []


def tables(entries: list[dict[str, Any]]) -> str:
    """Markdown: one table per corpus and protocol, so that no column ever mixes protocols; the newest result counts."""
    latest: dict[tuple, dict[str, dict]] = {}
    for entry in entries:
        group = (entry["corpus"], entry["protocol"])
        latest.setdefault(group, {}).setdefault(entry["config"], {})[entry["metric"]] = entry
    parts = []
    for (corpus, protocol), rows in sorted(latest.items()):
        shared = ": **speakers are shared between train and test**" if protocol.startswith("random") else ""
        shared += f": {speakernorm.NOTE}" if protocol.endswith(speakernorm.SUFFIX) else ""
        parts.append(f"**{corpus}, `{protocol}`**{shared}\n")
        parts.append("| config | accuracy | UAR | macro-F1 | weighted F1 | seeds | minutes | measured |")
        parts.append("|---|---|---|---|---|---|---|---|")
        parts += [_row(config, by_metric) for config, by_metric in sorted(rows.items())]
        commands = dict.fromkeys(by_metric["uar"]["command"] for _, by_metric in sorted(rows.items()))
        parts += ["", *(f"- `{command}`" for command in commands), ""]
    return "\n".join(parts)


def _row(config: str, by_metric: dict[str, dict]) -> str:
    cells = []
    for name in ("accuracy", "uar", "macro_f1", "weighted_f1"):
        entry = by_metric[name]
        bounds = f" [{100 * entry['low']:.1f}, {100 * entry['high']:.1f}]" if entry["low"] is not None else ""
        cells.append(f"{100 * entry['mean']:.1f}{bounds}")
    entry = by_metric["uar"]
    seeds = f"{len(entry['seeds'])} (UAR spread {100 * entry['spread']:.1f})"
    seeds = f"ensemble of {entry['ensemble']}" if entry["ensemble"] > 1 else seeds
    return (
        f"| `{config}` | {' | '.join(cells)} | {seeds} | {entry['minutes']:.1f} | "
        f"{entry['date']}, {entry['machine']}, {entry['commit']} |"
    )


def rewrite_readme() -> None:
    text = README.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    README.write_text(f"{before}{BEGIN}\n{tables(read())}\n{END}{after}")


if __name__ == "__main__":
    rewrite_readme()
