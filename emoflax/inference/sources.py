"""What a path names: a bundle, a checkpoint, or a run, whose models become one ensemble."""

import pathlib
import re

from absl import logging

from emoflax.errors import UserError
from emoflax.experiment import evaluate
from emoflax.files import read_json
from emoflax.inference import bundle
from emoflax.inference.member import Member

_CHOICES = "choices.json"
_FINAL = re.compile(r"(?P<candidate>(?!inner-).+)-seed(?P<seed>\d+)")  # of a cross-validation's fold
_OF_RUN = re.compile(r"seed(?P<seed>\d+)-fold(?P<fold>\d+)")


def members_of(path: pathlib.Path) -> tuple[list[Member], dict]:
    """The models that `path` names, with their weights, and a bundle's index ({} for others).

    Of a run, all seeds and folds with equal weights; of a cross-validation's run, or of one of its folds, the final
    models with the weights that each fold chose, every fold alike.

    Raises:
      UserError: there is no model.
    """
    if bundle.is_bundle(path):
        return bundle.read(path)
    if is_checkpoint(path):
        return [_restored(path.name if path.name != "checkpoints" else path.parent.name, 1.0, path)], {}
    weighted = _of_folds(path) or _of_run(path)
    if not weighted:
        raise UserError(
            f"there is no trained model in {path}: name a bundle, a checkpoint such as RUN/seed0-fold1, or a run"
        )
    if len({folder.name.rpartition("-fold")[2] if _OF_RUN.fullmatch(folder.name) else folder.parent.name
            for folder in weighted}) > 1:  # fmt: skip
        logging.warning(
            "%s: the models of all folds are pooled, of which every speaker of the corpus trained some: no score was "
            "measured for this ensemble; --mode=fit trains one on all speakers", path,
        )  # fmt: skip
    members = [
        _restored(folder.relative_to(path).as_posix().replace("/", "-"), weight, folder)
        for folder, weight in weighted.items()
    ]
    return members, {}


def listing(path: pathlib.Path) -> str:
    """The models that `path` names, a line each with its weight in the pool, and what to do with them.

    Raises:
      UserError: there is no model.
    """
    members, index = members_of(path)
    lines = [f"{'model':40}{'weight':>7}  {'parameters':>10}  {'trained for':28}  emotions"]
    for member in members:
        seen = member.trained.description
        what = f"{seen['corpus']}, {seen['protocol']}, fold {seen['fold']}" if not index else seen["corpus"]
        lines.append(f"{member.name:40}{member.weight:7.3f}  {member.trained.parameters:10,}  {what:28}  "
                     + ", ".join(seen["labels"]))  # fmt: skip
    return "\n".join([*lines, "", f"--checkpoint={path} --inputs=a.wav predicts with all of them as one ensemble"])


def _of_run(path: pathlib.Path) -> dict[pathlib.Path, float]:
    folders = [folder for folder in sorted(path.glob("seed*-fold*")) if _OF_RUN.fullmatch(folder.name)]
    return {folder: 1 / len(folders) for folder in folders}


def _of_folds(path: pathlib.Path) -> dict[pathlib.Path, float]:
    """The models of a cross-validation's run, or of its folder of one fold."""
    if (path / _CHOICES).is_file():
        choices, run = _weights_of_folds(path / _CHOICES), path
    elif (path.parent / _CHOICES).is_file():
        choices, run = _weights_of_folds(path.parent / _CHOICES), path.parent
        choices = {fold: weights for fold, weights in choices.items() if fold == path.name}
    else:
        return {}
    weighted: dict[pathlib.Path, float] = {}
    for fold, weights in choices.items():
        folders = [folder for folder in sorted((run / fold).glob("*-seed*")) if folder.is_dir()]
        for name, weight in weights.items():
            own = [f for f in folders if (match := _FINAL.fullmatch(f.name)) and match["candidate"] == name]
            if not own:
                raise UserError(f"{run}/{fold} has no final model of {name}; run --mode=crossval to its end")
            weighted |= {folder: weight / len(own) / len(choices) for folder in own}
    return weighted


def _weights_of_folds(path: pathlib.Path) -> dict[str, dict[str, float]]:
    """'fold1' -> candidate -> weight, as --mode=crossval has chosen them."""
    mend = "the same --mode=crossval command writes it anew"
    choices = read_json(path, list, mend=mend)
    try:
        return {
            f"fold{choice['fold']}": {name: float(weight) for name, weight in choice["weights"].items()}
            for choice in choices
        }
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error!r}); {mend}") from error


def is_checkpoint(path: pathlib.Path) -> bool:
    """Whether a folder is that of one model, RUN/seed0-fold1, or its folder of checkpoints."""
    folder = checkpoints_in(path)
    return folder != path or (path.is_dir() and any(child.name.isdigit() for child in path.iterdir()))


def checkpoints_in(path: pathlib.Path) -> pathlib.Path:
    """The folder of checkpoints of a model's folder, or `path` itself."""
    inner = path / "checkpoints"
    return inner if inner.is_dir() else path


def _restored(name: str, weight: float, folder: pathlib.Path) -> Member:
    return Member(name, weight, evaluate.restore(checkpoints_in(folder)))
