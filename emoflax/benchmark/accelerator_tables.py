"""The report of `accelerator`: tables of what is measured so far, as Markdown and as a page."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from emoflax.benchmark.markdown_table import Table, number, percent, section
from emoflax.benchmark.table import NAMES
from emoflax.files import naming, write_whole
from emoflax.reporting import page

MARKDOWN, PAGE = "accelerator.md", "accelerator.html"
THEIRS = tuple(name for name in NAMES if name.startswith("torch_"))
Parts = Mapping[str, Mapping[str, Any]]


def write(folder: pathlib.Path, facts: Mapping[str, Any], parts: Parts) -> None:
    """Writes accelerator.md and accelerator.html."""
    title, about, made = f"EmoFlax on {facts['device']}", header(facts, parts), tables(parts)
    text = "\n\n".join([f"# {title}", *about, *(section(table) for table in made)]) + "\n"
    with naming(folder / MARKDOWN), write_whole(folder / MARKDOWN) as file:
        file.write(text.encode())
    page.render("tables.html", {"title": title, "facts": about, "tables": made}, folder / PAGE)


def header(facts: Mapping[str, Any], parts: Parts) -> list[str]:
    dates = sorted(part["date"] for part in parts.values())
    commits = sorted({part["commit"] for part in parts.values()})
    when = f"{dates[0]} to {dates[-1]}" if dates else "nothing measured yet"
    lines = [
        f"{facts['devices']} x {facts['device']}, driver {facts['driver']}, compiler platform {facts['compiler']}; "
        f"{facts['machine']}; jax {facts['jax']}, torch {facts['torch']}; {when}; commit {', '.join(commits)}",
        "ms are medians. The ratio is the time of PyTorch's best mode divided by ours: above 1 we are faster. "
        "float32 products may be of TF32 on a GPU, on both sides, and of bfloat16 on a TPU, as JAX's are by default.",
    ]
    if facts["without_torch"]:
        lines.append(f"**{facts['without_torch']}.**")
    if facts["quick"]:
        lines.append("**Made by --quick, of tiny models and without torch.compile: no number here means anything.**")
    return lines


def tables(parts: Parts) -> list[Table]:
    """Those that have something to show."""
    made = [_peak(parts), _train(parts), _shares(parts), _predictions(parts), _populations(parts), _missing(parts)]
    return [table for table in made if table.rows]


def _of_kind(parts: Parts, kind: str, holds: str) -> list[tuple[str, Mapping[str, Any]]]:
    """What follows the kind in the name of a part that was measured, and the part."""
    return [
        (name.removeprefix(f"{kind}/"), part)
        for name, part in parts.items()
        if name.startswith(f"{kind}/") and holds in part
    ]


def _peak(parts: Parts) -> Table:
    rows = []
    for dtype, part in _of_kind(parts, "product", "flops"):
        best, sheet = max(part["flops"].values()), part["data_sheet"]
        rates = [number(_tera(part["flops"].get(library))) for library in ("jax", "torch")]
        rows.append([dtype, str(part["size"]), *rates, number(_tera(sheet)), percent(best / sheet if sheet else None)])
    head = ("arithmetic", "rows of the matrices", "jax, TFLOP/s", "PyTorch, TFLOP/s", "data sheet", "of data sheet")
    return Table("Peak: a matrix product", head, rows, ["A dash: the data sheet of this device is not known here."])


def _train(parts: Parts) -> Table:
    rows, notes = [], []
    for name, part in _of_kind(parts, "train", "train_step"):
        step = part["train_step"]
        ours = step["ours_epoch"]
        times = [number(_median(step, other)) for other in ("ours_step", *THEIRS)]
        spread = f"{number(ours['q1_ms'])} to {number(ours['q3_ms'])}"
        ratio = _ratio(step["ratio_to_torch"])
        rows.append([*name.split("/"), str(part["batch"]["size"]), number(ours["median_ms"]), spread, *times, ratio])
        notes += _reasons(name, part["skipped"])
    head = ("model", "arithmetic", "clips", "ours, epoch, ms", "quartiles", "ours, step by step",
            *(NAMES[name] for name in THEIRS), "ratio to the best")  # fmt: skip
    return Table("Train step", head, rows, list(dict.fromkeys(notes)))


def _shares(parts: Parts) -> Table:
    rows = []
    for name, part in _of_kind(parts, "train", "train_step"):
        step, dtype = part["train_step"], name.split("/")[1]
        ours, sheet = step["ours_epoch"], parts[f"product/{dtype}"].get("data_sheet")
        of_sheet = ours["gflop_per_s"] * 1e9 / sheet if sheet else None
        theirs = [value for key, value in step["memory_mib"].items() if key in THEIRS and value is not None]
        rows.append([
            *name.split("/"), number(ours["clips_per_s"]), number(part["gflop_per_clip"]),
            number(ours["gflop_per_s"] / 1000), percent(ours["peak_share"]), percent(of_sheet),
            number(step["memory_mib"]["ours_step"]), number(min(theirs) if theirs else None),
            number(part["device_peak_memory_mib"]), number(step["compile_s"]["ours_epoch"]),
            number(step["compile_s"].get("torch_compile")),
        ])  # fmt: skip
    head = ("model", "arithmetic", "clips/s", "GFLOP a clip", "TFLOP/s", "of the product's", "of data sheet",
            "our step's memory, MiB", "PyTorch's least", "the process's, JAX, so far", "compile, s",
            "torch.compile, s")  # fmt: skip
    note = (
        "Memory of our step: arguments, results and temporary arrays, by XLA's own account. PyTorch's and the "
        "process's are counted on an accelerator alone; the process's is the most that JAX has held until then."
    )
    return Table("Share of the device, memory, compilation", head, rows, [note])


def _predictions(parts: Parts) -> Table:
    rows, notes = [], []
    for name, part in _of_kind(parts, "predict", "prediction"):
        for clips, times in part["prediction"].items():
            measured = [number(_median(times, who)) for who in ("ours", "ours_api", *THEIRS)]
            ratio, rate = _ratio(times["ratio_to_torch"]), number(times["ours"]["clips_per_s"])
            rows.append([*name.split("/"), clips, *measured, ratio, rate])
            notes += _reasons(name, times["skipped"])
    head = ("model", "arithmetic", "clips", *(f"{NAMES[who]}, ms" for who in ("ours", "ours_api")),
            *(NAMES[who] for who in THEIRS), "ratio to the best", "clips/s")  # fmt: skip
    return Table("Prediction, from arrays in the host's memory to probabilities there", head, rows,
                 list(dict.fromkeys(notes)))  # fmt: skip


def _populations(parts: Parts) -> Table:
    rows = []
    for model, part in _of_kind(parts, "population", "population"):
        alone, together = (part["population"][name]["median_ms"] for name in ("alone", "together"))
        rate = part["batch_size"] / together * 1000
        cells = [number(value) for value in (alone, together, alone / together, rate)]
        rows.append([model, str(part["members"]), *cells])
    head = ("model", "models", "one by one, ms", "together, ms", "times as fast", "clips/s together")
    notes = ["ms per model and step. Together they use every device that divides their number, one by one on an "
             "accelerator a single one."]  # fmt: skip
    return Table("A population in one program beside the same models one by one", head, rows, notes)


def _missing(parts: Parts) -> Table:
    rows = [[name, part["failed"].replace("|", "/")] for name, part in parts.items() if "failed" in part]
    return Table("Failed, and tried again by the next start", ("part", "reason"), rows)


def _median(times: Mapping[str, Any], who: str) -> float | None:
    return times[who]["median_ms"] if who in times else None


def _ratio(ratios: Mapping[str, float | None]) -> str:
    """Of the best mode that ran."""
    ran = [ratio for ratio in ratios.values() if ratio is not None]
    return number(min(ran) if ran else None)


def _tera(flops: float | None) -> float | None:
    return None if flops is None else flops / 1e12


def _reasons(name: str, skipped: Mapping[str, str]) -> Sequence[str]:
    model = name.split("/")[0]
    return [f"`{model}`: {NAMES[f'torch_{mode}']} is not measured: {reason}." for mode, reason in skipped.items()]
