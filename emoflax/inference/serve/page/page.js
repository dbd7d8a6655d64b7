"use strict";
// The page's program; also, in the browser's thread for sound, what passes on the microphone's samples.
// Predictions come from `source`: server.js asks the service, local.js runs the model in the browser.

const HOP_SHARE = 0.25; // of a window, from one to the next ...
const MOST_WINDOWS = 300; // ... or longer, for long recordings
const RATE_HZ = 16000; // at which pictures are drawn
const FFT = 512;
const MARGIN = 84; // for labels, in CSS pixels

if (typeof AudioWorkletProcessor === "function") {
  registerCapture();
} else {
  begin();
}

function registerCapture() {
  registerProcessor("capture", class extends AudioWorkletProcessor {
    constructor() {
      super();
      this.block = new Float32Array(4096);
      this.filled = 0;
      this.port.onmessage = () => this.flush();
    }

    process([input]) {
      if (!input.length) return true;
      for (let i = 0; i < input[0].length; i++) {
        let sum = 0;
        for (const channel of input) sum += channel[i];
        this.block[this.filled++] = sum / input.length;
        if (this.filled === this.block.length) this.flush();
      }
      return true;
    }

    flush() {
      this.port.postMessage(this.block.slice(0, this.filled));
      this.filled = 0;
    }
  });
}

function element(id) {
  return document.getElementById(id);
}

function begin() {
  const state = { model: null, recorder: null, asking: false, drawn: null, turn: 0 };
  element("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (file) predict(state, file, file.name);
    event.target.value = ""; // so that the same file can be chosen again
  });
  element("record").addEventListener("click", () => toggleRecording(state));
  const drop = element("drop");
  for (const kind of ["dragenter", "dragover"]) {
    drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    const [file] = event.dataTransfer.files;
    if (file) predict(state, file, file.name);
  });
  window.addEventListener("resize", () => state.drawn && draw(state.drawn));
  if (!navigator.mediaDevices) {
    element("record").disabled = true;
    element("status").textContent = "This browser records on https pages and on localhost alone.";
  }
  element("privacy").textContent = source.privacy;
  describe(state);
}

async function describe(state) {
  try {
    const model = (state.model = await source.describe());
    element("model").textContent = `The model ${model.name} was trained on ${model.trained_on} and knows: ` +
      `${model.labels.join(", ")}.` + (model.notice ? ` Note: ${model.notice}.` : "");
    element("about").textContent = `EmoFlax ${model.version}. Training data: ${model.licences.join("; ") || "not named"}.`;
  } catch (error) {
    element("model").textContent = "";
    say("", error.message);
  }
}

function say(status, error = "") {
  element("status").textContent = status;
  element("error").textContent = error;
}

async function predict(state, blob, name) {
  const turn = ++state.turn; // a later recording makes the answers about this one void
  if (state.model && blob.size > state.model.largest_bytes) {
    say("", `${name} has ${(blob.size / 1e6).toFixed(1)} MB; ${source.name} accepts ${state.model.largest_bytes / 1e6} MB.`);
    return;
  }
  element("result").hidden = true;
  say(`Predicting ${name} …`);
  const window_s = Number(element("window").value);
  const hopOf = (duration_s) => Math.min(window_s, Math.max(window_s * HOP_SHARE, duration_s / MOST_WINDOWS));
  try {
    const [{ whole, windows }, samples] =
      await Promise.all([source.predict(blob, name, window_s, hopOf), decoded(blob, RATE_HZ).catch(() => null)]);
    if (turn === state.turn) show(state, blob, whole, windows, samples);
  } catch (error) {
    if (turn === state.turn) say("", error.message);
  }
}

// Float samples of one channel, at that rate; fails for a format that this browser does not know.
async function decoded(blob, rate_hz) {
  const context = new OfflineAudioContext(1, 1, rate_hz);
  const buffer = await context.decodeAudioData(await blob.arrayBuffer());
  const mono = new Float32Array(buffer.length);
  for (let c = 0; c < buffer.numberOfChannels; c++) {
    const channel = buffer.getChannelData(c);
    for (let i = 0; i < mono.length; i++) mono[i] += channel[i] / buffer.numberOfChannels;
  }
  return mono;
}

