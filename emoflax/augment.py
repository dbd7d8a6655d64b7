"""Augmentation of log-mels on the device, inside the compiled train step: pure functions of (key, batch).

Everything acts on dB, before the model normalises, so that gain, tilt and noise mean what they mean in sound. Each
clip gets draws of its own. Resampling along time or frequency is a product with a small matrix of linear
interpolation per clip, which costs less than gathering on a CPU. What lies beyond a clip's end stays zero.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from emoflax.models.pooling import valid

Batch = Mapping[str, jax.Array]
_KNEE = 0.6  # of the highest frequency: above it, vocal-tract warping bends back, so that both ends stay in place
_CELL_DB = 2.5  # standard deviation of a cell of noise, a mean over the few Fourier bins of a mel band


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Which augmentations act, and how strongly; one whose first field is 0 is off. The fields of config.augment."""

    crop: float = 0.0
    stretch: float = 0.0
    vtlp: float = 0.0
    shift_bands: float = 0.0
    tilt_db: float = 0.0
    gain_db: float = 0.0
    noise: float = 0.0
    noise_snr_db: tuple[float, float] = (5.0, 40.0)
    mixup: float = 0.0
    time_masks: int = 0
    time_mask_share: float = 0.15
    band_masks: int = 0
    band_mask_share: float = 0.15
    band_hz: tuple[float, ...] = ()  # centre of each mel band; only vtlp asks for it

    def __call__(self, key: jax.Array, batch: Batch, mean_F: jax.Array | None) -> dict[str, jax.Array]:
        """A batch as `Bucket.rows` describes it, with 'target' [batch, classes] -> the same, augmented.

        Args:
          mean_F: training mean of each band in dB, which fills what is masked or missing.
        """
        if "logmel" not in batch:
            return dict(batch)
        time, bands, level, noise, mix, mask = jax.random.split(key, 6)  # switching one on leaves the others' draws
        x_BxTxF, frames_B = batch["logmel"], batch["frames"]
        x_BxTxF, frames_B = warp_time(time, x_BxTxF, frames_B, crop=self.crop, stretch=self.stretch)
        x_BxTxF = warp_bands(bands, x_BxTxF, vtlp=self.vtlp, shift_bands=self.shift_bands, band_hz=self.band_hz)
        x_BxTxF = change_level(level, x_BxTxF, gain_db=self.gain_db, tilt_db=self.tilt_db)
        x_BxTxF = add_noise(noise, x_BxTxF, frames_B, share=self.noise, snr_db=self.noise_snr_db)
        batch = {**batch, "logmel": x_BxTxF, "frames": frames_B}
        batch = mixup(mix, batch, mean_F, concentration=self.mixup)
        x_BxTxF, frames_B = batch["logmel"], batch["frames"]
        time, bands = jax.random.split(mask)
        x_BxTxF = mask_time(time, x_BxTxF, frames_B, mean_F, masks=self.time_masks, share=self.time_mask_share)
        x_BxTxF = mask_bands(bands, x_BxTxF, mean_F, masks=self.band_masks, share=self.band_mask_share)
        return batch | {"logmel": inside(x_BxTxF, frames_B)}


def warp_time(
    key: jax.Array, x_BxTxF: jax.Array, frames_B: jax.Array, *, crop: float, stretch: float
) -> tuple[jax.Array, jax.Array]:
    """Cuts up to the share `crop` off a clip, divided by chance between its ends, and plays the rest at another rate.

    The rate is drawn from 1 / (1 + stretch) to 1 + stretch, evenly on a logarithmic scale. What no longer fits into
    the padded width is cut.
    """
    if not crop and not stretch:
        return x_BxTxF, frames_B
    share_key, start_key, rate_key = jax.random.split(key, 3)
    width = x_BxTxF.shape[1]
    cut_B = crop * frames_B * jax.random.uniform(share_key, frames_B.shape)
    start_B = cut_B * jax.random.uniform(start_key, frames_B.shape)
    rate_B = _spread(rate_key, frames_B.shape, stretch)
    longer_B = jnp.clip(jnp.round((frames_B - cut_B) / rate_B), 1, width).astype(frames_B.dtype)
    place_BxT = start_B[:, None] + jnp.arange(width)[None] * rate_B[:, None]
    place_BxT = jnp.clip(place_BxT, 0, jnp.maximum(frames_B - 1, 0)[:, None])
    x_BxTxF = jnp.einsum("bts,bsf->btf", interpolation(place_BxT, width), x_BxTxF, precision="highest")
    frames_B = jnp.where(frames_B > 0, longer_B, 0)  # a clip without sound stays without
    return inside(x_BxTxF, frames_B), frames_B


