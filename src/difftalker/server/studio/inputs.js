// What a job is made of: a file to drop, speech to type or record, an avatar to choose.

import { get, speak, upload } from "./api.js";
import { field, h, options, say, tried } from "./page.js";

// A place for one file, or several. Fires "change"; `value` is an upload, `values` all of them.
class FileInput extends HTMLElement {
  values = [];

  connectedCallback() {
    if (this.firstChild) return;
    this.label = this.getAttribute("label");
    this.many = this.hasAttribute("many");
    this.chooser = h("input", {
      type: "file", accept: this.getAttribute("accept"), multiple: this.many, hidden: true,
      onchange: () => this.send([...this.chooser.files]),
    });
    const asks = this.many ? "Choose files" : "Choose a file";
    const opener = h("button", { type: "button", "aria-label": `${asks}: ${this.label}`, onclick: () => this.chooser.click() }, asks);
    this.none = h("button", { class: "plain", type: "button", hidden: true, "aria-label": `Remove: ${this.label}`, onclick: () => this.clear() }, "Remove");
    this.name = h("span", { class: "quiet" }, "Drop a file here, or choose one.");
    this.meter = h("progress", { max: "1", hidden: true, "aria-label": `Upload of ${this.label}` });
    this.more = h("div", { class: "row" }, opener, this.none);
    this.box = h("div", { class: "drop" }, h("strong", {}, this.label), this.name, this.meter, this.chooser, this.more);
    this.append(this.box);
    for (const kind of ["dragover", "dragleave", "drop"]) {
      this.box.addEventListener(kind, (event) => {
        event.preventDefault();
        this.box.classList.toggle("over", kind === "dragover");
        if (kind === "drop") this.send([...event.dataTransfer.files]);
      });
    }
  }

  get value() {
    return this.values[0] ?? null;
  }

  async send(files) {
    const taken = this.many ? files : files.slice(0, 1);
    if (!this.many) this.values = [];
    for (const file of taken) {
      this.meter.hidden = false;
      const sent = await tried(() => upload(file, file.name || "file", (share) => (this.meter.value = share)));
      this.meter.hidden = true;
      if (sent) this.values.push(sent);
    }
    this.chooser.value = "";
    this.changed();
  }

  // Take an upload that there is already, by its name.
  async take(id) {
    const known = await tried(() => get(`/v1/uploads/${id}`));
    if (!known) return;
    this.values = [known];
    this.changed(true);
  }

  clear() {
    this.values = [];
    this.changed();
  }

  changed(quietly = false) {
    const names = this.values.map((one) => one.name).join(", ");
    this.name.textContent = names || "Drop a file here, or choose one.";
    this.name.className = names ? "name" : "quiet";
    this.none.hidden = !names || !this.hasAttribute("optional");
    if (!quietly) this.dispatchEvent(new Event("change", { bubbles: true }));
  }
}
customElements.define("dt-file", FileInput);

// Speech: a file, a typed text that the server's voice says, or a recording.
class SpeechInput extends FileInput {
  connectedCallback() {
    if (this.firstChild) return;
    super.connectedCallback();
    this.record = h("button", { type: "button", onclick: () => this.toggle() }, "Record");
    this.more.append(this.record);
    if (!this.hasAttribute("voice")) return;
    this.text = h("textarea", { maxlength: "4096", "aria-label": "Text to be spoken", placeholder: "Or type what is to be said" });
    this.sayer = h("button", { type: "button", onclick: () => this.say() }, "Speak the text");
    this.more.before(this.text);
    this.more.append(this.sayer);
  }

  async say() {
    const text = this.text.value.trim();
    if (!text) return say("Type a text first.", true);
    this.sayer.disabled = true;
    const sound = await tried(() => speak(text));
    this.sayer.disabled = false;
    if (sound) await this.send([new File([sound], `${text.slice(0, 40).replace(/\W+$/, "") || "text"}.wav`)]);
  }

  async toggle() {
    if (this.recorder) return this.recorder.stop();
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
      const parts = [];
      this.recorder = new MediaRecorder(stream);
      this.recorder.ondataavailable = (event) => parts.push(event.data);
      this.recorder.onstop = () => {
        for (const track of stream.getTracks()) track.stop();
        this.recorder = null;
        this.record.textContent = "Record";
        this.send([new File(parts, "recording.webm")]);
      };
      this.recorder.start();
      this.record.textContent = "Stop the recording";
    } catch (error) {
      say(`There is no microphone: ${error.message}`, true);
    }
  }
}
customElements.define("dt-speech", SpeechInput);

// Which avatar, with who agreed to it.
class AvatarInput extends HTMLElement {
  connectedCallback() {
    if (this.firstChild) return;
    this.select = h("select", { onchange: () => this.tell() });
    this.consent = h("p", { class: "quiet" });
    this.append(field("Avatar", this.select), this.consent);
    this.ready = this.load();
  }

  async load() {
    this.avatars = (await tried(() => get("/v1/avatars"))) ?? [];
    if (this.hasAttribute("live")) this.avatars = this.avatars.filter((one) => one.live);
    options(this.select, this.avatars.map((one) => [one.id, one.name]));
    this.tell();
  }

  tell() {
    const chosen = this.avatars.find((one) => one.id === this.value);
    this.consent.textContent = chosen ? `Consent: ${chosen.consent}` : "";
    this.dispatchEvent(new Event("change", { bubbles: true }));
  }

  get value() {
    return this.select.value;
  }

  async take(id) {
    await this.ready;
    this.select.value = id;
    this.tell();
  }
}
customElements.define("dt-avatar", AvatarInput);
