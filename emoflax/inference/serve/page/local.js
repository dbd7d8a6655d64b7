"use strict";
// Where the page's predictions come from: the ONNX program beside it, run in this browser by onnxruntime-web.

const WINDOWS_AT_ONCE = 16;
const MOST_S = 600; // of a recording
const LIVE_S = 10; // of the microphone's sound that is kept for live probabilities
const CUTOFF = 0.955, ZEROS = 60, BETA = 9; // of resampling: where it cuts, how many zero crossings, window
const FRAME_S = 0.02, BELOW_LOUDEST_DB = 40, LOWEST_DB = -90, LOUD_SHARE = 0.95, LEAST_SHARE = 0.1; // as in windows.py

const source = {
  name: "this page",
  privacy: "The recording stays in this browser: the model runs here, and nothing is sent anywhere.",
  model: null,
  session: null,

  async describe() {
    const answer = await fetch("model.onnx.json").catch(() => null);
    if (!answer || !answer.ok) throw new Error("The model's files cannot be read: show this folder by a server of files.");
    const told = (this.model = await answer.json());
    [this.rate_hz] = told.sample_rates_hz;
    ort.env.wasm.numThreads = 1; // more need headers that few servers of files send
    ort.env.wasm.wasmPaths = new URL(".", location.href).href;
    this.session = ort.InferenceSession.create("model.onnx");
    await this.session;
    return {
      name: told.name, labels: told.labels, trained_on: told.corpus, notice: told.notice,
      licences: told.licences, calibrated: told.temperature !== 1, largest_bytes: 100e6, longest_s: MOST_S,
      version: told.emoflax,
    };
  },

  async predict(blob, name, window_s, hopOf) {
    if (!this.session) throw new Error("The model has not been read.");
    const from_hz = rateOf(new DataView(await blob.slice(0, 4096).arrayBuffer()));
    const read = await decoded(blob, from_hz).catch(() => {
      throw new Error(`${name} cannot be decoded by this browser. WAV, MP3, Ogg, FLAC and M4A can by most.`);
    });
    const samples = resampled(read, from_hz, this.rate_hz);
    const duration_s = samples.length / this.rate_hz;
    if (duration_s > MOST_S) throw new Error(`${name} lasts ${duration_s.toFixed(0)} s; at most ${MOST_S} s are accepted.`);
    if (!samples.some((value) => Math.abs(value) > 1e-4)) throw new Error(`${name} is silent.`);
    const notices = this.model.notice ? [this.model.notice] : [];
    const whole = { file: name, duration_s, notices, predictions: await this.rows(samples, [[0, samples.length]]) };
    const windows = { predictions: await this.rows(samples, spans(samples.length, this.rate_hz, window_s, hopOf(duration_s))) };
    return { whole, windows };
  },

  // Predictions of parts [first, after the last) of the samples.
  async rows(samples, parts) {
    const loudest_db = loud(levels(samples, this.rate_hz)), made = [];
    for (let begin = 0; begin < parts.length; begin += WINDOWS_AT_ONCE) {
      const own = parts.slice(begin, begin + WINDOWS_AT_ONCE), p = await this.probabilities(samples, own);
      own.forEach(([first, last], place) => {
        const silent = parts.length > 1 && isSilent(levels(samples.subarray(first, last), this.rate_hz), loudest_db);
        const [likeliest] = this.model.labels.toSorted((a, b) => p[place][b] - p[place][a]);
        made.push({
          start_s: first / this.rate_hz, end_s: last / this.rate_hz, silent, unsure: false,
          emotion: silent ? null : likeliest, probabilities: silent ? {} : p[place],
        });
      });
    }
    return made;
  },

  async probabilities(samples, parts) {
    const session = await this.session, width = Math.max(...parts.map(([first, last]) => last - first));
    const waveform = new Float32Array(parts.length * width);
    parts.forEach(([first, last], place) => waveform.set(samples.subarray(first, last), place * width));
    const lengths = Int32Array.from(parts, ([first, last]) => last - first);
    const { probabilities } = await session.run({
      waveform: new ort.Tensor("float32", waveform, [parts.length, width]),
      lengths: new ort.Tensor("int32", lengths, [parts.length]),
    });
    const classes = this.model.labels.length;
    return parts.map((_, place) => Object.fromEntries(
      this.model.labels.map((label, c) => [label, probabilities.data[place * classes + c]])));
  },

  // Of the last window from the microphone, as often as the model can.
  stream(rate_hz, window_s, show) {
    let kept = new Float32Array(0), at_work = false, ended = false;
    const look = async () => {
      at_work = true;
      const width = Math.min(kept.length, Math.round(window_s * rate_hz));
      const blob = wav([in16Bits(kept.slice(-width))], width, rate_hz);
      try {
        const samples = resampled(await decoded(blob, rate_hz), rate_hz, this.rate_hz);
        const [row] = await this.rows(samples, [[0, samples.length]]);
        if (!ended) show(samples.some((value) => Math.abs(value) > 1e-4) ? row : { silent: true });
      } catch (error) {
        if (!ended) show({ error: error.message });
      }
      at_work = false;
    };
    return {
      send: (block) => {
        const both = new Float32Array(kept.length + block.length);
        both.set(kept);
        block.forEach((value, place) => { both[kept.length + place] = value / 32768; });
        kept = both.slice(-LIVE_S * rate_hz);
        if (!at_work && kept.length > 0.5 * rate_hz) look();
      },
      end: () => { ended = true; },
    };
  },
};

