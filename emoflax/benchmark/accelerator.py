"""All tables of a GPU or TPU by one command: the first hour on a new device.

    python -m emoflax.benchmark.accelerator

Measures, for each model in float32 and bfloat16: the train step and predictions of 1, 16, 64 and 256 clips beside
PyTorch's on the same device, a population of 32 models beside 32 one by one, shares of the device's peak, and memory.
Writes accelerator.json, accelerator.md and accelerator.html into --workdir after every part; started again it goes on
with what is missing. Where PyTorch is missing or cannot use the device, ours stand alone and the tables say why.
"""

import argparse
import datetime
import os
import pathlib
import time
from typing import Any

import jax

from emoflax.benchmark import accelerator_parts, accelerator_tables, device, script, shapes, timing
from emoflax.benchmark.accelerator_parts import Effort, Job
from emoflax.errors import UserError
from emoflax.files import parse_json
from emoflax.reporting import ledger

MODELS = (*shapes.WITH_TWIN, "bert", "whisper_tiny")
SAME = ("device", "devices", "jax", "quick")  # facts in which a record's parts agree


class Record:
    """accelerator.json, and the report that is made of it."""

    def __init__(self, folder: pathlib.Path, facts: dict[str, Any], fresh: bool):
        """Raises UserError if there are measurements of another device, and `fresh` does not say to drop them."""
        self.path, self.facts = folder / "accelerator.json", facts
        self.parts: dict[str, dict[str, Any]] = {}
        if fresh or not self.path.exists():
            return
        try:
            found = parse_json(self.path.read_text())
            before, self.parts = found["facts"], found["parts"]
            other = [name for name in SAME if before[name] != facts[name]]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(f"{self.path} is damaged ({error}); --fresh measures all anew") from error
        if other:
            was = ", ".join(f"{name} {before[name]}" for name in other)
            raise UserError(f"{self.path} was measured elsewhere ({was}); choose another --workdir, or --fresh")

    def has(self, name: str) -> bool:
        """Whether the part is measured; what failed, and what stood alone while PyTorch was missing, is not."""
        part = self.parts.get(name)
        alone = part is not None and part["without_torch"] and not self.facts["without_torch"]
        return part is not None and "failed" not in part and not alone

    def keep(self, name: str, part: dict[str, Any]) -> None:
        self.parts[name] = part
        script.save(self.path, {"facts": self.facts, "parts": self.parts})
        accelerator_tables.write(self.path.parent, self.facts, self.parts)


def measure(record: Record, models: tuple[str, ...], effort: Effort) -> None:
    """Measures what the record lacks, and keeps every part at once. A part that fails leaves its reason."""
    wanted = accelerator_parts.parts(models)
    for number, (name, part) in enumerate(wanted.items(), start=1):
        if record.has(name):
            continue
        begin = time.perf_counter()
        job = Job(effort, record.parts, record.facts["without_torch"])
        try:
            found = part(job)
        except (RuntimeError, ArithmeticError, MemoryError, UserError) as error:  # RuntimeError: of either library
            found = {"failed": f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"}
        if not record.facts["without_torch"]:
            from emoflax.benchmark import torch_runs

            torch_runs.free_memory()
        seconds = time.perf_counter() - begin
        about = {
            "date": datetime.datetime.now().isoformat(timespec="seconds"), "commit": ledger.commit(),
            "seconds": seconds, "load_average": os.getloadavg()[0], "without_torch": record.facts["without_torch"],
        }  # fmt: skip
        record.keep(name, found | about)
        print(f"{number}/{len(wanted)} {name}: {found.get('failed', 'measured')}, {seconds:.1f} s", flush=True)


def main(options: argparse.Namespace) -> None:
    models = tuple(options.models.split(","))
    for model in models:
        shapes.config_of(model)  # a wrong name ends here, and not after half an hour
    device.choose(options.platform)
    facts = device.facts() | {"torch": device.torch_version(), "without_torch": device.torch_missing(),
                              "quick": options.quick}  # fmt: skip
    effort = accelerator_parts.PROCESSOR if facts["platform"] == "cpu" else accelerator_parts.ACCELERATOR
    if options.quick:
        effort = accelerator_parts.QUICK
        jax.config.update("jax_disable_most_optimizations", True)  # compilation would be most of the time
    else:
        timing.no_compilation_caches()  # compile times are to be true
    if not facts["without_torch"]:
        from emoflax.benchmark import torch_runs

        torch_runs.as_our_products()
    record = Record(options.workdir, facts, options.fresh)
    measure(record, models, effort)
    accelerator_tables.write(options.workdir, facts, record.parts)
    print(f"\n{(options.workdir / accelerator_tables.MARKDOWN).read_text()}\n{record.path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--platform", choices=device.PLATFORMS, help="where to run; without it the accelerator")
    parser.add_argument("--models", default=",".join(MODELS), help=f"with commas between them, of {shapes.NAMES}")
    parser.add_argument("--fresh", action="store_true", help="measure all anew, in the place of what is there")
    parser.add_argument("--quick", action="store_true", help="tiny models and few repetitions: whether it runs at all")
    script.run(main, parser)
