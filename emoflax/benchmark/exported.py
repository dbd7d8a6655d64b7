"""An exported program beside its model on recordings of random length: the largest difference of their probabilities.

    python -m emoflax.benchmark.exported emotions emotions.stablehlo --clips=100

The program is one of waveforms (`--mode=export` without --export_input), StableHLO or ONNX by its suffix.
Prints a table and writes exported.json into --workdir.
"""

import argparse
import pathlib

import numpy as np

from emoflax.benchmark import script
from emoflax.errors import UserError
from emoflax.inference import export, export_check
from emoflax.inference.model import load


def main(options: argparse.Namespace) -> None:
    start = export.STARTS.get(options.program.suffix.removeprefix("."))
    if start is None or not options.program.is_file():
        raise UserError(f"{options.program} is no file that ends in .{' or .'.join(export.STARTS)}")
    model = load(options.model)
    opened = export_check.recordings_for(model, options.clips)
    probabilities = start(options.program.read_bytes())(export_check.waveforms(opened))
    apart = np.abs(probabilities - np.exp(model.log_probabilities(opened)[0])).max()
    seconds = [one.seconds for one in opened]
    found = {"program": options.program.name, "clips": options.clips, "shortest_s": min(seconds),
             "longest_s": max(seconds), "largest": float(apart)}  # fmt: skip
    table = "\n".join([
        "| program | clips | lengths, s | largest difference |",
        "|---|---|---|---|",
        f"| {options.program.name} | {options.clips} | {min(seconds):.1f} to {max(seconds):.1f} | {apart:.1e} |",
    ])  # fmt: skip
    script.write(options.workdir / "exported.json", found, table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="the bundle, checkpoint or run that was exported")
    parser.add_argument("program", type=pathlib.Path, help="the file that --mode=export wrote")
    parser.add_argument("--clips", type=int, default=100)
    script.run(main, parser)
