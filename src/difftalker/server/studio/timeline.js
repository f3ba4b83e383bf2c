// The mouth over time: the sound, its opening as a curve to drag, spans, and edits of a span.

import WaveSurfer from "./vendor/wavesurfer.esm.js";
import { field, h, say } from "./page.js";

const HEIGHT = 120;
const BRUSH_S = 0.06; // what is dragged takes its neighbours along, so that no mouth jumps
const STEP = 0.02;
const MOST = 2;
const CLOSEST = 32;
const REASONS = {
  "no face": "no face was found", "turned away": "the face is turned away", rolled: "the head is tilted too far",
  covered: "the mouth is covered", "other person": "it is somebody else's face",
};

class Timeline extends HTMLElement {
  connectedCallback() {
    if (this.firstChild) return;
    this.edits = [];
    this.drawn = new Map();
    this.wave = h("div", {});
    this.words = h("div", { class: "spans words" });
    this.line = h("div", { class: "line" });
    this.curve = h("canvas", {
      class: "curve", tabindex: "0", role: "slider", "aria-label": "Opening of the mouth",
      "aria-valuemin": "0", "aria-valuemax": String(MOST), "aria-orientation": "vertical",
    });
    this.spans = h("div", { class: "spans" });
    this.start = h("input", { class: "short", type: "number", min: "0", step: "0.04", value: "0" });
    this.stop = h("input", { class: "short", type: "number", min: "0", step: "0.04", value: "0" });
    this.kind = h("select", { "aria-label": "What the edit does" }, ...[["mouth", "opens by a factor of"], ["jaw", "drops the jaw by a factor of"], ["shift", "comes later by seconds"], ["smooth", "is smoothed over seconds"]].map(([value, text]) => h("option", { value }, text)));
    this.amount = h("input", { class: "short", type: "number", step: "0.01", value: "1.2", "aria-label": "Amount" });
    this.list = h("ul", { class: "edits", "aria-label": "Edits" });
    this.reasons = h("ul", { class: "reasons quiet", "aria-label": "Where the footage keeps its own mouth" });
    this.box = h("div", { class: "timeline" }, h("div", { class: "wave" }, this.wave), this.words, this.spans, this.curve, this.line);
    this.view = h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Sound, words, spans and curve" }, this.box);
    this.append(
      h("div", { class: "row apart" }, h("h2", {}, "Timeline"), h("div", { class: "row" },
        h("button", { class: "plain", type: "button", onclick: () => this.zoom(2) }, "Zoom in"),
        h("button", { class: "plain", type: "button", onclick: () => this.zoom(0.5) }, "Zoom out"),
        h("button", { class: "plain", type: "button", onclick: () => this.reset() }, "Undo all changes"))),
      h("p", { class: "quiet" }, "Drag the curve to open or close the mouth. With the keyboard: left and right move, up and down change."),
      this.view, this.reasons, this.form(), this.list,
    );
    this.listen();
    this.watch = new ResizeObserver(() => this.draw());
    this.watch.observe(this.box);
  }

  form() {
    const add = h("button", { type: "button", onclick: () => this.add() }, "Add the edit");
    const from = h("label", { class: "check" }, "From", this.start, "to", this.stop, "s the mouth");
    return h("div", { class: "row", style: "margin-top: 12px" }, from, this.kind, this.amount, add);
  }

  disconnectedCallback() {
    this.watch?.disconnect();
    this.sound?.destroy();
  }

  // Show a timeline.json, over the sound at an address.
  show(record, url) {
    this.record = record;
    this.hidden = !record;
    if (!record) return;
    this.cursor = 0;
    this.drawn.clear();
    this.edits = [];
    const { times_s: times } = record;
    const step = times.length > 1 ? (times.at(-1) - times[0]) / (times.length - 1) : 0.04;
    this.length = times.at(-1) + step;
    this.stop.value = this.length.toFixed(2);
    this.highest = record.opening.reduce((most, one) => Math.max(most, 1.6 * one), 0.2);
    this.zoom(0);
    if (url !== this.url) this.play(url);
    this.spans.replaceChildren(...record.spans.map((span) => this.span(span)));
    this.words.replaceChildren(...(record.words ?? []).filter((word) => word.start_s < this.length).map((word) => this.piece("word", word.text, word)));
    const through = record.spans.filter((span) => !span.driven);
    this.reasons.replaceChildren(...through.map((span) => h("li", {}, `${span.start_s.toFixed(2)} to ${span.stop_s.toFixed(2)} s: ${REASONS[span.reason] ?? span.reason}`)));
    this.tell();
  }