function show(state, blob, whole, windows, samples) {
  const [row] = whole.predictions;
  const percent = (100 * row.probabilities[row.emotion]).toFixed(0);
  const unseen = samples ? "" : " This browser cannot draw or play this format.";
  element("headline").textContent = row.unsure ? `Unsure; most likely ${row.emotion}, ${percent} %` : `${row.emotion}, ${percent} %`;
  element("confidence").textContent = state.model && state.model.calibrated
    ? "Calibrated: of answers this confident, about as many were right on speakers whom the model had not learnt from."
    : "Not calibrated: this is how sure the model is, not how often it is right.";
  element("notices").replaceChildren(...whole.notices.map((notice) => filled("li", notice)));
  const player = element("player");
  if (player.src) URL.revokeObjectURL(player.src);
  player.src = URL.createObjectURL(blob);
  player.hidden = !samples;
  showBars(row);
  showRows(Object.keys(row.probabilities), windows.predictions);
  element("result").hidden = false;
  state.drawn = {
    samples, labels: Object.keys(row.probabilities), rows: windows.predictions, duration_s: whole.duration_s,
    attention: whole.attention,
  };
  draw(state.drawn);
  say(`${whole.file}, ${whole.duration_s.toFixed(1)} s: ${element("headline").textContent}.${unseen}`);
}

