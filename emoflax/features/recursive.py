"""Recursive filters without scipy.signal, whose import takes 0.6 s: a quarter of what predicting one recording takes.

A filter is a sum of modes r z^n, by its poles z. Within a block of samples it is one matrix product; from block to
block each mode is one number that decays.
"""

import dataclasses
import functools

import numpy as np

from emoflax.features.spectrum import padded_to

_BLOCK = 64
_LEAST = 1e-16  # of a mode, after which it is forgotten


@dataclasses.dataclass(frozen=True)
class Filter:
    """The impulse response direct * [n == 0] + Re(sum of residue * pole ** n); of a conjugate pair one is listed."""

    direct: float
    poles: tuple[complex, ...]
    residues: tuple[complex, ...]


@functools.lru_cache(maxsize=8)
def high_pass(order: int, edge_hz: float, sample_rate_hz: int) -> Filter:
    """Butterworth's high-pass of an even order, as scipy.signal.butter makes it: by the bilinear transform."""
    twice_hz, k = 2 * sample_rate_hz, np.arange(order)
    edge = twice_hz * np.tan(np.pi * edge_hz / sample_rate_hz)
    analog = edge / np.exp(1j * np.pi * (2 * k + order + 1) / (2 * order))
    poles = (twice_hz + analog) / (twice_hz - analog)
    gain = np.prod((1 + poles) / 2).real  # all zeros are at 1, and half the sample rate passes as it is
    others = np.array([np.prod(1 - np.delete(poles, i) / pole) for i, pole in enumerate(poles)])
    residues = gain * (1 - 1 / poles) ** order / others
    upper = poles.imag > 0
    return Filter((gain / np.prod(poles)).real, tuple(poles[upper]), tuple(2 * residues[upper]))


def smoothing(keep: float) -> Filter:
    """y[n] = keep * y[n - 1] + (1 - keep) * x[n]."""
    return Filter(0.0, (keep,), (1 - keep,))


def response(given: Filter, length: int) -> np.ndarray:
    """To one sample of 1, float64 [length]."""
    poles, residues = np.array(given.poles), np.array(given.residues)
    made = (residues[:, None] * poles[:, None] ** np.arange(length)).sum(0).real
    made[0] += given.direct
    return made


def run(given: Filter, wave: np.ndarray) -> np.ndarray:
    """float32 [samples] -> the same, filtered from rest; to about the last digit what scipy.signal.sosfilt gives."""
    within, into, out, decays = _matrices(given)
    blocks = padded_to(wave, len(wave) + -len(wave) % _BLOCK).reshape(-1, _BLOCK)
    made, modes = blocks @ within, blocks @ into
    for i, decay in enumerate(decays):
        own = (modes[:, 2 * i] + 1j * modes[:, 2 * i + 1]).astype(np.complex128)
        carried = np.convolve(own, decay)[: len(blocks) - 1]
        made[1:] += np.stack([carried.real, carried.imag], 1).astype(np.float32) @ out[2 * i : 2 * i + 2]
    return made.reshape(-1)[: len(wave)]


@functools.lru_cache(maxsize=8)
def _matrices(given: Filter) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]:
    """(Block -> its own output, block -> its modes at its end, modes -> the next block's output, decay by blocks)."""
    n, poles, residues = np.arange(_BLOCK), np.array(given.poles), np.array(given.residues)
    within = np.tril(response(given, _BLOCK)[np.abs(n[:, None] - n)]).T
    into = poles[None] ** n[::-1, None]
    out = residues[:, None] * poles[:, None] ** (n + 1)
    lengths = [int(np.ceil(np.log(_LEAST) / np.log(abs(pole)) / _BLOCK)) + 1 for pole in poles]
    decays = [(pole**_BLOCK) ** np.arange(length) for pole, length in zip(poles, lengths, strict=True)]
    into = np.stack([into.real, into.imag], 2).reshape(_BLOCK, -1)
    out = np.stack([out.real, -out.imag], 1).reshape(-1, _BLOCK)
    return within.astype(np.float32), into.astype(np.float32), out.astype(np.float32), decays
