// A video with what is known of its face drawn over it: crop, mask and landmarks.

import { h } from "./page.js";

const LINES = [[0, 17], [17, 22], [22, 27], [27, 31], [31, 36]];
const LOOPS = [[36, 42], [42, 48], [48, 60], [60, 68]];

class Screen extends HTMLElement {
  connectedCallback() {
    if (this.firstChild) return;
    this.video = h("video", { controls: true, playsinline: true, preload: "auto", "aria-label": this.getAttribute("label") });
    this.over = h("canvas", { class: "over" });
    this.empty = h("div", { class: "empty" }, "Nothing to show yet.");
    this.box = h("div", { class: "screen" }, this.empty, this.video, this.over);
    this.append(h("figure", {}, this.box, h("figcaption", {}, this.getAttribute("label"))));
    this.video.hidden = true;
    for (const kind of ["loadeddata", "seeked", "timeupdate", "resize"]) {
      this.video.addEventListener(kind, () => this.draw());
    }
    this.video.addEventListener("error", () => this.fail());
    // A video tells its time four times a second; what is drawn over it has to move with each frame.
    const next = () => this.video.requestVideoFrameCallback?.(() => {
      this.draw();
      next();
    });
    next();
    this.box.addEventListener("click", (event) => this.click(event), true);
    this.watch = new ResizeObserver(() => this.draw());
    this.watch.observe(this.box);
  }

  disconnectedCallback() {
    this.watch?.disconnect();
  }

  show(url) {
    this.url = url;
    this.video.hidden = !url;
    this.empty.hidden = !!url;
    if (url) this.video.src = url;
    else this.video.removeAttribute("src");
    this.draw();
  }

  fail() {
    if (!this.url) return;
    this.video.hidden = true;
    this.empty.hidden = false;
    this.empty.textContent = "Your browser cannot play this file. It can be dubbed all the same.";
  }

  set timeline(timeline) {
    this._timeline = timeline;
    this.draw();
  }

  set drawn(on) {
    this._drawn = on;
    this.draw();
  }

  // Where the picture lies in the box, in pixels of the page.
  place() {
    const { videoWidth: w, videoHeight: v } = this.video;
    const { clientWidth, clientHeight } = this.video;
    const scale = Math.min(clientWidth / w, clientHeight / v);
    const left = this.video.offsetLeft + (clientWidth - w * scale) / 2;
    const top = this.video.offsetTop + (clientHeight - v * scale) / 2;
    return { scale, left, top };
  }

  draw() {
    const { over, _timeline: timeline } = this;
    if (!over) return;
    this.dispatchEvent(new Event("frame"));
    const sharp = devicePixelRatio || 1;
    over.width = this.box.clientWidth * sharp;
    over.height = this.box.clientHeight * sharp;
    if (!timeline || !this._drawn || this.video.hidden || !this.video.videoWidth) return;
    const frame = this.frame();
    if (!timeline.found[frame]) return;
    const { scale, left, top } = this.place();
    const pen = over.getContext("2d");
    pen.setTransform(sharp * scale, 0, 0, sharp * scale, left * sharp, top * sharp);
    const width = 1.5 / scale;
    const [x, y] = timeline.centre_px[frame];
    const side = timeline.side_px[frame];
    const unit = side / timeline.size_px;
    const [up, down, from, to] = timeline.boxes[frame];
    pen.lineWidth = width;
    pen.strokeStyle = "#ffffffb0";
    pen.setLineDash([6 / scale, 4 / scale]);
    pen.strokeRect(x - side / 2, y - side / 2, side, side);
    pen.setLineDash([]);
    pen.fillStyle = "#35c4bd40";
    pen.fillRect(x - side / 2 + from * unit, y - side / 2 + up * unit, (to - from) * unit, (down - up) * unit);
    pen.strokeStyle = "#5fe0d8";
    const points = timeline.points_px[frame];
    for (const [first, last] of LINES) this.line(pen, points.slice(first, last), false);
    for (const [first, last] of LOOPS) this.line(pen, points.slice(first, last), true);
  }

  line(pen, points, closed) {
    pen.beginPath();
    for (const [x, y] of points) pen.lineTo(x, y);
    if (closed) pen.closePath();
    pen.stroke();
  }

  frame() {
    const times = this._timeline.times_s;
    const now = this.video.currentTime + 1e-3;
    let frame = 0;
    while (frame + 1 < times.length && times[frame + 1] <= now) frame += 1;
    return frame;
  }

  // Let the next click on the picture cut a face out of it.
  choose(chosen) {
    this.chosen = chosen;
    this.video.pause();
    this.box.classList.add("choosing");
  }

  click(event) {
    if (!this.chosen || this.video.hidden) return;
    event.preventDefault();
    event.stopPropagation();
    const { scale, left, top } = this.place();
    const box = this.box.getBoundingClientRect();
    const x = (event.clientX - box.left - left) / scale;
    const y = (event.clientY - box.top - top) / scale;
    const side = Math.min(this.video.videoWidth, this.video.videoHeight) * 0.6;
    const canvas = h("canvas", { width: Math.round(side), height: Math.round(side) });
    canvas.getContext("2d").drawImage(this.video, x - side / 2, y - side / 2, side, side, 0, 0, side, side);
    canvas.toBlob(this.chosen, "image/png");
    this.chosen = null;
    this.box.classList.remove("choosing");
  }
}
customElements.define("dt-screen", Screen);
