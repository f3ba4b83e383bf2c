// From footage and speech to a dub, and from a changed curve to a repainted span.

import * as api from "./api.js";
import { bar, checker, choice, field, h, say, tried } from "./page.js";

class DubPage extends HTMLElement {
  connectedCallback() {
    if (this.firstChild) return;
    this.video = h("dt-file", { label: "Footage", accept: "video/*,.mkv,.mpg,.ts,.mxf" });
    this.audio = h("dt-speech", { label: "Speech", accept: "audio/*,video/*", voice: this.about.voice });
    this.avatar = h("dt-avatar");
    this.before = h("dt-screen", { label: "Before" });
    this.after = h("dt-screen", { label: "After: AI-generated" });
    this.timeline = h("dt-timeline", { class: "card", hidden: true });
    this.look = h("button", { type: "button", onclick: () => this.preview() }, "Preview landmarks");
    this.dub = h("button", { class: "main", type: "button", onclick: () => this.begin() }, "Dub");
    this.bar = bar(() => this.job && tried(() => api.remove(`/v1/jobs/${this.job.id}`)));
    this.saved = h("div", { class: "row" });
    this.append(h("div", { class: "columns" }, this.inputs(), this.work()));
    this.addEventListener("change", (event) => this.changed(event.target));
    this.after.addEventListener("frame", () => this.view.value !== "before" && this.follow(this.after.video));
    this.before.addEventListener("frame", () => this.view.value === "before" && this.follow(this.before.video));
    this.timeline.addEventListener("seek", (event) => this.seek(event.detail));
    this.arrange();
    if (this.wanted) this.open(this.wanted);
  }

  disconnectedCallback() {
    this.quit?.();
  }

  inputs() {
    const samples = h("button", { class: "plain", type: "button", onclick: () => this.samples() }, "Use the samples");
    this.face = h("select", {}, ...[
      ["avatar", "the avatar's person"], ["largest", "the largest face"], ["leftmost", "the leftmost face"],
      ["rightmost", "the rightmost face"], ["center", "the face in the middle"], ["1", "who comes first"], ["2", "who comes second"],
    ].map(([value, text]) => h("option", { value }, text)));
    this.pick = h("button", { type: "button", onclick: () => this.choose() }, "Choose in the picture");
    this.any = h("input", { type: "checkbox" });
    this.renderer = h("select", {}, ...[["auto", "the better one that is fast here"], ["diffusion", "diffusion"], ["light", "light: one pass"]].map(([value, text]) => h("option", { value }, text)));
    this.words = h("dt-file", { label: "Words, or none", accept: ".vtt,.srt,.align,.json", optional: true });
    this.fit = h("select", {}, ...[["trim", "the picture decides"], ["pad", "the last picture is held"], ["loop", "the footage is repeated"], ["pingpong", "the footage goes forth and back"]].map(([value, text]) => h("option", { value }, text)));
    const more = h("details", {}, h("summary", {}, "More choices"), h("div", { style: "padding-top: 12px" },
      field("Whose face", this.face), h("div", { class: "row", style: "margin-bottom: 12px" }, this.pick),
      h("label", { class: "check", style: "margin-bottom: 12px" }, this.any, "It may be somebody else's face"),
      field("Renderer", this.renderer), field("Where the sound is longer", this.fit), this.words,
      h("p", { class: "quiet" }, "When each word is said: WebVTT, SubRip, GRID's .align or JSON. The timeline shows them.")));
    return h("section", { class: "card", "aria-label": "What is dubbed" },
      h("div", { class: "row apart" }, h("h2", {}, "What is dubbed"), samples),
      this.video, this.audio, h("div", { style: "height: 8px" }), this.avatar, more,
      h("div", { class: "row", style: "margin-top: 16px" }, this.dub, this.look));
  }

  work() {
    this.view = choice("View", [["before", "Before"], ["after", "After"], ["both", "Side by side"]], () => this.arrange());
    this.marks = h("input", { type: "checkbox", onchange: () => this.mark() });
    this.marks.checked = true;
    this.views = h("div", { class: "views" }, this.before, this.after);
    const marks = h("label", { class: "check" }, this.marks, "Show landmarks, crop and mask");
    return h("div", { class: "stack" },
      h("section", { class: "card stack", "aria-label": "Pictures" },
        h("div", { class: "row apart" }, this.view, marks), this.views, this.bar, this.saved),
      this.timeline);
  }

  arrange() {
    const { value } = this.view;
    this.before.hidden = value === "after";
    this.after.hidden = value === "before";
    this.views.classList.toggle("two", value === "both");
    this.mark();
  }

  mark() {
    this.before.drawn = this.marks.checked;
    this.after.drawn = this.marks.checked && this.view.value !== "both";
  }

  async samples() {
    await Promise.all([this.video.take("sample-footage"), this.audio.take("sample-speech")]);
    this.changed(this.video);
  }

