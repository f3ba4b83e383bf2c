// Small helpers that all parts of the page share.

import { active, verify } from "./api.js";

// An element: h("button", {class: "main", onclick}, "Dub").
export function h(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (typeof value === "boolean") made.toggleAttribute(key, value);
    else if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

let goes;
export function say(text, isWrong = false) {
  clearTimeout(goes);
  const place = document.getElementById("says");
  place.replaceChildren(h("div", { class: isWrong ? "wrong" : "" }, text));
  goes = setTimeout(() => place.replaceChildren(), isWrong ? 12000 : 4000);
}

// What went wrong, in its parts: what was found, what was wanted, what to do.
export function told(error) {
  const parts = [`${error.found || error.message}.`];
  if (error.wanted) parts.push(`Wanted: ${error.wanted}.`);
  if (error.fix) parts.push(`To do: ${error.fix}.`);
  return parts.join(" ");
}

// Run something that may be refused, and say why.
export async function tried(work) {
  try {
    return await work();
  } catch (error) {
    say(told(error), true);
    return undefined;
  }
}

export function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

const STAGES = {
  locate: "finding the face", complete: "completing landmarks", render: "rendering",
  preview: "drawing the preview", prepare: "preparing footage", evaluate: "measuring",
};

// How far a job is, in words.
export function standing(job) {
  if (job.state === "queued") return "waiting";
  if (job.state === "failed") return `failed: ${told(job.error)}`;
  if (job.state === "succeeded") return "done";
  if (job.state !== "running") return job.state;
  if (!job.progress) return "starting";
  const { stage, done, total, remaining_s: left } = job.progress;
  const rest = left === null ? "" : `, about ${duration(left)} left`;
  return `${STAGES[stage] ?? stage} ${done} of ${total}${rest}`;
}

// A progress bar for a job, whose `show` is called when it changes.
export function bar(cancel) {
  const line = h("span", { class: "quiet" });
  const meter = h("progress", { max: "1", "aria-label": "Progress of the job" });
  const stop = h("button", { class: "plain", type: "button", onclick: cancel }, "Cancel");
  const made = h("div", { class: "bar", hidden: true }, h("div", { class: "row apart" }, line, stop), meter);
  made.show = (job) => {
    made.hidden = !job;
    if (!job) return;
    line.textContent = standing(job);
    line.classList.toggle("wrong", job.state === "failed");
    meter.hidden = stop.hidden = !active(job);
    const { done, total } = job.progress ?? {};
    if (job.state === "running" && total) meter.value = done / total;
    else meter.removeAttribute("value");
  };
  return made;
}

// A button that reads the marks of a video, and says what they say.
export function checker(file) {
  const answer = h("span", { class: "quiet", role: "status" });
  const ask = h("button", { type: "button", onclick: async () => {
    const id = file();
    if (!id) return say("Choose a video first.", true);
    ask.disabled = true;
    const found = await tried(() => verify(id));
    ask.disabled = false;
    if (found) answer.textContent = `${found.verdict}: ${found.text}`;
    return undefined;
  } }, "Read its marks");
  return h("span", { class: "row" }, ask, answer);
}

export function field(text, control, hint = "") {
  const made = h("label", { class: "field" }, h("span", {}, text), control);
  if (hint) made.append(h("span", { class: "quiet" }, hint));
  return made;
}

export function options(select, pairs) {
  const kept = select.value;
  select.replaceChildren(...pairs.map(([value, text]) => h("option", { value }, text)));
  if (pairs.some(([value]) => value === kept)) select.value = kept;
}

// A choice of one of several, as buttons that are pressed or not.
export function choice(label, pairs, changed) {
  const buttons = new Map();
  const made = h("div", { class: "choice", role: "group", "aria-label": label });
  for (const [value, text] of pairs) {
    const one = h("button", { type: "button", onclick: () => made.set(value) }, text);
    buttons.set(value, one);
    made.append(one);
  }
  made.set = (value, quietly = false) => {
    made.value = value;
    for (const [key, one] of buttons) one.setAttribute("aria-pressed", String(key === value));
    if (!quietly) changed(value);
  };
  made.set(pairs[0][0], true);
  return made;
}
