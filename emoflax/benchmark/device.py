"""The device that a benchmark runs on: its name, its software, and what its maker says that it can do."""

import importlib.metadata
import os
import shutil
import subprocess

import jax

from emoflax.errors import UserError
from emoflax.reporting import ledger

PLATFORMS = ("cpu", "gpu", "tpu")
# Dense products, TFLOP/s, by part of JAX's name of a device: of float32 inputs (on NVIDIA's in TF32; None: those pages
# give no figure) and of bfloat16. NVIDIA's data sheets (H200, H100, A100, L40S, L4, A10), where they show rates "with
# sparsity" halved; Google Cloud's pages of TPU v2 to v6e, per chip, halved for v2 and v3, whose devices are cores.
DATA_SHEETS: dict[str, dict[str, float | None]] = {
    "H200": {"float32": 494.7, "bfloat16": 989.4},
    "H100 PCIe": {"float32": 378.0, "bfloat16": 756.0},
    "H100 NVL": {"float32": 417.5, "bfloat16": 835.0},
    "H100": {"float32": 494.7, "bfloat16": 989.4},
    "A100": {"float32": 156.0, "bfloat16": 312.0},
    "L40S": {"float32": 183.0, "bfloat16": 362.05},
    "L4": {"float32": 60.0, "bfloat16": 121.0},
    "A10": {"float32": 62.5, "bfloat16": 125.0},
    "TPU v6": {"float32": None, "bfloat16": 918.0},
    "TPU v5p": {"float32": None, "bfloat16": 459.0},
    "TPU v5 lite": {"float32": None, "bfloat16": 197.0},
    "TPU v5e": {"float32": None, "bfloat16": 197.0},
    "TPU v5": {"float32": None, "bfloat16": 459.0},
    "TPU v4": {"float32": None, "bfloat16": 275.0},
    "TPU v3": {"float32": None, "bfloat16": 61.5},
    "TPU v2": {"float32": None, "bfloat16": 22.5},
}


def choose(platform: str | None) -> None:
    """Starts JAX on the platform, or on the accelerator that it finds; without taking all of its memory at once.

    Raises:
      UserError: there is no such device.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs some, too
    if platform:  # JAX takes 'gpu' for CUDA, ROCm and others at once, and fails where one of them is not installed
        jax.config.update("jax_platforms", "cpu" if platform == "cpu" else None)
    advice = "install JAX's build for the device, such as 'jax[cuda13]' or 'jax[tpu]', or choose --platform=cpu"
    try:
        found = jax.default_backend()
    except RuntimeError as error:
        raise UserError(f"JAX does not start ({str(error).strip().splitlines()[0]}); {advice}") from error
    if found == platform or (platform is None and found != "cpu"):
        return
    card = ", though nvidia-smi is there" if shutil.which("nvidia-smi") else ""
    wanted = f"--platform={platform}" if platform else "this measures a GPU or TPU"
    only = f"only a processor, {ledger.machine()}{card}" if found == "cpu" else ledger.machine()
    raise UserError(f"{wanted}, and JAX finds {only}; {advice}")


def facts() -> dict[str, str | int]:
    """What the numbers depend on: machine, device, its driver and the compiler's platform, versions."""
    device = jax.devices()[0]
    return {
        "machine": ledger.machine(),
        "platform": jax.default_backend(),
        "device": device.device_kind if jax.default_backend() != "cpu" else ledger.machine(),
        "devices": jax.device_count(),
        "driver": driver(),
        "compiler": " ".join(device.client.platform_version.split()),
        "jax": jax.__version__,
    }


def driver() -> str:
    """Of an NVIDIA card, its driver's version; of a TPU, that of libtpu; 'none' of a processor."""
    if jax.default_backend() == "tpu":
        try:
            return f"libtpu {importlib.metadata.version('libtpu')}"
        except importlib.metadata.PackageNotFoundError:
            return "libtpu, version unknown"
    if jax.default_backend() == "cpu":
        return "none"
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        printed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
        return f"NVIDIA {printed.split()[0]}"
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown: nvidia-smi does not answer"


def data_sheet_flops(name: str, dtype: str) -> float | None:
    """FLOP/s that the maker's data sheet promises a device of that name; None where it is not known here."""
    known = next((rates for part, rates in DATA_SHEETS.items() if _is_part(part, name)), {})
    rate = known.get(dtype)
    return None if rate is None else rate * 1e12


def _is_part(part: str, name: str) -> bool:
    """Whether the words of `part` stand in the name one after the other, the last one perhaps with a suffix."""
    words, wanted = name.lower().replace("-", " ").split(), part.lower().split()
    return any(words[at : at + len(wanted)] == wanted for at in range(len(words) - len(wanted) + 1))


def peak_memory_mib() -> float | None:
    """The most memory of the device that JAX has held since the process began; None where nobody counts it."""
    statistics = jax.devices()[0].memory_stats() or {}
    peak = statistics.get("peak_bytes_in_use")
    return None if peak is None else peak / 2**20


def torch_missing() -> str:
    """Why PyTorch's side cannot be measured on this device, in a sentence; '' where it can."""
    try:
        import torch
    except ImportError:
        return "PyTorch is not installed, so ours stand alone: pip install 'emoflax[benchmark]'"
    if jax.default_backend() == "cpu" or (jax.default_backend() == "gpu" and torch.cuda.is_available()):
        return ""
    if jax.default_backend() == "tpu":
        return "PyTorch is not measured on a TPU, so ours stand alone"
    return (
        f"this PyTorch ({torch.__version__}) does not use the GPU, so ours stand alone: install its build for the "
        "GPU's driver"
    )


def torch_version() -> str:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
