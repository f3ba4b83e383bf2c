// The public API, and nothing else: what a page may do, any program may.

export class Refused extends Error {
  constructor(status, error) {
    super(error.message);
    Object.assign(this, { status, ...error });
  }
}

async function answer(response) {
  if (response.ok) return response;
  let error = { message: `the server answers ${response.status}`, found: "", wanted: "", fix: "" };
  try {
    error = (await response.json()).error;
  } catch {
    // no JSON: something between us and the server answered
  }
  throw new Refused(response.status, error);
}

async function call(path, options = {}) {
  return answer(await fetch(path, options));
}

export async function get(path) {
  return (await call(path)).json();
}

export async function post(path, body) {
  const headers = { "content-type": "application/json" };
  const response = await call(path, { method: "POST", headers, body: JSON.stringify(body) });
  return response.status === 204 ? null : response.json();
}

export async function remove(path) {
  await call(path, { method: "DELETE" });
}

// Send a file; `progress` is told the share that has gone.
export function upload(file, name, progress = () => {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `/v1/uploads?name=${encodeURIComponent(name.slice(-255))}`);
    request.upload.onprogress = (e) => e.lengthComputable && progress(e.loaded / e.total);
    request.onerror = () => reject(new Error("the upload broke off"));
    request.onload = () => {
      let told = {};
      try {
        told = JSON.parse(request.responseText);
      } catch {
        told = { error: { message: `the server answers ${request.status}` } };
      }
      if (request.status === 201) resolve(told);
      else reject(new Refused(request.status, told.error));
    };
    request.send(file);
  });
}

export const content = (id) => `/v1/uploads/${id}/content`;
export const result = (id, name) => `/v1/jobs/${id}/files/${name}`;

export async function job(request) {
  return post("/v1/jobs", request);
}

// Follow a job until it has ended; returns a function that stops following.
export function follow(id, changed) {
  const source = new EventSource(`/v1/jobs/${id}/events`);
  source.addEventListener("job", (event) => {
    const seen = JSON.parse(event.data);
    if (!active(seen)) source.close();
    changed(seen);
  });
  return () => source.close();
}

export const active = (job) => job.state === "queued" || job.state === "running";

export const verify = (file) => post("/v1/verify", { file });

export async function speak(text) {
  const headers = { "content-type": "application/json" };
  const body = JSON.stringify({ input: text, response_format: "wav" });
  return (await call("/v1/audio/speech", { method: "POST", headers, body })).blob();
}