  span(span) {
    const text = span.driven ? "new mouth" : `passes through: ${REASONS[span.reason] ?? span.reason}`;
    return this.piece(span.driven ? "driven" : "passes", text, span);
  }

  // A part of the time; a click makes it the span of the next edit.
  piece(kind, text, { start_s: start, stop_s: stop }) {
    const share = (seconds) => `${(100 * seconds) / this.length}%`;
    const take = () => {
      this.start.value = start.toFixed(2);
      this.stop.value = stop.toFixed(2);
      this.dispatchEvent(new CustomEvent("seek", { detail: start }));
    };
    return h("span", {
      class: kind, title: `${text}, ${start.toFixed(2)} to ${stop.toFixed(2)} s`, onclick: take,
      style: `left: ${share(start)}; width: ${share(stop - start)}`,
    }, text);
  }

  // Show more or less time in the same width; a factor of 0 shows all of it.
  zoom(factor) {
    this.scale = Math.max(1, Math.min(CLOSEST, (this.scale ?? 1) * factor));
    this.box.style.width = `${100 * this.scale}%`;
    this.follow();
  }

  // Mark where the video is, and keep it in sight.
  follow() {
    const { box, view, line } = this;
    const at = ((this.cursor + 0.5) / this.record.times_s.length) * box.clientWidth;
    line.style.left = `${at}px`;
    if (at < view.scrollLeft || at > view.scrollLeft + view.clientWidth) view.scrollLeft = at - view.clientWidth / 4;
    const now = this.value(this.cursor);
    this.curve.setAttribute("aria-valuenow", now.toFixed(2));
    this.curve.setAttribute("aria-valuetext", `${now.toFixed(2)} at ${this.record.times_s[this.cursor].toFixed(2)} s`);
  }

  play(url) {
    this.url = url;
    this.sound?.destroy();
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => {
      const probe = h("span", { style: `color: var(${name}); display: none` });
      this.append(probe);
      const found = getComputedStyle(probe).color;
      probe.remove();
      return found || style.color;
    };
    this.sound = WaveSurfer.create({
      container: this.wave, height: 56, url, waveColor: colour("--edge"),
      progressColor: colour("--accent"), cursorWidth: 0, interact: true,
    });
    // The sound may be longer or shorter than the footage: both have one scale.
    this.sound.on("ready", (seconds) => (this.wave.style.width = `${(100 * seconds) / this.length}%`));
    this.sound.on("interaction", (seconds) => this.dispatchEvent(new CustomEvent("seek", { detail: seconds })));
    this.sound.on("error", () => {});
  }

  // The page's video has come to another time.
  set time(seconds) {
    if (!this.record) return;
    this.cursor = this.frame(seconds);
    this.sound?.setTime(Math.min(seconds, this.sound.getDuration() || 0));
    this.follow();
  }

  frame(seconds) {
    const at = Math.floor((seconds / this.length) * this.record.times_s.length + 0.01);
    return Math.max(0, Math.min(this.record.times_s.length - 1, at));
  }

  listen() {
    const { curve } = this;
    curve.addEventListener("pointerdown", (event) => {
      curve.setPointerCapture(event.pointerId);
      this.last = null;
      this.drag(event);
    });
    curve.addEventListener("pointermove", (event) => event.buttons && this.drag(event));
    curve.addEventListener("pointerup", () => this.changed());
    curve.addEventListener("keydown", (event) => this.key(event));
  }

  drag(event) {
    const box = this.curve.getBoundingClientRect();
    const frame = this.frame(((event.clientX - box.left) / box.width) * this.length);
    const share = 1 - (event.clientY - box.top) / box.height;
    const value = Math.max(0, Math.min(MOST, share * this.highest));
    const from = this.last ?? { frame, value };
    const steps = Math.max(1, Math.abs(frame - from.frame));
    for (let i = 0; i <= steps; i += 1) {
      const part = i / steps;
      this.set(Math.round(from.frame + (frame - from.frame) * part), from.value + (value - from.value) * part);
    }
    this.last = { frame, value };
    this.cursor = frame;
    this.draw();
  }

  // Set the opening at a frame; those beside it follow softly.
  set(frame, value) {
    const reach = Math.max(1, Math.round((BRUSH_S / this.length) * this.record.opening.length));
    for (let i = -reach; i <= reach; i += 1) {
      const place = frame + i;
      if (!(place in this.record.opening)) continue;
      const weight = (1 - Math.abs(i) / (reach + 1)) ** (i ? 1.5 : 1);
      const now = this.value(place);
      this.drawn.set(place, now + (value - now) * weight);
    }
  }

