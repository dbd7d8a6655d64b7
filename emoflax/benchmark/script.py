"""What the benchmarks that are commands of their own share: options, errors, the JSON file."""

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Callable

from ml_collections import ConfigDict

from emoflax.benchmark import memory
from emoflax.errors import UserError
from emoflax.experiment import checks, config_files
from emoflax.files import expanded, make_folder, naming, write_whole
from emoflax.parallel import mesh
from emoflax.reporting import ledger


def run(main: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser) -> None:
    """Calls `main` with the command line's options; a UserError becomes one sentence and exit status 2, as in main.py.

    As there, a processor's cores are split into devices before JAX starts.
    """
    parser.add_argument("--workdir", type=pathlib.Path, default="runs", help="folder for the JSON file")
    options = parser.parse_args()
    mesh.split_processor()
    try:
        for name, value in vars(options).items():
            if str(value).startswith("~"):
                setattr(options, name, type(value)(expanded(value)))
        make_folder(options.workdir)
        main(options)
    except UserError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)


def load_config(name: str) -> ConfigDict:
    """A packaged config by its name, or that of a file, checked as main.py does."""
    config = config_files.load(name)
    checks.check(config)
    return config


def save(path: pathlib.Path, results: dict) -> dict:
    """Writes the results as JSON, whole or not at all, with the machine and the memory; returns what was written."""
    here = {
        "machine": ledger.machine(), "commit": ledger.commit(), "load_average": os.getloadavg()[0],
        "process_peak_mib": memory.peak_mib(), "largest_child_peak_mib": memory.peak_of_children_mib(),
    }  # fmt: skip
    whole = here | results
    with naming(path), write_whole(path) as file:
        file.write((json.dumps(whole, indent=2) + "\n").encode())
    return whole


def write(path: pathlib.Path, results: dict, table: str) -> None:
    """Saves the results, and prints the table."""
    whole = save(path, results)
    peak_mib = max(whole["process_peak_mib"], whole["largest_child_peak_mib"])
    print(f"{whole['machine']}, load {whole['load_average']:.1f}, peak memory {peak_mib:.0f} MiB; {path}\n\n{table}")
