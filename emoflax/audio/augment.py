"""Augmentation of log-mels on the device, inside the compiled train step: pure functions of (draws, batch).

Everything acts before the model normalises, so that gain, tilt and noise are those of the sound. `u_BxK` are draws
between 0 and 1, K for each clip; nearly all come from one call, because XLA takes 0.1 s to compile each one. Frames
beyond a clip's end stay zero.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emoflax.audio.absent_bands import AbsentBands
from emoflax.batch import Batch
from emoflax.errors import UserError
from emoflax.masks import valid

_KNEE = 0.6  # of the highest frequency: above it, vocal-tract warping bends back, so that both ends stay in place
_CELL_DB = 2.5  # standard deviation of a cell of noise, a mean over the few Fourier bins of a mel band
_QUANTILES = 1024
_RANGE_DB = 80.0  # from a clip's loudest cell down to its floor, as in `frontend`
_MOST = {
    "crop": 0.9, "stretch": 4, "vtlp": 1, "shift_bands": 1000, "gain_db": 100, "tilt_db": 100, "noise": 1, "mixup": 100,
    "band_limit": 1,
    "contour_shift": 10, "contour_drop": 1,
    "time_masks": 100, "time_mask_share": 1, "band_masks": 100, "band_mask_share": 1,
}  # fmt: skip
# Fields that a compiled program can take as arguments; the others shape it.
STRENGTHS = (
    "crop", "stretch", "vtlp", "shift_bands", "gain_db", "tilt_db", "noise", "noise_snr_db", "mixup", "band_limit",
    "time_mask_share", "band_mask_share", "contour_shift", "contour_drop",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Which augmentations act, and how strongly: the fields of config.augment, and what log-mels they act on.

    Attributes:
      bands: mel bands at the front of each frame, before the contours. None: every channel is a mel band.
      band_hz: centre of each mel band, rising; only vtlp and band_limit need it.
      unit_db: how many dB one unit of the log-mels is.
      absent: fills bands that a clip does not have, as the model does; None: they stay at their floor.
    """

    crop: float = 0.0
    stretch: float = 0.0
    vtlp: float = 0.0
    shift_bands: float = 0.0
    gain_db: float = 0.0
    tilt_db: float = 0.0
    noise: float = 0.0
    noise_snr_db: tuple[float, float] = (5.0, 40.0)
    band_limit: float = 0.0
    band_limit_hz: tuple[float, float] = (3_400.0, 8_000.0)
    mixup: float = 0.0
    time_masks: int = 0
    time_mask_share: float = 0.15
    band_masks: int = 0
    band_mask_share: float = 0.15
    contour_shift: float = 0.0
    contour_drop: float = 0.0
    bands: int | None = None
    band_hz: tuple[float, ...] = ()
    unit_db: float = 1.0
    absent: AbsentBands | None = None

    def __post_init__(self):
        check_strengths(self, "config.augment", _MOST)

    def __call__(self, key: jax.Array, batch: Batch, mean_F: jax.Array | None, std_F: jax.Array | None = None) -> Batch:
        """A batch with targets -> the same, augmented.

        Switching one augmentation on leaves the draws of the others as they were.

        Args:
          mean_F: training mean of each channel, which fills masked and missing frames and bands.
          std_F: training deviation of each channel; only contour_shift needs it.
        """
        if batch.logmel is None:
            return batch
        x, frames, tempo = batch.logmel, batch.frames, batch.tempo
        u_key, cell_key, time_key, band_key = jax.random.split(key, 4)
        time, bands, level, noise, mix = jnp.split(
            jax.random.uniform(u_key, (len(frames), 11)), np.cumsum([3, 2, 2, 2]), axis=1
        )
        if on(self.crop) or on(self.stretch) or tempo is not None:
            x, frames = warp_time(time, x, frames, crop=self.crop, stretch=self.stretch, tempo_B=tempo)
        x, contours = x[..., : self.bands], x[..., self.bands :] if self.bands else x[..., :0]
        if on(self.vtlp):
            x = move_bands(x, vtlp_places(bands[:, :1], self.band_hz, self.vtlp))
        if on(self.shift_bands):
            x = move_bands(x, shifted_places(bands[:, 1:], x.shape[-1], self.shift_bands))
        if on(self.gain_db) or on(self.tilt_db):
            x = x + level_db(level, x.shape[-1], self.gain_db, self.tilt_db) / self.unit_db
        if on(self.noise):
            cells_db = _CELL_DB * jax.random.normal(cell_key, x.shape)
            x = add_noise(noise, cells_db, x * self.unit_db, frames, self.noise, self.noise_snr_db) / self.unit_db
        if on(self.band_limit):
            draws = jax.random.uniform(jax.random.fold_in(key, 0xBA4D), (len(frames), 2))
            x = limit_bands(
                draws, x, frames, self.band_hz, self.band_limit, self.band_limit_hz, _RANGE_DB / self.unit_db
            )
            if self.absent:  # before masks come, under which absent bands could not be told
                x = self.absent(x, frames, mean_F[: x.shape[-1]])
        if contours.shape[-1] and (on(self.contour_shift) or on(self.contour_drop)):
            contours = self._disturb(jax.random.fold_in(key, 0xC0), contours, mean_F, std_F)
        logmel = inside(jnp.concatenate([x, contours], axis=-1), frames)
        batch = batch.replace(logmel=logmel, frames=frames, tempo=None)
        if on(self.mixup):
            batch = mixup(mix, batch, mean_F, self.mixup)
        if self.time_masks:
            u = jax.random.uniform(time_key, (2, len(frames), self.time_masks))
            masked = stretches(u, batch.frames, x.shape[1], self.time_mask_share)
            batch = batch.replace(logmel=jnp.where(masked[:, :, None], mean_F[None, None], batch.logmel))
        if self.band_masks:
            u = jax.random.uniform(band_key, (2, len(frames), self.band_masks))
            masked = stretches(u, jnp.full(len(frames), x.shape[2]), x.shape[2], self.band_mask_share)
            masked = jnp.pad(masked, ((0, 0), (0, contours.shape[2])))
            filled = jnp.where(masked[:, None], mean_F[None, None], batch.logmel)
            batch = batch.replace(logmel=inside(filled, batch.frames))
        return batch

    def _disturb(self, key: jax.Array, contours_BxTxC: jax.Array, mean_F: jax.Array, std_F: jax.Array) -> jax.Array:
        """Shifts each contour of a clip by normal draws of `contour_shift` deviations; sets a share to the mean."""
        clips, _, count = contours_BxTxC.shape
        shift_key, drop_key = jax.random.split(key)
        shift_BxC = self.contour_shift * jax.random.normal(shift_key, (clips, count)) * std_F[None, -count:]
        dropped_BxC = jax.random.uniform(drop_key, (clips, count)) < self.contour_drop
        shifted_BxTxC = contours_BxTxC + shift_BxC[:, None]
        return jnp.where(dropped_BxC[:, None], mean_F[None, None, -count:], shifted_BxTxC)