  value(frame) {
    return this.drawn.get(frame) ?? this.record.opening[frame];
  }

  key(event) {
    const moves = { ArrowLeft: -1, ArrowRight: 1, PageDown: -10, PageUp: 10 };
    const changes = { ArrowUp: STEP, ArrowDown: -STEP };
    const count = this.record?.opening.length ?? 0;
    if (event.key in moves) {
      this.cursor = Math.max(0, Math.min(count - 1, this.cursor + moves[event.key]));
      this.dispatchEvent(new CustomEvent("seek", { detail: this.record.times_s[this.cursor] }));
    } else if (event.key in changes) {
      this.set(this.cursor, Math.max(0, Math.min(MOST, this.value(this.cursor) + changes[event.key])));
      this.changed();
    } else return;
    event.preventDefault();
    this.draw();
  }

  add() {
    const [start, stop, amount] = [this.start, this.stop, this.amount].map((one) => Number(one.value));
    const kind = this.kind.value;
    const most = { mouth: 10, jaw: 10, smooth: 10, shift: 60 }[kind];
    if (!(start >= 0 && stop > start)) return say("The span has to end after it begins.", true);
    if (!(Math.abs(amount) <= most) || (kind !== "shift" && amount < 0)) {
      return say(`The amount has to lie between ${kind === "shift" ? -most : 0} and ${most}.`, true);
    }
    this.edits.push(`${kind}=${amount}@${start}-${stop}`);
    this.changed();
  }

  reset() {
    this.edits = [];
    this.drawn.clear();
    this.changed();
  }

  changed() {
    this.tell();
    this.dispatchEvent(new Event("change", { bubbles: true }));
  }

  get hasChanges() {
    return this.drawn.size > 0 || this.edits.length > 0;
  }

  // The opening of each frame, null where it is as it was.
  get opening() {
    if (!this.drawn.size) return [];
    return this.record.opening.map((_, i) => (this.drawn.has(i) ? Math.round(this.drawn.get(i) * 1e4) / 1e4 : null));
  }

  tell() {
    this.list.replaceChildren(...this.edits.map((text, i) => h("li", {}, text, " ",
      h("button", { class: "plain", type: "button", "aria-label": `Remove ${text}`, onclick: () => {
        this.edits.splice(i, 1);
        this.changed();
      } }, "Remove"))));
    this.draw();
  }

  draw() {
    const { curve, record } = this;
    if (!record || this.hidden) return;
    const sharp = devicePixelRatio || 1;
    const width = curve.clientWidth;
    curve.width = Math.min(width * sharp, 16_000); // what browsers allow
    curve.height = HEIGHT * sharp;
    curve.style.height = `${HEIGHT}px`;
    const pen = curve.getContext("2d");
    pen.scale(curve.width / width, sharp);
    const style = getComputedStyle(this);
    const colours = ["--line", "--edge", "--accent", "--changed"].map((name) => style.getPropertyValue(name));
    const [line, edge, accent, changed] = colours.map((value) => resolved(this, value));
    const count = record.opening.length;
    const x = (frame) => ((frame + 0.5) / count) * width;
    const y = (value) => HEIGHT - 4 - (Math.min(value, this.highest) / this.highest) * (HEIGHT - 12);
    pen.fillStyle = line;
    pen.fillRect(0, HEIGHT - 4, width, 1);
    pen.lineWidth = 1;
    pen.strokeStyle = edge;
    this.path(pen, record.opening, x, y);
    pen.lineWidth = 2;
    pen.strokeStyle = accent;
    this.path(pen, record.opening.map((_, i) => this.value(i)), x, y);
    pen.fillStyle = changed;
    for (const frame of this.drawn.keys()) pen.fillRect(x(frame) - 1.5, y(this.value(frame)) - 1.5, 3, 3);
    this.follow();
  }

  path(pen, values, x, y) {
    pen.beginPath();
    values.forEach((value, i) => pen.lineTo(x(i), y(value)));
    pen.stroke();
  }
}
customElements.define("dt-timeline", Timeline);

// A colour as a canvas reads it, which does not know light-dark().
function resolved(element, value) {
  element.style.setProperty("--probe", value);
  element.style.outlineColor = "var(--probe)";
  const found = getComputedStyle(element).outlineColor;
  element.style.outlineColor = "";
  return found;
}
