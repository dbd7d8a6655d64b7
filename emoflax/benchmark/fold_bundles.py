"""Bundles of a cross-validation's folds beside its ensemble: the largest difference of their probabilities.

    python -m emoflax.benchmark.fold_bundles runs/best-ravdess-emobox6-nested --data_dir=data/ravdess

The final models of each fold become a bundle with the weights that the fold chose; it is loaded again and predicts the
fold's test recordings from their files. What it is compared with is the run's ensemble/predictions.csv, which has six
digits, so that half of 1e-6 of a difference may be rounding. The run's folder is only read.
Prints a table and writes fold_bundles.json into --workdir.
"""

import argparse
import csv
import pathlib
import tempfile
from collections.abc import Sequence

import numpy as np

from emoflax import __version__
from emoflax.benchmark import script
from emoflax.errors import UserError
from emoflax.experiment.corpus import corpus_of
from emoflax.inference import bundle, sources
from emoflax.inference.model import Model, check_signal, load


def ensemble_of(run: pathlib.Path) -> dict[int, list[dict[str, str]]]:
    """Fold -> rows of the ensemble's predictions.csv. Raises UserError where there is none."""
    path = run / "ensemble" / "predictions.csv"
    if not path.is_file():
        raise UserError(f"{path} is missing: name the folder of a finished --mode=crossval")
    rows: dict[int, list[dict[str, str]]] = {}
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows.setdefault(int(row["fold"]), []).append(row)
    return rows


def bundle_of(fold: pathlib.Path, place: pathlib.Path) -> Model:
    """The final models of a fold's folder as a bundle, read again."""
    members, _ = sources.members_of(fold)
    index = {"name": fold.name, "notice": "", "emoflax": __version__}
    index["corpus"] = members[0].trained.description["corpus"]
    bundle.write(place, members, index, "# A fold's final models\n", check_signal(Model(members, index, str(fold))))
    return load(place)


def differences(model: Model, rows: Sequence[dict[str, str]], path_of: dict[str, str]) -> np.ndarray:
    """Of each row's clip, the largest difference of a probability."""
    predicted = model.predict([path_of[row["clip"]] for row in rows])
    return np.array([
        max(abs(one.probabilities[label] - float(row[label])) for label in model.labels)
        for one, row in zip(predicted, rows, strict=True)
    ])  # fmt: skip


def main(options: argparse.Namespace) -> None:
    found, path_of = {}, {}
    for fold, rows in sorted(ensemble_of(options.run).items()):
        with tempfile.TemporaryDirectory(dir=options.workdir) as folder:
            model = bundle_of(options.run / f"fold{fold}", pathlib.Path(folder, "bundle"))
        if not path_of:
            config = model.members[0].config
            config.data.dir = options.data_dir
            path_of = {clip.id: clip.path for clip in corpus_of(config).clips}
        apart = differences(model, rows, path_of)
        found[fold] = {"models": len(model.members), "clips": len(rows), "largest": float(apart.max())}
    lines = [f"| {fold} | {one['models']} | {one['clips']} | {one['largest']:.1e} |" for fold, one in found.items()]
    table = "\n".join(["| fold | models | test clips | largest difference |", "|---|---|---|---|", *lines])
    script.write(options.workdir / "fold_bundles.json", {"run": options.run.name, "folds": found}, table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=pathlib.Path, help="the folder of a finished cross-validation")
    parser.add_argument("--data_dir", default="", help="its corpus, as --config.data.dir")
    script.run(main, parser)