// The rate that a WAV file has; others are decoded at a rate that most have.
function rateOf(head) {
  const letters = (at) => String.fromCharCode(...[0, 1, 2, 3].map((i) => head.getUint8(at + i)));
  for (let at = 12; at + 16 <= head.byteLength && letters(0) === "RIFF"; at += 8 + head.getUint32(at + 4, true)) {
    if (letters(at) === "fmt ") return Math.min(192000, Math.max(8000, head.getUint32(at + 12, true)));
  }
  return 48000;
}

// By sinc functions under a Kaiser window, as sharp as soxr's: browsers' own resampling takes more off the highest octave.
function resampled(samples, from_hz, to_hz) {
  const divisor = ((a, b) => { while (b) [a, b] = [b, a % b]; return a; })(from_hz, to_hz);
  const up = to_hz / divisor, down = from_hz / divisor;
  if (up === down) return samples;
  const share = CUTOFF * Math.min(1, up / down), half = Math.ceil(ZEROS / share);
  const kernels = Array.from({ length: up }, (_, phase) => Float32Array.from({ length: 2 * half }, (_, k) => {
    const t = k - half + 1 - phase / up, x = Math.PI * share * t;
    return share * (t ? Math.sin(x) / x : 1) * bessel(BETA * Math.sqrt(Math.max(0, 1 - (t / half) ** 2))) / bessel(BETA);
  }));
  return Float32Array.from({ length: Math.floor(samples.length * up / down) }, (_, n) => {
    const first = Math.floor(n * down / up) - half + 1, kernel = kernels[(n * down) % up];
    let sum = 0;
    for (let k = Math.max(0, -first); k < kernel.length && first + k < samples.length; k++) sum += samples[first + k] * kernel[k];
    return sum;
  });
}

// Modified Bessel function of order 0
function bessel(x) {
  let sum = 1, term = 1;
  for (let k = 1; k < 40; k++) sum += term *= (x / 2 / k) ** 2;
  return sum;
}

// Windows of a recording; the last one ends where the recording does.
function spans(length, rate_hz, window_s, hop_s) {
  const width = Math.round(window_s * rate_hz), hop = Math.round(hop_s * rate_hz), made = [];
  if (length <= width) return [[0, length]];
  for (let first = 0; first + width <= length; first += hop) made.push([first, first + width]);
  if (made.at(-1)[1] < length) made.push([length - width, length]);
  return made;
}

// RMS of every 20 ms, in dB of full scale
function levels(samples, rate_hz) {
  const frame = Math.round(FRAME_S * rate_hz), made = [];
  for (let begin = 0; begin < samples.length; begin += frame) {
    const part = samples.subarray(begin, begin + frame);
    made.push(10 * Math.log10(Math.max(1e-20, part.reduce((sum, value) => sum + value * value, 0) / part.length)));
  }
  return made;
}

function loud(levels_db) {
  const sorted = levels_db.toSorted((a, b) => a - b);
  return sorted[Math.floor(LOUD_SHARE * (sorted.length - 1))];
}

function isSilent(levels_db, loudest_db) {
  const least_db = Math.max(loudest_db - BELOW_LOUDEST_DB, LOWEST_DB);
  return levels_db.filter((level) => level > least_db).length / levels_db.length < LEAST_SHARE;
}