function filled(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

function showBars(row) {
  element("bars").tBodies[0].replaceChildren(...Object.entries(row.probabilities).map(([label, p]) => {
    const line = document.createElement("tr");
    const head = filled("th", label);
    head.scope = "row";
    const bar = filled("span", "");
    bar.className = "bar";
    bar.style.width = `${100 * p}%`;
    const cell = document.createElement("td");
    cell.append(bar);
    line.className = label === row.emotion ? "likeliest" : "";
    line.append(head, filled("td", `${(100 * p).toFixed(1)} %`), cell);
    return line;
  }));
}

function showRows(labels, rows) {
  const head = document.createElement("tr");
  for (const name of ["from s", "to s", "emotion", ...labels]) {
    const cell = filled("th", name);
    cell.scope = "col";
    head.append(cell);
  }
  element("rows").replaceChildren(head, ...rows.map((row) => {
    const line = document.createElement("tr");
    const values = labels.map((label) => (row.silent ? "" : row.probabilities[label].toFixed(2)));
    const cells = [row.start_s.toFixed(2), row.end_s.toFixed(2), row.emotion || "silence", ...values];
    line.append(...cells.map((text) => filled("td", text)));
    return line;
  }));
}

function draw({ samples, labels, rows, duration_s, attention }) {
  for (const id of ["wave", "spectrogram"]) element(id).hidden = !samples;
  if (samples) {
    drawWave(...canvas("wave"), samples);
    drawSpectrogram(...canvas("spectrogram"), samples);
  }
  element("attention").hidden = !attention;
  if (attention) drawAttention(...canvas("attention"), attention, duration_s);
  drawRows(...canvas("over-time"), labels, rows, duration_s);
}

function drawAttention(context, width, height, { start_s, hop_s, values }, duration_s) {
  const inner = width - MARGIN, most = Math.max(1.2, ...values), y = (value) => height - 1 - (height - 4) * value / most;
  context.fillText("attention", 0, height / 2 + 4);
  context.fillStyle = "#c25700";
  values.forEach((value, place) => {
    const x = MARGIN + inner * (start_s + place * hop_s) / duration_s;
    context.fillRect(x, y(value), Math.min(width - x, inner * hop_s / duration_s + 0.5), height - 1 - y(value));
  });
  context.fillStyle = "#1b1f24";
  context.fillRect(MARGIN, y(1), inner, 1);
  const peak = values.indexOf(Math.max(...values));
  let first = peak, last = peak;
  while (first > 0 && values[first - 1] > values[peak] / 2) first--;
  while (last + 1 < values.length && values[last + 1] > values[peak] / 2) last++;
  const [from_s, to_s] = [first, last + 1].map((place) => (start_s + place * hop_s).toFixed(1));
  element("attention").setAttribute("aria-label", `Attention: the model weighs ${from_s} to ${to_s} s most, ` +
    `up to ${values[peak].toFixed(1)} times the mean`);
}

// [2D context, width, height] in CSS pixels, cleared
function canvas(id) {
  const own = element(id);
  const { width, height } = own.getBoundingClientRect();
  const scale = window.devicePixelRatio || 1;
  own.width = Math.round(width * scale);
  own.height = Math.round(height * scale);
  const context = own.getContext("2d");
  context.scale(scale, scale);
  context.font = "12px system-ui, sans-serif";
  context.fillStyle = "#1b1f24";
  return [context, width, height];
}

function drawWave(context, width, height, samples) {
  const columns = Math.floor(width - MARGIN);
  let loudest = 1e-6;
  for (const value of samples) loudest = Math.max(loudest, Math.abs(value));
  context.fillText("waveform", 0, height / 2 + 4);
  context.fillStyle = "#17457a";
  for (let x = 0; x < columns; x++) {
    let low = 0, high = 0;
    const last = Math.max(Math.floor((x + 1) * samples.length / columns), Math.floor(x * samples.length / columns) + 1);
    for (let i = Math.floor(x * samples.length / columns); i < last && i < samples.length; i++) {
      low = Math.min(low, samples[i]);
      high = Math.max(high, samples[i]);
    }
    const top = height / 2 * (1 - high / loudest);
    context.fillRect(MARGIN + x, top, 1, Math.max(1, height / 2 * (1 - low / loudest) - top));
  }
}

function drawSpectrogram(context, width, height, samples) {
  const columns = Math.max(1, Math.floor(width - MARGIN)), bands = FFT / 2, range_db = 70;
  const db = new Float32Array(columns * bands);
  let top = -Infinity;
  for (let x = 0; x < columns; x++) {
    const power = powers(samples, Math.floor((x + 0.5) * samples.length / columns) - FFT / 2);
    for (let k = 0; k < bands; k++) top = Math.max(top, db[x * bands + k] = 10 * Math.log10(power[k] + 1e-12));
  }
  const picture = new ImageData(columns, bands);
  for (let x = 0; x < columns; x++) {
    for (let k = 0; k < bands; k++) {
      const share = Math.min(1, Math.max(0, 1 - (top - db[x * bands + k]) / range_db));
      picture.data.set(shade(share), 4 * ((bands - 1 - k) * columns + x));
    }
  }
  const small = new OffscreenCanvas(columns, bands);
  small.getContext("2d").putImageData(picture, 0, 0);
  context.drawImage(small, MARGIN, 0, columns, height);
  for (const khz of [0, 2, 4, 6, 8]) {
    context.fillText(`${khz} kHz`, 40, Math.min(height - 2, Math.max(10, height * (1 - khz / 8) + 4)));
  }
}

function drawRows(context, width, height, labels, rows, duration_s) {
  const inner = width - MARGIN, axis = 18, tall = (height - axis) / labels.length;
  labels.forEach((label, place) => context.fillText(label.slice(0, 12), 0, (place + 0.65) * tall));
  rows.forEach((row, place) => {
    // a window stands for the time around its middle, up to where its neighbours' begin
    const middle = (r) => (r.start_s + r.end_s) / 2;
    const begin = place ? (middle(rows[place - 1]) + middle(row)) / 2 : 0;
    const end = place + 1 < rows.length ? (middle(rows[place + 1]) + middle(row)) / 2 : duration_s;
    const x = MARGIN + inner * begin / duration_s, wide = inner * (end - begin) / duration_s;
    labels.forEach((label, line) => {
      const [r, g, b] = row.silent ? [225, 225, 225] : shade(row.probabilities[label]);
      context.fillStyle = `rgb(${r},${g},${b})`;
      context.fillRect(x, line * tall + 1, Math.max(1, wide - 1), tall - 2);
      if (label === row.emotion) {
        context.strokeStyle = "#c25700";
        context.lineWidth = 2;
        context.strokeRect(x + 1, line * tall + 2, Math.max(1, wide - 3), tall - 4);
      }
    });
  });
  context.fillStyle = "#1b1f24";
  const step_s = [0.5, 1, 2, 5, 10, 30, 60].find((s) => duration_s / s <= 10) || 120;
  for (let s = 0; s <= duration_s; s += step_s) {
    context.fillText(`${s} s`, Math.min(width - 26, MARGIN + inner * s / duration_s), height - 3);
  }
}

// 0: white, 1: dark blue
function shade(share) {
  return [255 - 240 * share, 255 - 205 * share, 255 - 150 * share, 255];
}

// Power spectrum of FFT samples from `begin` on, under a Hann window: a radix-2 transform in place.
function powers(samples, begin) {
  const re = new Float32Array(FFT), im = new Float32Array(FFT), bits = Math.log2(FFT);
  for (let i = 0; i < FFT; i++) {
    let to = 0;
    for (let b = 0; b < bits; b++) to |= ((i >> b) & 1) << (bits - 1 - b);
    re[to] = (samples[begin + i] || 0) * (0.5 - 0.5 * Math.cos(2 * Math.PI * i / FFT));
  }
  for (let size = 2; size <= FFT; size *= 2) {
    for (let k = 0; k < size / 2; k++) {
      const c = Math.cos(2 * Math.PI * k / size), s = -Math.sin(2 * Math.PI * k / size);
      for (let a = k; a < FFT; a += size) {
        const b = a + size / 2, x = re[b] * c - im[b] * s, y = re[b] * s + im[b] * c;
        re[b] = re[a] - x;
        im[b] = im[a] - y;
        re[a] += x;
        im[a] += y;
      }
    }
  }
  return re.slice(0, FFT / 2).map((value, k) => value * value + im[k] * im[k]);
}

async function toggleRecording(state) {
  if (state.asking) return; // a button that is disabled meanwhile would lose the keyboard's focus
  if (state.recorder) {
    const recorder = state.recorder;
    state.recorder = null;
    await recorder.stop();
    return;
  }
  say("Asking for the microphone …");
  state.asking = true;
  try {
    state.recorder = await startRecording(state);
    element("result").hidden = true;
    element("record").classList.add("at-work");
    element("record").textContent = "Stop";
    say("Recording. Press Stop to have all of it predicted.");
  } catch (error) {
    say("", `The microphone cannot be used (${error.message}). Allow it for this page, or choose a file.`);
  }
  state.asking = false;
}

async function startRecording(state) {
  // what a browser does to voices in calls, a model has not been trained on
  const raw = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  const microphone = await navigator.mediaDevices.getUserMedia({ audio: raw });
  const context = new AudioContext();
  await context.audioWorklet.addModule("page.js");
  const capture = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0 });
  context.createMediaStreamSource(microphone).connect(capture);
  const blocks = [], live = openStream(context.sampleRate);
  const longest_s = state.model ? state.model.longest_s : 60;
  let held = 0;
  capture.port.onmessage = ({ data }) => {
    const block = in16Bits(data);
    blocks.push(block);
    held += block.length;
    live.send(block);
    if (held > (longest_s - 1) * context.sampleRate && state.recorder) toggleRecording(state);
  };
  return {
    stop: async () => {
      capture.port.postMessage("flush");
      await new Promise((resolve) => setTimeout(resolve, 100)); // the last samples are on their way
      microphone.getTracks().forEach((track) => track.stop());
      await context.close();
      live.end();
      element("record").classList.remove("at-work");
      element("record").textContent = "Record";
      await predict(state, wav(blocks, held, context.sampleRate), "recording.wav");
    },
  };
}

