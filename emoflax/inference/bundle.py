"""A model to keep: one folder with everything that predictions need, and nothing that they do not.

    bundle.json                   names, labels, weights in the ensemble, scores, licences
    members/<name>.json           of each member: config (architecture, features), labels, vocabulary, code
    members/<name>.safetensors    its weights and statistics, float32
    encoders/<id>/                a pretrained encoder whose states members take (pretrained/own_folder.py)
    check.safetensors             a signal and the probabilities of the ensemble for it: other code is tried on it
    README.md                     the model card
    SHA256SUMS                    checksums of all these files, in the format of `sha256sum`

Nothing in it is executed when it is read, but an encoder that is named 'module:Class' is imported, from the current
folder or an installed package, never from the bundle. No path and no name of the machine that trained is in it.
"""

import hashlib
import json
import pathlib
import re
import shutil
import uuid
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from emoflax import models, pretrained
from emoflax.errors import UserError
from emoflax.experiment import evaluate
from emoflax.files import make_folder
from emoflax.inference.member import Member
from emoflax.training import checksums
from emoflax.training.step import Weights

INDEX, CHECK, CARD = "bundle.json", "check.safetensors", "README.md"
FORMAT = 1  # raised when an older program could not read a newer bundle
_ENCODERS = "encoders"
_ENCODER = re.compile(rf"{_ENCODERS}/[0-9a-f]{{16}}")
_NAME = re.compile(r"(?!\.)[\w.+=-]{1,120}")
# Fields of a member's config that say where things were on the machine that trained.
_PLACES = {"data.dir": "", "data.root": "", "data.cache_dir": "cache", "text.file": "", "model.pretrained.audio": "",
           "model.pretrained.text": ""}  # fmt: skip


def is_bundle(folder: pathlib.Path) -> bool:
    return (folder / INDEX).is_file()


def check_place(folder: pathlib.Path) -> None:
    """Raises UserError if something that is no bundle is where one is to be written."""
    if folder.exists() and not is_bundle(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is no bundle; choose another --output, or remove it")


def write(
    folder: pathlib.Path, members: Sequence[Member], index: dict, card: str, check: dict[str, np.ndarray]
) -> None:
    """Writes a bundle whole or not at all; a bundle that is there already is replaced, anything else is not.

    Args:
      index: what bundle.json says beside the members.
      card: the model card, Markdown.
      check: arrays of check.safetensors.

    Raises:
      UserError: something else is in the folder's place, or it cannot be written.
    """
    check_place(folder)
    make_folder(folder.parent, "--output")
    new = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.tmp")
    try:
        (new / "members").mkdir(parents=True)
        for member in members:
            _write_member(new / "members", member)
        listed = [{"name": m.name, "weight": m.weight, "parameters": m.trained.parameters} for m in members]
        text = json.dumps({"format": FORMAT, **index, "members": listed}, indent=2, ensure_ascii=False)
        (new / INDEX).write_text(text + "\n", encoding="utf-8")
        (new / CARD).write_text(card, encoding="utf-8")
        (new / CHECK).write_bytes(packed(check))
        checksums.write(new)
        _put_in_place(new, folder)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}; choose another --output") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def read(folder: pathlib.Path) -> tuple[list[Member], dict]:
    """The members of a bundle, and its index; every byte is checked before any is used.

    Raises:
      UserError: a file is damaged or missing, or the bundle is of a later version.
    """
    try:
        checksums.verify(folder)
    except checksums.Damaged as damage:
        raise UserError(f"{damage}; copy the bundle {folder} again, or fit it again") from damage
    index = _json(folder / INDEX)
    if index["format"] != FORMAT:
        raise UserError(
            f"{folder} is a bundle of format {index['format']}, this program reads {FORMAT}; update emoflax"
        )
    return [_read_member(folder, entry) for entry in index["members"]], index


def check_of(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of check.safetensors."""
    return safetensors.numpy.load_file(folder / CHECK)


def packed(arrays: dict[str, np.ndarray]) -> bytes:
    """Arrays as a safetensors file."""
    return safetensors.numpy.save({name: np.array(array, order="C") for name, array in arrays.items()})


def _put_in_place(new: pathlib.Path, folder: pathlib.Path) -> None:
    """A rename; an older bundle is moved aside first: a kill in between leaves both under other names."""
    old = new.with_suffix(".old")
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _write_member(folder: pathlib.Path, member: Member) -> None:
    description = without_places(member.trained.description, _write_encoder(folder.parent, member))
    (folder / f"{member.name}.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    (folder / f"{member.name}.safetensors").write_bytes(packed(arrays_of(member.trained)))


def _write_encoder(folder: pathlib.Path, member: Member) -> str:
    """Writes the encoder whose states a member takes, once for all that share it; where it is in the bundle, or ''."""
    states = member.config.states
    if member.config.model.functionals not in models.STATES_MODELS:
        return ""
    of_weights = f"{states.encoder} {pretrained.fingerprint(states.weights)}"
    place = f"{_ENCODERS}/{hashlib.sha256(of_weights.encode()).hexdigest()[:16]}"
    if not (folder / place).exists():
        pretrained.keep(folder / place, states.encoder, states.weights)
    return place


def _read_member(folder: pathlib.Path, entry: dict) -> Member:
    name = entry["name"]
    if not _NAME.fullmatch(name):
        raise UserError(f"{folder / INDEX}: {name!r} cannot be the name of a member")
    path = folder / "members" / f"{name}.safetensors"
    description = _json(path.with_suffix(".json"))
    graph, shapes, config = evaluate.described(description, str(folder), same_code=False)
    if config.model.functionals in models.STATES_MODELS:
        if not _ENCODER.fullmatch(config.states.weights):
            raise UserError(f"{folder}: {name} has no encoder at {config.states.weights!r}; fit the bundle again")
        config.states.weights = str(folder / config.states.weights)
    arrays, wanted = safetensors.numpy.load_file(path), _named(shapes)
    for key in sorted(arrays.keys() | wanted.keys()):
        there, here = (getattr(one.get(key), "shape", None) for one in (arrays, wanted))
        if there != here:
            raise UserError(
                f"{path} does not fit this version of the model: {key} is {there}, not {here}; fit it again"
            )
        if not np.isfinite(arrays[key]).all():
            raise UserError(f"{path}: {key} holds numbers that are not finite; fit the bundle again")
    leaves = [arrays[key] for key in wanted]
    state = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
    return Member(name, float(entry["weight"]), evaluate.Trained(config, description, graph, state))


def without_places(description: dict, encoder: str = "") -> dict:
    """A copy without paths of the machine that trained, and without who trained it.

    Args:
      encoder: where that of config.states is now.
    """
    description = json.loads(json.dumps({name: part for name, part in description.items() if name != "trained_on"}))
    for field, value in (_PLACES | {"states.weights": encoder}).items():
        group, name = description["config"], field
        while "." in name:
            first, _, name = name.partition(".")
            group = group[first]
        group[name] = value
    return description


def arrays_of(trained: evaluate.Trained) -> dict[str, np.ndarray]:
    """Name -> weights or statistics that predictions need, in the order of the tree's leaves."""
    return {name: np.asarray(leaf) for name, leaf in _named(weights_of(trained)).items()}


def weights_of(trained: evaluate.Trained) -> Weights:
    """Those that predictions need."""
    return Weights(trained.state.evaluated, trained.state.statistics)


def _named(tree: Any) -> dict[str, Any]:
    """Name -> leaf, in the order of the leaves."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _json(path: pathlib.Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))