  changed(source) {
    if (source === this.timeline) return this.name();
    const parts = [this.video, this.audio, this.words, this.face, this.any];
    const isOther = source === this.avatar && this.job && this.avatar.value !== this.job.request.avatar;
    if (!parts.includes(source) && !isOther) return;
    this.track = this.last = null;
    this.timeline.show(null);
    this.before.timeline = this.after.timeline = null;
    this.after.show(null);
    this.saved.replaceChildren();
    const shown = this.video.value && api.content(this.video.value.id);
    if (this.before.url !== shown) this.before.show(shown);
    this.view.set("before");
    this.name();
  }

  name() {
    this.dub.textContent = this.last && this.timeline.hasChanges ? "Repaint what changed" : "Dub";
  }

  choose() {
    if (!this.video.value) return say("Choose footage first.", true);
    this.view.set("before");
    say("Click on the face in the picture.");
    this.before.choose(async (picture) => {
      const sent = await tried(() => api.upload(picture, "face.png"));
      if (!sent) return;
      const value = `upload:${sent.id}`;
      this.face.append(h("option", { value }, "the face that was clicked on"));
      this.face.value = value;
      say("This face will be followed.");
    });
  }

  common() {
    if (!this.video.value || !this.audio.value) {
      say("Choose footage and speech first.", true);
      return null;
    }
    return {
      avatar: this.avatar.value, video: this.video.value.id, audio: this.audio.value.id,
      words: this.words.value?.id ?? null,
      face: this.face.value, any_face: this.any.checked, label: this.video.value.name,
    };
  }

  async preview() {
    const common = this.common();
    if (common) await this.run({ kind: "landmarks", ...common });
  }

  async begin() {
    const common = this.common();
    if (!common) return;
    const request = { kind: "dub", ...common, renderer: this.renderer.value, fit: this.fit.value, keep_work: true };
    if (this.track && request.fit === "trim") {
      Object.assign(request, { landmarks: this.track, face: "avatar", edits: this.timeline.edits, opening: this.timeline.opening });
      if (this.last) request.base = this.last;
    }
    await this.run(request);
  }

  async run(request) {
    const job = await tried(() => api.job(request));
    if (!job) return;
    history.replaceState(null, "", `#dub/${job.id}`);
    this.see(job);
  }

  // Another job is asked for by the address of the page.
  go(id) {
    if (id && id !== this.job?.id) this.open(id);
  }

  // Go on with a job: after a reload, or from the list.
  async open(id) {
    const job = await tried(() => api.get(`/v1/jobs/${id}`));
    if (!job || !["dub", "landmarks"].includes(job.kind)) return;
    const { request } = job;
    const words = request.words ? this.words.take(request.words) : null;
    await Promise.all([this.video.take(request.video), this.audio.take(request.audio), this.avatar.take(request.avatar), words]);
    if (![...this.face.options].some((one) => one.value === request.face)) this.face.append(h("option", { value: request.face }, "the face that was clicked on"));
    this.face.value = request.face;
    this.any.checked = request.any_face;
    this.changed(this.video);
    this.track = request.landmarks ?? null;
    this.see(job);
  }

  see(job) {
    this.quit?.();
    this.quit = api.follow(job.id, (seen) => {
      this.job = seen;
      this.bar.show(seen);
      this.dub.disabled = this.look.disabled = api.active(seen);
      if (seen.state === "succeeded") this.finish(seen);
    });
  }

  async finish(job) {
    const record = job.files.includes("timeline.json")
      ? await tried(() => api.get(api.result(job.id, "timeline.json"))) : null;
    // Later edits start from the track as it is shown, so the curve is what the mouth does.
    if (record) this.track = job.id;
    this.timeline.show(record, api.content(job.request.audio));
    this.before.timeline = this.after.timeline = record;
    if (job.kind === "dub") {
      this.last = job.id;
      this.after.show(api.result(job.id, "video.mp4"));
      this.view.set("after");
      this.after.video.play().catch(() => {});
    } else this.view.set("before");
    const names = { "video.mp4": "Download the video", "preview.mp4": "Download the preview", "track.npz": "Landmarks", "report.json": "Report" };
    this.saved.replaceChildren(...job.files.filter((name) => names[name]).map((name) => h("a", { href: api.result(job.id, name), download: name }, names[name])));
    if (job.kind === "dub") this.saved.append(checker(() => job.id));
    this.name();
  }

  follow(video) {
    this.timeline.time = video.currentTime;
    const other = video === this.after.video ? this.before.video : null;
    if (other && this.view.value === "both" && Math.abs(other.currentTime - video.currentTime) > 0.1) other.currentTime = video.currentTime;
  }

  seek(seconds) {
    for (const one of [this.before, this.after]) if (one.url) one.video.currentTime = seconds;
  }
}
customElements.define("dt-dub", DubPage);
