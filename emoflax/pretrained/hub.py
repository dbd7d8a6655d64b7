"""Weights by the name of a model on the Hugging Face hub: org/name, or org/name@revision to keep to one revision."""

import pathlib
import re

from emoflax.errors import WeightsUnavailable, optional

NAME = re.compile(r"(?P<repository>[\w-][\w.-]*/[\w.-]+?)(@(?P<revision>[\w./-]+))?")
# What is fetched: no pickle, and no other framework's weights. model.bin is CTranslate2's.
FILES = ("*.json", "model.safetensors", "model-*.safetensors", "model.bin", "vocab.txt", "merges.txt")


def located(path: str) -> pathlib.Path:
    """The path itself, or the folder that the hub's files of that name are kept in, fetched if they are not there yet.

    Whatever is there as a file or folder is that, and so is what cannot be a name on the hub.

    Raises:
      WeightsUnavailable: no such file or folder, and the hub does not give a model of that name.
      NotInstalled: no such file or folder, and huggingface_hub is not installed.
    """
    name = NAME.fullmatch(path)
    if pathlib.Path(path).exists() or not name or path.endswith((".pt", ".bin", ".safetensors")):
        return pathlib.Path(path)
    with optional(f"{path!r} is no file or folder here; a model of that name on the Hugging Face hub", "hub"):
        import huggingface_hub
    try:
        folder = huggingface_hub.snapshot_download(
            name["repository"], revision=name["revision"], allow_patterns=list(FILES)
        )
    except Exception as error:  # of the library, of its HTTP client, of the operating system: they share no class
        detail = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsUnavailable(
            f"{path!r} is no file or folder here, and the Hugging Face hub did not give a model of that name "
            f"({detail.rstrip('.')}); check the name (org/name@revision) and the network, or put its config.json, "
            "model.safetensors and preprocessor_config.json or tokenizer files into a folder and name that folder"
        ) from error
    return pathlib.Path(folder)


def pinned(path: str) -> str:
    """A name on the hub with the commit that it stands for; anything else as it is. Raises what `located` raises."""
    folder = located(path)
    return path if folder == pathlib.Path(path) else f"{NAME.fullmatch(path)['repository']}@{folder.name}"
