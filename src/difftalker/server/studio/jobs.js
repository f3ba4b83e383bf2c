// All jobs of the user: how far they are, what they made, and why they failed.

import * as api from "./api.js";
import { checker, h, standing, tried } from "./page.js";

const EVERY_MS = 2000;
const PAGES = { dub: "dub", landmarks: "dub", train: "train", evaluate: "train" };
const MAIN = { dub: "video.mp4", talk: "video.mp4", landmarks: "preview.mp4", evaluate: "report/report.html" };

class JobsPage extends HTMLElement {
  connectedCallback() {
    if (this.firstChild) return;
    this.rows = h("tbody");
    const heads = ["Job", "Made", "State", "Actions"].map((text) => h("th", { scope: "col", class: text === "Actions" ? "actions" : null }, text));
    this.append(h("section", { class: "card" }, h("h2", {}, "Jobs"),
      h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "List of jobs" }, h("table", {}, h("thead", {}, h("tr", {}, ...heads)), this.rows))));
    const video = h("dt-file", { label: "A video", accept: "video/*" });
    this.append(h("section", { class: "card", style: "margin-top: 24px" }, h("h2", {}, "Was it generated, and by whom?"), video, checker(() => video.value?.id)));
    this.timer = setInterval(() => document.hidden || this.load(), EVERY_MS);
    this.load();
  }

  disconnectedCallback() {
    clearInterval(this.timer);
  }

  async load() {
    const jobs = await tried(() => api.get("/v1/jobs?limit=100"));
    if (!jobs) return;
    const text = JSON.stringify(jobs);
    if (text === this.text) return;
    this.text = text;
    if (jobs.length) this.rows.replaceChildren(...jobs.map((job) => this.row(job)));
    else this.rows.replaceChildren(h("tr", {}, h("td", { colspan: "4", class: "quiet" }, "No jobs yet.")));
  }

  row(job) {
    const name = `${job.kind}${job.request.label ? `: ${job.request.label}` : ""}`;
    const title = PAGES[job.kind] ? h("a", { href: `#${PAGES[job.kind]}/${job.id}` }, name) : h("span", {}, name);
    const state = h("td", { class: `state ${job.state}` }, standing(job));
    const { done, total } = job.progress ?? {};
    if (job.state === "running" && total) state.append(h("progress", { max: String(total), value: String(done), "aria-label": name }));
    const actions = h("td", { class: "actions" });
    const main = MAIN[job.kind];
    if (job.files.includes(main)) actions.append(h("a", { href: api.result(job.id, main), download: main.endsWith(".mp4") ? main : null, target: main.endsWith(".html") ? "_blank" : null }, main.endsWith(".html") ? "Report" : "Download"), " ");
    const act = api.active(job) ? "Cancel" : "Delete";
    actions.append(h("button", { class: "plain", type: "button", "aria-label": `${act} ${name}`, onclick: async () => {
      await tried(() => api.remove(`/v1/jobs/${job.id}`));
      this.load();
    } }, act));
    return h("tr", {}, h("td", {}, title), h("td", { class: "quiet" }, new Date(job.made_at).toLocaleString()), state, actions);
  }
}
customElements.define("dt-jobs", JobsPage);
