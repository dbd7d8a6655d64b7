"""A source-filter voice: syllables of random vowels, spoken in a given manner by a given speaker.

A glottal pulse train with jitter, tremor and pitch movement, a cascade of formant resonators per syllable (Klatt 1980,
"Software for a cascade/parallel formant synthesizer", JASA 67), and filtered noise for fricatives.
"""

import dataclasses

import numpy as np

SAMPLE_RATE_HZ = 16_000
# Formants of five vowels for a vocal tract of adult male length, Hz (Peterson & Barney 1952, rounded)
VOWELS_HZ = np.array(
    [
        [270.0, 2290.0, 3010.0, 3500.0],  # beet
        [530.0, 1840.0, 2480.0, 3500.0],  # bet
        [730.0, 1090.0, 2440.0, 3400.0],  # father
        [570.0, 840.0, 2410.0, 3400.0],  # bought
        [300.0, 870.0, 2240.0, 3300.0],  # boot
    ]
)
BANDWIDTHS_HZ = np.array([70.0, 100.0, 140.0, 220.0])


@dataclasses.dataclass(frozen=True)
class Manner:
    """A manner of speaking, relative to the speaker's own voice."""

    pitch_st: float  # mean pitch, semitones
    range_st: float  # size of the accents, semitones
    final_st: float  # movement over the last syllable, semitones
    rate: float  # factor on the syllable rate
    energy_db: float
    tilt_hz: float  # corner of the source's low-pass: the higher, the harder the voice
    tremor_st: float  # depth of a 7 Hz wobble, semitones
    breath: float  # noise in the voice, relative to its pulses


@dataclasses.dataclass(frozen=True)
class Speaker:
    """One synthetic speaker."""

    f0_hz: float
    tract: float  # factor on the formants; 1 is an adult male's vocal tract
    rate: float  # syllables per second
    gain_db: float  # of mouth and microphone together
    tilt: float  # factor on the source's corner frequency
    expressive: float  # factor on what the manner changes


@dataclasses.dataclass(frozen=True)
class Rhythm:
    """Timing of the syllables; `[syllables]` and `[samples]`."""

    begins_word: np.ndarray  # [syllables] bool
    starts: np.ndarray  # [syllables] sample at which each begins
    ends: np.ndarray
    syllable: np.ndarray  # [samples] index of the syllable
    within: np.ndarray  # [samples] 0 to 1 inside each syllable


def speak(word_syllables: list[int], manner: Manner, speaker: Speaker, rng: np.random.Generator) -> np.ndarray:
    """Speaks words of so many syllables each.

    Returns a waveform `[samples]` within -1 to 1 at SAMPLE_RATE_HZ, with a little room noise under and around it.
    """
    rhythm = _rhythm(word_syllables, speaker.rate * manner.rate, rng)
    voice = _vocal_tract(_glottis(_pitch(manner, speaker, rhythm, rng), manner, rng), rhythm, speaker, rng)
    voice += _fricatives(rhythm, rng)
    voice *= 10 ** ((-27 + manner.energy_db + speaker.gain_db) / 20)
    voice = np.pad(voice, (rng.uniform(0.04, 0.12, 2) * SAMPLE_RATE_HZ).astype(int))
    return np.tanh(voice + 3e-4 * rng.standard_normal(len(voice)))


def _rhythm(word_syllables: list[int], rate: float, rng: np.random.Generator) -> Rhythm:
    begins_word = np.array([i == 0 for count in word_syllables for i in range(count)])
    seconds = rng.lognormal(0, 0.12, len(begins_word)) / rate
    seconds[-1] *= 1.4  # phrase-final lengthening
    ends = np.cumsum(np.round(seconds * SAMPLE_RATE_HZ).astype(int))
    starts = np.concatenate([[0], ends[:-1]])
    syllable = np.repeat(np.arange(len(ends)), ends - starts)
    within = (np.arange(ends[-1]) - starts[syllable]) / (ends - starts)[syllable]
    return Rhythm(begins_word, starts, ends, syllable, within)


