"use strict";
// Where the page's predictions come from: the service that sent the page.

const TRIES = 4; // of a request that a busy server puts off

const source = {
  name: "the server",
  privacy: "The recording is sent to this server alone, kept in its memory while it is predicted, and written nowhere.",

  describe() {
    return answered("v1/model");
  },

  // The answer for the whole recording, and that for its windows.
  async predict(blob, name, window_s, hopOf) {
    const send = (query) => {
      const body = new FormData();
      body.append("file", blob, name);
      return answered(`v1/predict${query}`, { method: "POST", body });
    };
    const whole = await send("?attention=true");
    const windows = await send(`?window_s=${window_s}&hop_s=${hopOf(whole.duration_s).toFixed(3)}`);
    return { whole, windows };
  },

  // Where the stream fails, the recording goes on without its probabilities.
  stream(rate_hz, window_s, show) {
    const url = new URL(`v1/stream?rate_hz=${rate_hz}&window_s=${window_s}&hop_s=${Math.min(1, window_s / 2)}`, location.href);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = new WebSocket(url);
    socket.onmessage = ({ data }) => show(JSON.parse(data));
    socket.onerror = () => show({ error: "the stream is not connected." });
    return {
      send: (block) => { if (socket.readyState === WebSocket.OPEN && socket.bufferedAmount < 1 << 20) socket.send(block); },
      end: () => { if (socket.readyState === WebSocket.OPEN) socket.send("end"); },
    };
  },
};

async function answered(path, options, tries = TRIES) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The server cannot be reached. Is it still running, and the network up?");
  }
  if ([429, 503].includes(response.status) && response.headers.has("Retry-After") && tries > 1) {
    await new Promise((resolve) => setTimeout(resolve, 1000 * Number(response.headers.get("Retry-After"))));
    return answered(path, options, tries - 1);
  }
  const content = await response.json().catch(() => ({ error: `The server answered with status ${response.status}.` }));
  if (!response.ok) throw new Error(content.error);
  return content;
}
