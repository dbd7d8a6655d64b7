"use strict";
// The page's program. Predictions come from `source`: server.js asks the service, local.js runs the model in the browser.
// The sound comes from microphone.js, and is drawn by pictures.js.

const HOP_SHARE = 0.25; // of a window, from one to the next ...
const MOST_WINDOWS = 300; // ... or longer, for long recordings

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

begin();