// Probabilities while sound arrives.
function openStream(rate_hz) {
  const place = element("live");
  place.hidden = false;
  place.textContent = "Live: listening …";
  const stream = source.stream(rate_hz, Number(element("window").value), (row) => {
    if (row.error) place.textContent = `No live probabilities: ${row.error}`;
    if (row.silent) place.textContent = "Live: silence";
    if (row.emotion) place.textContent = `Live: ${row.emotion}, ${(100 * row.probabilities[row.emotion]).toFixed(0)} %`;
  });
  return {
    send: stream.send,
    end: () => {
      stream.end();
      place.hidden = true;
    },
  };
}

function in16Bits(samples) {
  return Int16Array.from(samples, (value) => Math.max(-32768, Math.min(32767, Math.round(32768 * value))));
}

function wav(blocks, length, rate_hz) {
  const head = new DataView(new ArrayBuffer(44));
  const put = (at, text) => [...text].forEach((letter, i) => head.setUint8(at + i, letter.charCodeAt(0)));
  put(0, "RIFF");
  head.setUint32(4, 36 + 2 * length, true);
  put(8, "WAVEfmt ");
  head.setUint32(16, 16, true);
  [1, 1].forEach((value, i) => head.setUint16(20 + 2 * i, value, true)); // PCM, one channel
  head.setUint32(24, rate_hz, true);
  head.setUint32(28, 2 * rate_hz, true);
  [2, 16].forEach((value, i) => head.setUint16(32 + 2 * i, value, true)); // bytes of a frame, bits
  put(36, "data");
  head.setUint32(40, 2 * length, true);
  return new Blob([head, ...blocks], { type: "audio/wav" });
}