def _pitch(manner: Manner, speaker: Speaker, rhythm: Rhythm, rng: np.random.Generator) -> np.ndarray:
    """Fundamental frequency in Hz, `[samples]`: declination, an accent per word, a last movement, tremor, jitter."""
    syllables = len(rhythm.begins_word)
    accents = np.where(rhythm.begins_word, rng.normal(1.0, 0.3, syllables), rng.normal(0.2, 0.2, syllables))
    accents *= rng.random(syllables) < 0.7  # not every syllable is stressed
    seconds = np.arange(rhythm.ends[-1]) / SAMPLE_RATE_HZ
    semitones = manner.pitch_st - 2.0 * seconds / seconds[-1]
    semitones += manner.range_st * accents[rhythm.syllable] * np.sin(np.pi * rhythm.within)
    semitones += manner.final_st * np.where(rhythm.syllable == syllables - 1, rhythm.within, 0.0)
    semitones += manner.tremor_st * np.sin(2 * np.pi * (7.0 * seconds + rng.random()))
    knots = np.arange(0, seconds[-1] + 0.01, 0.01)
    semitones += np.interp(seconds, knots, rng.normal(0, 0.15, len(knots)))  # jitter
    return speaker.f0_hz * 2 ** (semitones / 12)


def _glottis(f0_hz: np.ndarray, manner: Manner, rng: np.random.Generator) -> np.ndarray:
    """Derivative of the glottal flow, `[samples]`: Rosenberg's pulse, tilted, with breath while the glottis is open."""
    from scipy.signal import lfilter  # imported here: it takes half a second, and only generating the corpus needs it

    phase = np.cumsum(f0_hz / SAMPLE_RATE_HZ) % 1.0
    opening, closing = 0.4, 0.16
    flow = np.where(phase < opening, 0.5 * (1 - np.cos(np.pi * phase / opening)), 0.0)
    flow = np.where(
        (phase >= opening) & (phase < opening + closing), np.cos(0.5 * np.pi * (phase - opening) / closing), flow
    )
    pulses = np.diff(flow, prepend=0.0)
    pulses /= np.sqrt(np.mean(pulses**2))
    pole = np.exp(-2 * np.pi * min(manner.tilt_hz, 7000.0) / SAMPLE_RATE_HZ)
    tilted = lfilter([1 - pole], [1, -pole], pulses)
    return tilted / np.sqrt(np.mean(tilted**2)) + manner.breath * (0.3 + flow) * rng.standard_normal(len(flow))


def _vocal_tract(source: np.ndarray, rhythm: Rhythm, speaker: Speaker, rng: np.random.Generator) -> np.ndarray:
    """Passes the source `[samples]` through the formants of a vowel drawn for each syllable; unit power."""
    from scipy.signal import sosfilt

    syllables = len(rhythm.starts)
    onset = np.where(rhythm.begins_word, 0.12, 0.05)[rhythm.syllable]
    swell = np.clip(np.minimum(rhythm.within / onset, (1 - rhythm.within) / 0.2), 0.0, 1.0)
    source = source * swell * rng.lognormal(0, 0.15, syllables)[rhythm.syllable]
    voice = np.empty_like(source)
    state = np.zeros((len(BANDWIDTHS_HZ), 2))
    for start, end in zip(rhythm.starts, rhythm.ends, strict=True):
        formants_hz = VOWELS_HZ[rng.integers(len(VOWELS_HZ))] * speaker.tract * rng.normal(1.0, 0.03)
        voice[start:end], state = sosfilt(_resonators(formants_hz, BANDWIDTHS_HZ), source[start:end], zi=state)
    return voice / np.sqrt(np.mean(voice**2))


def _resonators(centres_hz: np.ndarray, widths_hz: np.ndarray) -> np.ndarray:
    """Klatt's two-pole resonators with unit gain at 0 Hz, as second-order sections `[resonators, 6]`."""
    radius = np.exp(-np.pi * widths_hz / SAMPLE_RATE_HZ)
    b = 2 * radius * np.cos(2 * np.pi * centres_hz / SAMPLE_RATE_HZ)
    c = -(radius**2)
    none = np.zeros_like(b)
    return np.stack([1 - b - c, none, none, none + 1, -b, -c], axis=1)


def _fricatives(rhythm: Rhythm, rng: np.random.Generator) -> np.ndarray:
    """Hiss `[samples]` over the first third of about every second syllable, relative to a voice of unit power."""
    from scipy.signal import sosfilt

    syllables = len(rhythm.starts)
    level = np.where(rng.random(syllables) < 0.5, rng.uniform(0.2, 0.6, syllables), 0.0)
    envelope = np.clip(1 - rhythm.within / 0.35, 0.0, 1.0) * np.clip(rhythm.within / 0.08, 0.0, 1.0)
    centre_hz = np.array([rng.uniform(3500, 6000)])
    hiss = sosfilt(_resonators(centre_hz, np.array([1500.0])), rng.standard_normal(len(envelope)))
    return level[rhythm.syllable] * envelope * hiss / np.sqrt(np.mean(hiss**2))