def warp_bands(
    key: jax.Array, x_BxTxF: jax.Array, *, vtlp: float, shift_bands: float, band_hz: tuple[float, ...]
) -> jax.Array:
    """Vocal-tract-length perturbation (Jaitly & Hinton 2013), and a shift of the whole mel axis.

    VTLP reads each band at alpha times its frequency, alpha from 1 / (1 + vtlp) to 1 + vtlp, as another speaker's
    vocal tract would move the formants. The shift is up to `shift_bands` bands up or down, as a higher or lower voice.
    """
    if not vtlp and not shift_bands:
        return x_BxTxF
    alpha_key, shift_key = jax.random.split(key)
    clips, _, bands = x_BxTxF.shape
    place_BxF = jnp.broadcast_to(jnp.arange(bands, dtype=jnp.float32), (clips, bands))
    if vtlp:
        hz_1xF = jnp.asarray([band_hz], jnp.float32)
        alpha_Bx1 = _spread(alpha_key, (clips, 1), vtlp)
        top, knee_Bx1 = band_hz[-1], _KNEE * band_hz[-1] * jnp.minimum(alpha_Bx1, 1)
        knee_from_Bx1 = knee_Bx1 / alpha_Bx1
        bent_BxF = top - (top - knee_Bx1) / (top - knee_from_Bx1) * (top - hz_1xF)
        hz_BxF = jnp.where(hz_1xF <= knee_from_Bx1, hz_1xF * alpha_Bx1, bent_BxF)
        place_BxF = jnp.interp(hz_BxF, hz_1xF[0], place_BxF[0])
    shift_Bx1 = jax.random.uniform(shift_key, (clips, 1), minval=-shift_bands, maxval=shift_bands)
    place_BxF = jnp.clip(place_BxF + shift_Bx1, 0, bands - 1)
    return jnp.einsum("bfg,btg->btf", interpolation(place_BxF, bands), x_BxTxF, precision="highest")


def change_level(key: jax.Array, x_BxTxF: jax.Array, *, gain_db: float, tilt_db: float) -> jax.Array:
    """Up to `gain_db` louder or softer, and up to `tilt_db` between the lowest and the highest band, mean kept."""
    if not gain_db and not tilt_db:
        return x_BxTxF
    gain_key, tilt_key = jax.random.split(key)
    shape = (len(x_BxTxF), 1, 1)
    gain_Bx1x1 = jax.random.uniform(gain_key, shape, minval=-gain_db, maxval=gain_db)
    tilt_Bx1x1 = jax.random.uniform(tilt_key, shape, minval=-tilt_db, maxval=tilt_db)
    slope_1x1xF = jnp.linspace(-0.5, 0.5, x_BxTxF.shape[-1])[None, None]
    return x_BxTxF + gain_Bx1x1 + tilt_Bx1x1 * slope_1x1xF


def add_noise(
    key: jax.Array, x_BxTxF: jax.Array, frames_B: jax.Array, *, share: float, snr_db: tuple[float, float]
) -> jax.Array:
    """Adds the power of white noise to a share of the clips, at a signal-to-noise ratio from snr_db[0] to snr_db[1]."""
    if not share:
        return x_BxTxF
    chosen_key, snr_key, cell_key = jax.random.split(key, 3)
    mask_BxTx1 = valid(frames_B, x_BxTxF.shape[1])[..., None]
    power_BxTxF = jnp.where(mask_BxTx1, _power(x_BxTxF), 0)
    cells_B = jnp.maximum(frames_B, 1) * x_BxTxF.shape[-1]
    mean_B = power_BxTxF.sum((1, 2)) / cells_B
    snr_B = jax.random.uniform(snr_key, frames_B.shape, minval=snr_db[0], maxval=snr_db[1])
    cell_db_BxTxF = _CELL_DB * jax.random.normal(cell_key, x_BxTxF.shape)
    floor_db_B = 10 * jnp.log10(jnp.maximum(mean_B, 1e-30)) - snr_B
    noisy_BxTxF = 10 * jnp.log10(power_BxTxF + _power(floor_db_B[:, None, None] + cell_db_BxTxF))
    chosen_B = jax.random.uniform(chosen_key, frames_B.shape) < share
    return jnp.where(chosen_B[:, None, None] & mask_BxTx1, noisy_BxTxF, x_BxTxF)


