// The page: which part is shown, and the token where one is needed.

import { get, post } from "./api.js";
import { field, h, say, told } from "./page.js";
import "./inputs.js";
import "./timeline.js";
import "./screen.js";
import "./dub.js";
import "./live.js";
import "./train.js";
import "./jobs.js";

const PARTS = { dub: "dt-dub", live: "dt-live", train: "dt-train", jobs: "dt-jobs" };
const main = document.getElementById("main");
let about;

function show() {
  const [name, id] = location.hash.slice(1).split("/");
  const chosen = PARTS[name] ? name : "dub";
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${chosen}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const there = main.firstElementChild;
  if (there?.localName === PARTS[chosen] && there.go) there.go(id);
  else {
    const part = document.createElement(PARTS[chosen]);
    Object.assign(part, { about, wanted: id });
    main.replaceChildren(part);
  }
}

// Ask for a token, once: the browser keeps it in a cookie that no script reads.
function ask() {
  const token = h("input", { type: "password", autocomplete: "current-password", required: true });
  const form = h(
    "form",
    { class: "card", style: "max-width: 420px; margin: 48px auto" },
    h("h2", {}, "This server wants a token"),
    field("Token", token, "Its owner makes one with: difftalker serve --new-token NAME"),
    h("button", { class: "main" }, "Go on"),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await post("/v1/session", { token: token.value.trim() });
      begin();
    } catch (error) {
      say(told(error), true);
    }
  });
  main.replaceChildren(form);
  token.focus();
}

async function begin() {
  try {
    about = await get("/v1");
  } catch (error) {
    if (error.status === 401) ask();
    else say(told(error), true);
    return;
  }
  show();
}

window.addEventListener("hashchange", () => about && show());
begin();