def on(strength: Any) -> bool:
    """Whether an augmentation acts; a strength that is an array [], an argument of a compiled program, always does."""
    return not isinstance(strength, (int, float)) or strength != 0


def program_and_strengths(augmentation: Any, names: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """What of an augmentation shapes a compiled program, and what the program can take as arguments.

    Augmentations with the same parts switched on share a program, however strong those are:
    `dataclasses.replace(program, **strengths)` is the augmentation again, whose strengths may then be arrays.

    Args:
      names: fields that may be arguments.
    """
    strengths = {name: value for name in names if (value := getattr(augmentation, name))}
    usual = {name: (0.0, 1.0) if isinstance(value, tuple) else 0.5 for name, value in strengths.items()}
    program = dataclasses.replace(augmentation, **usual)
    if "mixup" in strengths:
        strengths["mixup"] = _larger_share(strengths["mixup"])
    return program, strengths


def check_strengths(augmentation: Any, where: str, most: Mapping[str, float]) -> None:
    """Raises UserError for a strength below 0 or above its limit in `most`, and for a range that is not (low, high)."""
    given = {name: value for name, value in vars(augmentation).items() if isinstance(value, (int, float, tuple))}
    for name, value in given.items():
        if name in most and not 0 <= value <= most[name]:
            raise UserError(f"{where}.{name}={value} must be from 0 (off) to {most[name]}")
        if not isinstance(value, tuple) or not all(isinstance(number, (int, float)) for number in value):
            continue
        if name.endswith(("_db", "_s", "limit_hz", "top_hz")) and not (len(value) == 2 and value[0] <= value[1]):
            raise UserError(f"{where}.{name}={value} must be two numbers, the lower one first")


def warp_time(
    u_Bx3: jax.Array,
    x_BxTxF: jax.Array,
    frames_B: jax.Array,
    *,
    crop: float,
    stretch: float,
    tempo_B: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Cuts up to the share `crop` off a clip, split at random between its ends, and plays the rest at another rate.

    The rate is drawn from 1 / (1 + stretch) to 1 + stretch, evenly on a logarithmic scale. Frames that no longer fit
    into the padded width are cut.

    Args:
      tempo_B: how many times too fast the clip is; the rate is divided by it.
    """
    width = x_BxTxF.shape[1]
    cut_B = crop * frames_B * u_Bx3[:, 0]
    start_B = cut_B * u_Bx3[:, 1]
    rate_B = _factor(u_Bx3[:, 2], stretch)
    if tempo_B is not None:
        rate_B = rate_B / tempo_B
    return resample_time(x_BxTxF, frames_B, start_B, frames_B - cut_B, rate_B, width)


def resample_time(
    x_BxTxF: jax.Array, frames_B: jax.Array, start_B: jax.Array, kept_B: jax.Array, rate_B: jax.Array, width: int
) -> tuple[jax.Array, jax.Array]:
    """Reads `kept` frames from `start` on, `rate` times as fast: [batch, width, mels], and each clip's frames."""
    place_BxT = start_B[:, None] + jnp.arange(width)[None] * rate_B[:, None]
    place_BxT = jnp.clip(place_BxT, 0, jnp.maximum(frames_B - 1, 0)[:, None])
    resampled_B = jnp.clip(jnp.round(kept_B / rate_B), 1, width).astype(frames_B.dtype)
    resampled_B = jnp.where(frames_B > 0, resampled_B, 0)  # a clip of 0 frames keeps 0
    return inside(_read_frames(x_BxTxF, place_BxT), resampled_B), resampled_B


def _read_frames(x_BxTxF: jax.Array, place_BxN: jax.Array) -> jax.Array:
    """Linear interpolation [batch, N, mels] at places from 0 to T - 1.

    Two frames are gathered for each place. A product with `interpolation` takes memory quadratic in the length,
    549 MiB for 16 clips of 3,000 frames, and three times as long at 100 frames.
    """
    before_BxN = jnp.floor(place_BxN)

    def weighted(at_BxN: jax.Array) -> jax.Array:
        weight_BxN = jnp.maximum(1 - jnp.abs(place_BxN - at_BxN), 0)
        index_BxN = jnp.minimum(at_BxN.astype(int), x_BxTxF.shape[1] - 1)
        return weight_BxN[..., None] * jnp.take_along_axis(x_BxTxF, index_BxN[..., None], axis=1)

    return weighted(before_BxN) + weighted(before_BxN + 1)


def vtlp_places(u_Bx1: jax.Array, band_hz: tuple[float, ...], vtlp: float) -> jax.Array:
    """Vocal-tract-length perturbation (Jaitly & Hinton 2013): the place that each band is read at, [batch, bands].

    Each frequency is read at alpha times it, alpha from 1 / (1 + vtlp) to 1 + vtlp, as if another speaker's vocal
    tract had moved the formants; towards the highest band alpha tends to 1.
    """
    hz_1xF, top, alpha_Bx1 = jnp.asarray([band_hz], jnp.float32), band_hz[-1], _factor(u_Bx1, vtlp)
    knee_Bx1 = _KNEE * top * jnp.minimum(alpha_Bx1, 1)
    bent_BxF = top - (top - knee_Bx1) / (top - knee_Bx1 / alpha_Bx1) * (top - hz_1xF)
    read_BxF = jnp.where(hz_1xF * alpha_Bx1 <= knee_Bx1, hz_1xF * alpha_Bx1, bent_BxF)
    # jnp.interp gives the same numbers and takes XLA three times as long to compile.
    hz_F = hz_1xF[0]
    low_BxF = jnp.clip(jnp.searchsorted(hz_F, read_BxF, method="compare_all") - 1, 0, len(band_hz) - 2)
    return low_BxF + (read_BxF - hz_F[low_BxF]) / (hz_F[low_BxF + 1] - hz_F[low_BxF])


def shifted_places(u_Bx1: jax.Array, bands: int, shift_bands: float) -> jax.Array:
    """Places [batch, bands] up to `shift_bands` above or below: the whole spectrum moves, as in another voice."""
    return jnp.arange(bands)[None] + shift_bands * (2 * u_Bx1 - 1)


def move_bands(x_BxTxF: jax.Array, place_BxF: jax.Array) -> jax.Array:
    """Reads each band at a place between bands; places beyond the ends read the outermost band.

    A product with one small matrix of bands x bands per clip: gathering along the last axis is slower on a CPU.
    """
    bands = x_BxTxF.shape[-1]
    weight_BxFxG = interpolation(jnp.clip(place_BxF, 0, bands - 1), bands)
    return jnp.einsum("bfg,btg->btf", weight_BxFxG, x_BxTxF, precision="highest")


def level_db(u_Bx2: jax.Array, bands: int, gain_db: float, tilt_db: float) -> jax.Array:
    """dB to add, [batch, 1, bands]: up to `gain_db` up or down, and a slope of up to `tilt_db` from end to end."""
    u_Bx2 = 2 * u_Bx2 - 1
    level_BxF = gain_db * u_Bx2[:, :1] + tilt_db * u_Bx2[:, 1:] * jnp.linspace(-0.5, 0.5, bands)[None]
    return level_BxF[:, None]


def add_noise(
    u_Bx2: jax.Array,
    cells_db_BxTxF: jax.Array,
    db_BxTxF: jax.Array,
    frames_B: jax.Array,
    share: float,
    snr_db: tuple[float, float],
) -> jax.Array:
    """Adds the power of white noise to a share of the clips, at a signal-to-noise ratio from snr_db[0] to snr_db[1].

    Slaney's mel filters have equal areas, so that white noise is equally strong in all bands; `cells_db` is how far
    each of its cells is above or below the mean.
    """
    mask_BxTx1 = valid(frames_B, db_BxTxF.shape[1])[..., None]
    power_BxTxF = jnp.where(mask_BxTx1, _power(db_BxTxF), 0)
    mean_B = power_BxTxF.sum((1, 2)) / (jnp.maximum(frames_B, 1) * db_BxTxF.shape[-1])
    snr_B = snr_db[0] + (snr_db[1] - snr_db[0]) * u_Bx2[:, 1]
    noise_BxTxF = (mean_B * _power(-snr_B))[:, None, None] * _power(cells_db_BxTxF)
    noisy_BxTxF = 10 * jnp.log10(jnp.maximum(power_BxTxF + noise_BxTxF, 1e-30))
    return jnp.where(mask_BxTx1 & (u_Bx2[:, 0] < share)[:, None, None], noisy_BxTxF, db_BxTxF)


def limit_bands(
    u_Bx2: jax.Array, x_BxTxF: jax.Array, frames_B: jax.Array, band_hz: tuple[float, ...], share: float,
    top_hz: tuple[float, float], below: float,
) -> jax.Array:  # fmt: skip
    """A share of the clips as a codec or a telephone leaves them: bands above a drawn frequency hold their floor.

    Args:
      top_hz: the frequency's range, drawn evenly on a logarithmic scale.
      below: how far the floor is under the clip's highest cell.
    """
    cut_hz_B = top_hz[0] * (top_hz[1] / top_hz[0]) ** u_Bx2[:, 1]
    lost_BxF = (jnp.asarray([band_hz]) > cut_hz_B[:, None]) & (u_Bx2[:, :1] < share)
    mask_BxTx1 = valid(frames_B, x_BxTxF.shape[1])[..., None]
    floor_Bx1x1 = jnp.where(mask_BxTx1, x_BxTxF, -jnp.inf).max((1, 2), keepdims=True) - below
    return jnp.where(lost_BxF[:, None], jnp.minimum(x_BxTxF, floor_Bx1x1), x_BxTxF)


def mixup(u_Bx2: jax.Array, batch: Batch, mean_F: jax.Array, concentration: float | jax.Array) -> Batch:
    """Zhang et al. 2018: each clip is mixed with another of the batch, its own share max(l, 1 - l), l ~ Beta(a, a).

    The mixture is as long as the longer clip; beyond the end of the shorter one it is mixed with the training mean, as
    under a mask. Labels and loss weights are mixed so that the loss is the mixture of the two clips' own losses. Clips
    of weight 0, which pad the last batch, are neither changed nor mixed into others.

    Args:
      concentration: a; or what `_larger_share` makes of it.
    """
    shares = _larger_share(concentration) if isinstance(concentration, (int, float)) else concentration
    x_BxTxF, frames_B, target_BxC, weight_B = batch.logmel, batch.frames, batch.target, batch.weight
    clips = len(weight_B)
    # The batch is in random order already: the clip at a drawn distance is a random partner, and never the clip itself.
    partner_B = (jnp.arange(clips) + 1 + (u_Bx2[0, 0] * (clips - 1)).astype(int)) % clips
    share_B = jnp.asarray(shares)[(u_Bx2[:, 1] * _QUANTILES).astype(int)]
    share_B = jnp.where((weight_B > 0) & (weight_B[partner_B] > 0), share_B, 1)

    def mix(values: jax.Array) -> jax.Array:
        share = share_B.reshape(-1, *[1] * (values.ndim - 1))
        return share * values + (1 - share) * values[partner_B]

    longer_B = jnp.where(share_B < 1, jnp.maximum(frames_B, frames_B[partner_B]), frames_B)
    filled_BxTxF = jnp.where(valid(frames_B, x_BxTxF.shape[1])[..., None], x_BxTxF, mean_F[None, None])
    mixed_B, counts_BxC = mix(weight_B), mix(target_BxC * weight_B[:, None])
    target_BxC = jnp.where(mixed_B[:, None] > 0, counts_BxC / jnp.maximum(mixed_B, 1e-12)[:, None], target_BxC)
    logmel = inside(mix(filled_BxTxF), longer_B)
    return batch.replace(logmel=logmel, frames=longer_B, target=target_BxC, weight=mixed_B)


def stretches(u_2xBxN: jax.Array, length_B: jax.Array, size: int, share: float) -> jax.Array:
    """SpecAugment (Park et al. 2019): which of `size` positions are masked by N stretches, bool [batch, size].

    Each stretch lies within its clip's length and is at most `share` of it long.
    """
    length_Bx1 = length_B[:, None]
    width_BxN = jnp.floor(u_2xBxN[0] * (share * length_Bx1 + 1))
    start_BxN = jnp.floor(u_2xBxN[1] * (length_Bx1 - width_BxN + 1))
    place_1x1xS, start_BxNx1 = jnp.arange(size)[None, None], start_BxN[..., None]
    masked_BxNxS = (place_1x1xS >= start_BxNx1) & (place_1x1xS < start_BxNx1 + width_BxN[..., None])
    return masked_BxNxS.any(1)


def inside(x_BxTxF: jax.Array, frames_B: jax.Array) -> jax.Array:
    """Zero beyond each clip's end."""
    return jnp.where(valid(frames_B, x_BxTxF.shape[1])[..., None], x_BxTxF, 0)


def interpolation(place_BxN: jax.Array, size: int) -> jax.Array:
    """[batch, N, size]: product with a sequence of `size` gives its values at N places between 0 and size - 1."""
    return jnp.maximum(1 - jnp.abs(place_BxN[..., None] - jnp.arange(size)[None, None]), 0)


def _factor(u: jax.Array, strength: float) -> jax.Array:
    """From 1 / (1 + strength) to 1 + strength, a factor and its inverse equally often."""
    return (1 + strength) ** (2 * u - 1)


def _power(db: jax.Array) -> jax.Array:
    return jnp.exp(db * (np.log(10) / 10))


def _larger_share(concentration: float) -> np.ndarray:
    """Equally likely values of max(l, 1 - l), l ~ Beta(a, a). A sampler of Beta takes XLA seconds to compile."""
    import scipy.special  # 0.1 s, which no prediction needs

    upper = 0.5 + (np.arange(_QUANTILES) + 0.5) / (2 * _QUANTILES)
    return scipy.special.betaincinv(concentration, concentration, upper).astype(np.float32)
