// Speak with an avatar: from the microphone or a typed text, in real time.

import * as api from "./api.js";
import { field, h, say, tried } from "./page.js";

const HZ = 16000;
const AHEAD_S = 0.08; // sound is played so much after it came: small delays are not heard
const BLOCK = 640;

class LivePage extends HTMLElement {
  connectedCallback() {
    if (this.firstChild) return;
    this.avatar = h("dt-avatar", { live: true });
    this.video = h("dt-file", { label: "Footage, or none", optional: true, accept: "video/*,.mkv,.mpg" });
    this.start = h("button", { class: "main", type: "button", onclick: () => (this.socket ? this.stop() : this.begin()) }, "Start");
    this.mic = h("button", { type: "button", disabled: true, onclick: () => this.listen() }, "Use the microphone");
    this.cut = h("button", { type: "button", disabled: true, onclick: () => this.interrupt() }, "Interrupt");
    this.text = h("textarea", { maxlength: "4096" });
    this.sayer = h("button", { type: "button", disabled: true, onclick: () => this.say() }, "Say it");
    this.canvas = h("canvas", { class: "live", width: "256", height: "256", role: "img", "aria-label": "The avatar" });
    this.tells = h("p", { class: "quiet", role: "status" }, "Not connected.");
    this.append(h("div", { class: "columns" },
      h("section", { class: "card", "aria-label": "Who speaks" }, h("h2", {}, "Who speaks"), this.avatar, this.video, h("div", { class: "row", style: "margin-top: 16px" }, this.start)),
      h("section", { class: "card stack", "aria-label": "Session" },
        h("figure", {}, h("div", { class: "screen" }, this.canvas), h("figcaption", {}, "AI-generated, live")), this.tells,
        h("div", { class: "row" }, this.mic, this.cut),
        ...(this.about.voice ? [field("Say", this.text), h("div", { class: "row" }, this.sayer)] : [h("p", { class: "quiet" }, "This server has no voice for typed text: start it with --voice.")]))));
  }

  disconnectedCallback() {
    this.stop();
  }

  begin() {
    const query = new URLSearchParams({ avatar: this.avatar.value });
    if (this.video.value) query.set("video", this.video.value.id);
    this.context = new AudioContext();
    this.context.resume();
    this.playing = new Set();
    this.pictures = [];
    this.base = null;
    this.count = 0;
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.socket = new WebSocket(`${scheme}://${location.host}/v1/live?${query}`);
    this.socket.binaryType = "arraybuffer";
    this.socket.onmessage = ({ data }) => (typeof data === "string" ? this.heed(JSON.parse(data)) : this.take(data));
    this.socket.onclose = () => this.stop();
    this.start.textContent = "Stop";
    this.tells.textContent = "Opening: the avatar is loaded.";
  }

  heed(message) {
    if (message.type === "ready") {
      this.canvas.width = message.width;
      this.canvas.height = message.height;
      for (const one of [this.mic, this.cut, this.sayer]) one.disabled = false;
      this.tells.textContent = "Connected.";
      this.show();
    } else if (message.type === "error") say(message.error.message, true);
    else if (message.type === "interrupted") this.tells.textContent = "Interrupted.";
  }

  take(data) {
    const kind = new DataView(data).getUint8(0);
    const time = new DataView(data).getFloat64(1, true);
    if (kind === 2) this.play(time, new Int16Array(data.slice(9)));
    else this.pictures.push({ time, jpeg: new Blob([data.slice(9)], { type: "image/jpeg" }) });
  }

  play(time, samples) {
    const { context } = this;
    // The session's clock against ours; where sound comes late, all later sound waits as long.
    if (this.base === null || this.base + time < context.currentTime) this.base = context.currentTime + AHEAD_S - time;
    const buffer = context.createBuffer(1, samples.length, HZ);
    buffer.copyToChannel(Float32Array.from(samples, (x) => x / 32768), 0);
    const source = new AudioBufferSourceNode(context, { buffer });
    source.connect(context.destination);
    source.onended = () => this.playing.delete(source);
    source.start(this.base + time);
    this.playing.add(source);
  }

  async show() {
    while (this.socket) {
      await new Promise((next) => requestAnimationFrame(next));
      let due = null;
      while (this.pictures.length && (this.base === null || this.base + this.pictures[0].time <= this.context?.currentTime)) due = this.pictures.shift();
      if (!due) continue;
      const image = await createImageBitmap(due.jpeg);
      this.canvas.getContext("2d").drawImage(image, 0, 0);
      image.close();
      this.count += 1;
      this.canvas.dataset.frames = String(this.count);
    }
  }

  async listen() {
    if (this.stream) return this.hush();
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: true } });
      await this.context.audioWorklet.addModule("live-mic.js");
      const node = new AudioWorkletNode(this.context, "microphone", { numberOfOutputs: 0 });
      node.port.onmessage = ({ data }) => this.socket?.readyState === 1 && this.socket.send(data);
      this.context.createMediaStreamSource(this.stream).connect(node);
      this.mic.textContent = "Mute the microphone";
    } catch (error) {
      say(`There is no microphone: ${error.message}`, true);
    }
  }

  hush() {
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    this.stream = null;
    this.mic.textContent = "Use the microphone";
  }

  async say() {
    const text = this.text.value.trim();
    if (!text) return say("Type a text first.", true);
    const sound = await tried(() => api.speak(text));
    if (!sound || !this.context) return;
    const decoded = await new OfflineAudioContext(1, 1, HZ).decodeAudioData(await sound.arrayBuffer());
    const samples = Int16Array.from(decoded.getChannelData(0), (x) => Math.max(-1, Math.min(1, x)) * 32767);
    for (let i = 0; i < samples.length; i += BLOCK) this.socket?.send(samples.slice(i, i + BLOCK).buffer);
  }

  interrupt() {
    this.socket?.send(JSON.stringify({ type: "interrupt" }));
    for (const source of this.playing) source.stop();
    this.playing.clear();
  }

  stop() {
    const { socket } = this;
    this.socket = null;
    socket?.close();
    this.hush();
    this.context?.close();
    this.context = null;
    for (const one of [this.mic, this.cut, this.sayer]) one.disabled = true;
    this.start.textContent = "Start";
    this.tells.textContent = "Not connected.";
  }
}
customElements.define("dt-live", LivePage);
