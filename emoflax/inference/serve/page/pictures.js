"use strict";
// Waveform, spectrogram, attention, and probabilities over time, drawn on the page's canvases.

const RATE_HZ = 16000; // at which pictures are drawn
const FFT = 512;
const MARGIN = 84; // for labels, in CSS pixels

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
