"""A folder that any server of files can show: the service's page, with the model's ONNX program run by the browser.

onnxruntime-web (MIT licence, 14 MB) is copied from its npm package, so that nothing comes from a foreign host.
"""

import importlib.resources
import pathlib
import shutil

from emoflax.errors import UserError
from emoflax.files import make_folder, naming, write_whole

MODEL = "model.onnx"  # its description stands beside it
_PACKAGE = "onnxruntime-web@1.30.0"  # that was tried
_RUNTIME = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_SERVER = '<script src="server.js" defer></script>'
_LOCAL = '<script src="ort.wasm.min.js" defer></script>\n  <script src="local.js" defer></script>'


def check(folder: pathlib.Path, runtime: str | None, taken: str) -> None:
    """Raises UserError where the page cannot be written: before anything is computed."""
    if taken != "waveform":
        raise UserError(f"--format=page exports the waveform's program alone: leave out --export_input={taken}")
    place = pathlib.Path(runtime or "") / "dist"
    if not runtime or not all((place / name).is_file() for name in _RUNTIME):
        raise UserError(
            f"--onnxruntime_web={runtime or ''} must name the unpacked npm package, with {', '.join(_RUNTIME)} in its "
            f"dist folder: npm pack {_PACKAGE} && tar xzf onnxruntime-web-*.tgz makes a folder named package"
        )
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MODEL).is_file():
        raise UserError(f"--output={folder} holds other files; name a new folder")
    make_folder(folder, "--output")


def write(folder: pathlib.Path, runtime: str | None) -> None:
    """The page beside the model. Raises UserError where a file cannot be written."""
    own = importlib.resources.files("emoflax.inference.serve") / "page"
    index = (own / "index.html").read_text(encoding="utf-8")
    assert _SERVER in index
    pages = {"index.html": index.replace(_SERVER, _LOCAL).encode()}
    names = ("page.js", "pictures.js", "microphone.js", "page.css", "local.js")
    pages |= {name: (own / name).read_bytes() for name in names}
    for name, content in pages.items():
        with naming(folder / name, "--output"), write_whole(folder / name) as file:
            file.write(content)
    for name in _RUNTIME:
        with naming(folder / name, "--output"):
            shutil.copyfile(pathlib.Path(runtime or "") / "dist" / name, folder / name)
