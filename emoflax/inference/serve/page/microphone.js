"use strict";
// The microphone; also, in the browser's thread for sound, what passes its samples on.

if (typeof AudioWorkletProcessor === "function") registerCapture();

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

async function startRecording(state) {
  // what a browser does to voices in calls, a model has not been trained on
  const raw = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  const microphone = await navigator.mediaDevices.getUserMedia({ audio: raw });
  const context = new AudioContext();
  await context.audioWorklet.addModule("microphone.js");
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
