// An avatar from footage: who agreed, how far training is, its sheets and what was held out.

import * as api from "./api.js";
import { bar, field, h, options, say, tried } from "./page.js";

const PRESETS = [["tiny", "tiny: a CPU"], ["half", "half: small, for comparisons"], ["base", "base: one GPU"], ["paper", "paper: the paper's own training"], ["debug", "debug: tests, in seconds"]];

class TrainPage extends HTMLElement {
  connectedCallback() {
    if (this.firstChild) return;
    this.footage = h("dt-file", { label: "Footage of one person", accept: "video/*,.mkv,.mpg", many: true });
    this.called = h("input", { maxlength: "100", autocomplete: "off" });
    this.consent = h("textarea", { maxlength: "2000", required: true });
    this.source = h("input", { maxlength: "2000", autocomplete: "off" });
    this.preset = h("select");
    options(this.preset, PRESETS);
    this.bar = bar(() => this.job && tried(() => api.remove(`/v1/jobs/${this.job.id}`)));
    this.sheets = h("div", { class: "sheets" });
    this.report = h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Held-out report" });
    this.people = h("div", { class: "stack" });
    this.append(h("div", { class: "columns" }, this.form(), h("div", { class: "stack" },
      h("section", { class: "card stack", "aria-label": "Training" }, h("h2", {}, "Training"),
        (this.hint = h("p", { class: "quiet" }, "Start a training, or choose one under Jobs.")), this.bar, this.report, this.sheets),
      h("section", { class: "card", "aria-label": "Avatars" }, h("h2", {}, "Avatars"), this.people))));
    this.list();
    if (this.wanted) this.go(this.wanted);
  }

  disconnectedCallback() {
    this.quit?.();
  }

  form() {
    const start = h("button", { class: "main", type: "button", onclick: () => this.begin() }, "Train");
    const measure = h("button", { type: "button", onclick: () => this.measure() }, "Measure an avatar on it");
    this.avatar = h("dt-avatar");
    return h("section", { class: "card", "aria-label": "A new avatar" }, h("h2", {}, "A new avatar"),
      this.footage, h("div", { style: "height: 8px" }), field("Name", this.called),
      field("Consent", this.consent, "Who agreed to this avatar, and how. It stands on the avatar's card."),
      field("Source of the footage", this.source), field("Preset", this.preset),
      h("div", { class: "row", style: "margin-bottom: 16px" }, start),
      h("details", {}, h("summary", {}, "Measure an avatar on this footage"), h("div", { style: "padding-top: 12px" }, this.avatar, measure)));
  }

  ids() {
    if (!this.footage.values.length) say("Choose footage first.", true);
    return this.footage.values.map((one) => one.id);
  }

  async begin() {
    const footage = this.ids();
    if (!footage.length) return;
    if (!this.consent.value.trim()) {
      say("Say who agreed to this avatar, and how.", true);
      this.consent.focus();
      return;
    }
    await this.run({ kind: "train", footage, consent: this.consent.value, name: this.called.value, source: this.source.value, preset: this.preset.value, label: this.called.value });
  }

  async measure() {
    const footage = this.ids();
    if (footage.length) await this.run({ kind: "evaluate", footage, avatar: this.avatar.value });
  }

  async run(request) {
    const job = await tried(() => api.job(request));
    if (!job) return;
    history.replaceState(null, "", `#train/${job.id}`);
    this.see(job);
  }

  async go(id) {
    if (!id || id === this.job?.id) return;
    const job = await tried(() => api.get(`/v1/jobs/${id}`));
    if (job) this.see(job);
  }

  see(job) {
    this.quit?.();
    this.hint.hidden = true;
    this.quit = api.follow(job.id, (seen) => {
      this.job = seen;
      this.bar.show(seen);
      this.pictures(seen);
      if (seen.state === "succeeded") this.finish(seen);
    });
  }

  pictures(job) {
    // The newest sheet of each stage, and all pictures of the report.
    const sheets = job.files.filter((name) => name.endsWith(".png"));
    const stage = (name) => (name.includes("/sheet-") ? name.slice(0, name.lastIndexOf("/")) : name);
    const names = [...new Map(sheets.map((name) => [stage(name), name])).values()];
    if (names.join() === this.shown && api.active(job)) return;
    this.shown = names.join();
    const fresh = api.active(job) ? `?${Date.now()}` : "";
    this.sheets.replaceChildren(...names.map((name) => h("figure", {},
      h("a", { href: api.result(job.id, name), target: "_blank" }, h("img", { src: `${api.result(job.id, name)}${fresh}`, alt: `Samples of ${name}`, loading: "lazy" })),
      h("figcaption", {}, name.split("/").slice(-2, -1)[0]))));
  }

  finish(job) {
    const rows = job.result.rows ?? job.result.held_out?.rows;
    const page = job.files.find((name) => name.endsWith(".html"));
    this.report.replaceChildren(...(rows ? [table(rows)] : []), ...(page ? [h("p", {}, h("a", { href: api.result(job.id, page), target: "_blank" }, "The whole report"))] : []));
    this.list();
  }

  async list() {
    const avatars = (await tried(() => api.get("/v1/avatars"))) ?? [];
    this.people.replaceChildren(...avatars.map((one) => {
      const name = h("strong", {}, one.name);
      const drop = one.origin === "trained" && h("button", { class: "plain", type: "button", "aria-label": `Delete the avatar ${one.name}`, onclick: async () => {
        await tried(() => api.remove(`/v1/avatars/${one.id}`));
        this.list();
      } }, "Delete");
      const card = h("pre", { class: "quiet", style: "white-space: pre-wrap; font: inherit" });
      const more = h("details", {}, h("summary", {}, "Card"), card);
      more.addEventListener("toggle", async () => {
        card.textContent ||= (await tried(() => api.get(`/v1/avatars/${one.id}`)))?.card ?? "";
      });
      return h("div", {}, h("div", { class: "row apart" }, name, drop || null), h("p", { class: "quiet" }, `Consent: ${one.consent}`), more);
    }));
  }
}
customElements.define("dt-train", TrainPage);

// Means of the measures, a row each, for every row of a report.
function table(rows) {
  const names = Object.keys(rows);
  const measures = [...new Set(names.flatMap((name) => Object.entries(rows[name]).filter(([, value]) => value && typeof value === "object" && "mean" in value).map(([key]) => key)))];
  const shown = (value) => (typeof value?.mean === "number" ? value.mean.toPrecision(3) : "");
  return h("table", {}, h("thead", {}, h("tr", {}, ...["measure", ...names].map((text) => h("th", { scope: "col" }, text.replaceAll("_", " "))))),
    h("tbody", {}, ...measures.map((key) => h("tr", {}, h("th", { scope: "row" }, key.replaceAll("_", " ")), ...names.map((name) => h("td", {}, shown(rows[name][key])))))));
}