def mixup(key: jax.Array, batch: Batch, mean_F: jax.Array, *, concentration: float) -> Batch:
    """Zhang et al. 2018: each clip is mixed with another of the batch, its own share max(l, 1 - l), l ~ Beta(a, a).

    The mixture is as long as the longer clip; where the shorter one has ended, the training mean stands in for it,
    as under a mask. Labels and loss weights are mixed so that the loss is the mixture of the two clips' own losses.
    Clips of weight 0, which fill up the last batch, are left alone and mixed into none.
    """
    if not concentration:
        return batch
    pair_key, share_key = jax.random.split(key)
    x_BxTxF, frames_B, target_BxC, weight_B = (batch[name] for name in ("logmel", "frames", "target", "weight"))
    partner_B = jax.random.permutation(pair_key, len(weight_B))
    share_B = jax.random.beta(share_key, concentration, concentration, weight_B.shape)
    share_B = jnp.maximum(share_B, 1 - share_B)
    share_B = jnp.where((weight_B > 0) & (weight_B[partner_B] > 0), share_B, 1)
    filled_BxTxF = jnp.where(valid(frames_B, x_BxTxF.shape[1])[..., None], x_BxTxF, mean_F[None, None])
    share_Bx1x1 = share_B[:, None, None]
    mixed_BxTxF = share_Bx1x1 * filled_BxTxF + (1 - share_Bx1x1) * filled_BxTxF[partner_B]
    frames_B = jnp.where(share_B < 1, jnp.maximum(frames_B, frames_B[partner_B]), frames_B)
    counts_BxC = target_BxC * weight_B[:, None]
    counts_BxC = share_B[:, None] * counts_BxC + (1 - share_B)[:, None] * counts_BxC[partner_B]
    mixed_B = share_B * weight_B + (1 - share_B) * weight_B[partner_B]
    target_BxC = jnp.where(mixed_B[:, None] > 0, counts_BxC / jnp.maximum(mixed_B, 1e-12)[:, None], target_BxC)
    return {
        **batch,
        "logmel": inside(mixed_BxTxF, frames_B),
        "frames": frames_B,
        "target": target_BxC,
        "weight": mixed_B,
    }


def mask_time(
    key: jax.Array, x_BxTxF: jax.Array, frames_B: jax.Array, mean_F: jax.Array, *, masks: int, share: float
) -> jax.Array:
    """SpecAugment (Park et al. 2019): `masks` stretches of frames, each up to `share` of the clip, become the mean."""
    if not masks:
        return x_BxTxF
    hidden_BxT = _stretches(key, frames_B, x_BxTxF.shape[1], masks, share)
    return jnp.where(hidden_BxT[..., None], mean_F[None, None], x_BxTxF)


def mask_bands(key: jax.Array, x_BxTxF: jax.Array, mean_F: jax.Array, *, masks: int, share: float) -> jax.Array:
    """SpecAugment's other half: `masks` ranges of bands, each up to `share` of all bands, become the mean."""
    if not masks:
        return x_BxTxF
    clips, _, bands = x_BxTxF.shape
    hidden_BxF = _stretches(key, jnp.full(clips, bands), bands, masks, share)
    return jnp.where(hidden_BxF[:, None], mean_F[None, None], x_BxTxF)


def inside(x_BxTxF: jax.Array, frames_B: jax.Array) -> jax.Array:
    """Zero beyond each clip's end."""
    return jnp.where(valid(frames_B, x_BxTxF.shape[1])[..., None], x_BxTxF, 0)


def interpolation(place_BxN: jax.Array, size: int) -> jax.Array:
    """[batch, N, size]: product with a sequence of `size` gives its values at N places between 0 and size - 1."""
    return jnp.maximum(1 - jnp.abs(place_BxN[..., None] - jnp.arange(size)[None, None]), 0)


def _spread(key: jax.Array, shape: tuple[int, ...], strength: float) -> jax.Array:
    """Factors from 1 / (1 + strength) to 1 + strength, a factor and its inverse equally often."""
    return (1 + strength) ** jax.random.uniform(key, shape, minval=-1, maxval=1)


def _power(db: jax.Array) -> jax.Array:
    return jnp.exp(db * (jnp.log(10) / 10))


def _stretches(key: jax.Array, length_B: jax.Array, size: int, count: int, share: float) -> jax.Array:
    """Mask [batch, size] of `count` stretches inside each length, of drawn width (share of the length) and place."""
    width_key, start_key = jax.random.split(key)
    shape = (len(length_B), count)
    width_BxN = jnp.floor(jax.random.uniform(width_key, shape) * (share * length_B[:, None] + 1))
    start_BxN = jnp.floor(jax.random.uniform(start_key, shape) * (length_B[:, None] - width_BxN + 1))
    place_1x1xS, start_BxNx1 = jnp.arange(size)[None, None], start_BxN[..., None]
    hidden_BxNxS = (place_1x1xS >= start_BxNx1) & (place_1x1xS < start_BxNx1 + width_BxN[..., None])
    return hidden_BxNxS.any(1)
