"""What the benchmarks that are commands of their own have in common."""

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Callable

from ml_collections import ConfigDict

from emoflax.errors import UserError
from emoflax.experiment import checks, config_files
from emoflax.parallel import mesh
from emoflax.reporting import ledger


def run(main: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser) -> None:
    """Calls with the command line's options; a user's mistake is a sentence and exit status 2, as main.py has it.

    As there, training has a processor's cores as devices.
    """
    parser.add_argument("--workdir", type=pathlib.Path, default="runs", help="folder for the JSON file")
    options = parser.parse_args()
    mesh.split_processor()
    try:
        make_folder(options.workdir)
        main(options)
    except UserError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        sys.exit(2)


def make_folder(folder: pathlib.Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}; choose another --workdir") from error


def load_config(name: str) -> ConfigDict:
    """A packaged config by its name, or that of a file, checked as main.py does."""
    config = config_files.load(name)
    checks.check(config)
    return config


def write(path: pathlib.Path, found: dict, table: str) -> None:
    """Writes what was found as JSON, with the machine, and prints the table."""
    here = {"machine": ledger.machine(), "commit": ledger.commit(), "load_average": os.getloadavg()[0]}
    path.write_text(json.dumps(here | found, indent=2) + "\n")
    print(f"{here['machine']}, load {here['load_average']:.1f}; {path}\n\n{table}")
