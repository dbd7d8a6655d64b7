"""Data parallelism on paper: what each model sends, what that costs on named links, what the shards must serve.

    python -m emoflax.benchmark.scaling
    python -m emoflax.benchmark.scaling --steps runs/accelerator.json runs/benchmark-cnn2/benchmark.json

Parameters are counted from the models. With step times, which other benchmarks have measured on one device, also the
efficiency, the rates of input and the device-hours of an epoch that follow. Nothing is computed in parallel here; see
`emoflax.benchmark.loopback` for that. Writes scaling.json into --workdir and prints the tables of docs/scaling.md.
"""

import argparse
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from emoflax.benchmark import script, setup, shapes
from emoflax.benchmark.communication import LINKS, Load, load_of
from emoflax.benchmark.markdown_table import Table, number, percent, section
from emoflax.errors import UserError
from emoflax.files import parse_json

MODELS = (*shapes.WITH_TWIN, *shapes.PUBLISHED)
DEVICES = (8, 64, 512)
EPOCH_CLIPS = 1_000_000
SLOW = "100 GbE"  # on which efficiency is shown beside the best link


def volumes(loads: Mapping[str, Load]) -> Table:
    """Parameters, and the bytes that a step adds up."""
    rows = [
        [f"`{name}`", f"{load.parameters:,}", f"{load.trained:,}", number(load.gradient_bytes / 1e6),
         str(load.batch_size), number(load.clip_bytes / 1e3), number(load.gathered_bytes(64) / 1e6)]
        for name, load in loads.items()
    ]  # fmt: skip
    head = ("model", "parameters", "trained", "gradient, MB", "clips a device", "kB a clip", "rows of 64 devices, MB")
    return Table("What a step sends", head, rows)


def all_reduces(loads: Mapping[str, Load]) -> Table:
    """Milliseconds of one all-reduce of the gradient, by link and number of devices."""
    rows = [
        [name, str(n), *(number(1000 * link.all_reduce_s(load.gradient_bytes, n)) for load in loads.values())]
        for name, link in LINKS.items()
        for n in DEVICES
    ]
    head = ("link", "devices", *(f"`{name}`" for name in loads))
    return Table("Time of an all-reduce, ms", head, rows, [f"{name}: {link.source}." for name, link in LINKS.items()])


def efficiencies(loads: Mapping[str, Load], steps_ms: Mapping[str, float]) -> Table:
    """Of the models whose step was measured; communication is not hidden behind computation."""
    rows = []
    for name, load in loads.items():
        if name not in steps_ms:
            continue
        step_s = steps_ms[name] / 1000
        shares = {
            link: [step_s / (step_s + LINKS[link].all_reduce_s(load.gradient_bytes, n)) for n in DEVICES]
            for link in ("InfiniBand NDR", SLOW)
        }
        clips_per_s = load.batch_size / step_s
        of_64 = 64 * clips_per_s * shares[SLOW][DEVICES.index(64)]
        hours = EPOCH_CLIPS / clips_per_s / 3600
        rows.append([
            f"`{name}`", number(steps_ms[name]), *(percent(share) for shown in shares.values() for share in shown),
            number(clips_per_s), number(of_64), number(of_64 * load.clip_bytes / 1e6),
            number(hours), number(hours / shares[SLOW][-1]),
        ])  # fmt: skip
    head = ("model", "step, ms", *(f"{link}, {n}" for link in ("NDR", SLOW) for n in DEVICES), "clips/s, one device",
            "64 devices", "MB/s, 64", "device-hours, one", f"512, {SLOW}")  # fmt: skip
    notes = [
        f"Efficiency: share of the time that is not communication, at the same clips a device. {SLOW} for the rates of "
        f"64 devices and the hours of 512. An epoch is of {EPOCH_CLIPS:,} clips of {setup.ROW_S:g} s or "
        f"{setup.ROW_TOKENS} tokens."
    ]
    return Table("Efficiency, input and cost", head, rows, notes)


def steps_of(paths: Iterable[pathlib.Path]) -> tuple[dict[str, float], dict[str, str]]:
    """Model -> median ms of a float32 step on one device, and where it was measured, from JSON of other benchmarks.

    Raises:
      UserError: a file that cannot be read, or is of neither kind.
    """
    steps_ms, sources = {}, {}
    for path in paths:
        try:
            for name, (ms, source) in _measured(parse_json(path.read_text())).items():
                steps_ms[name], sources[name] = ms, source
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(
                f"--steps: {path} is no accelerator.json and no benchmark.json of --mode=benchmark "
                f"({type(error).__name__}: {error})"
            ) from error
    return steps_ms, sources


def _measured(found: Mapping[str, Any]) -> dict[str, tuple[float, str]]:
    if found.get("facts", {}).get("quick"):
        raise ValueError("it was made by --quick, of tiny models")
    if "parts" not in found:
        return {found["config"]: (found["train_step"]["ours_epoch"]["median_ms"], found["machine"]["device"])}
    return {
        name.split("/")[1]: (part["train_step"]["ours_epoch"]["median_ms"], found["facts"]["device"])
        for name, part in found["parts"].items()
        if name.startswith("train/") and name.endswith("/float32") and "train_step" in part
    }


def main(options: argparse.Namespace) -> None:
    loads = {name: load_of(shapes.config_of(name)) for name in MODELS}
    steps_ms, sources = steps_of(options.steps)
    tables = [volumes(loads), all_reduces(loads)]
    if steps_ms:
        tables.append(efficiencies(loads, steps_ms))
    found = {
        "loads": {name: vars(load) | {"gradient_bytes": load.gradient_bytes} for name, load in loads.items()},
        "links": {name: vars(link) for name, link in LINKS.items()},
        "all_reduce_ms": {
            name: {link: [1000 * LINKS[link].all_reduce_s(load.gradient_bytes, n) for n in DEVICES] for link in LINKS}
            for name, load in loads.items()
        },
        "devices": DEVICES, "step_ms": steps_ms, "step_sources": sources,
    }  # fmt: skip
    script.write(options.workdir / "scaling.json", found, "\n\n".join(section(table) for table in tables))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", nargs="*", type=pathlib.Path, default=[], help="accelerator.json, benchmark.json")
    script.run(main, parser)
