// The page: a file comes in, two views come out, and what was checked on the way is shown.

import { OPACITY } from "./additions.js";
import { Decoder, threadsFor } from "./decoder.js";
import { Dial } from "./dial.js";
import { Compare } from "./compare.js";
import { checks, facts, times } from "./panel.js";

/** @typedef {import("./decoder.js").About} About */
/** @typedef {import("./decoder.js").Facts} Facts */

const base = new URL(".", document.baseURI);
const asked = new URLSearchParams(location.search);

/**
 * @template {HTMLElement} T
 * @param {string} id
 * @returns {T}
 */
function part(id) {
  return /** @type {T} */ (document.getElementById(id));
}

/** @param {"loading" | "ready" | "busy" | "done" | "error"} state what tests and style sheets read */
function become(state) {
  document.documentElement.dataset.state = state;
  part("busy").hidden = state !== "busy";
}

/** @param {unknown} error */
function refuse(error) {
  const { name, message } = error instanceof Error ? error : new Error(String(error));
  const [kind, words] = part("error").children;
  kind.textContent = name;
  words.textContent = message;
  part("error").hidden = false;
  become("error");
}

const decoder = new Decoder(base);
const compare = new Compare(part("views"), part("stage"));
const threads = threadsFor(asked.get("threads"));
/** @type {Promise<About>} */
const about = decoder.open(threads);

let reading = 0; // which file is the last one asked for
let shown = 0; // files so far
let turning = false; // whether a picture is on its way to the right-hand side
/** @type {number | null} */
let wanted = null; // the newest preference that has not been drawn

const dial = new Dial(part("dial"), (beta) => {
  wanted = beta;
  if (!turning) turn();
});

/** Draws the right-hand view until it shows the preference that was asked for last. */
async function turn() {
  turning = true;
  const file = reading;
  try {
    while (wanted !== null && file === reading) {
      const beta = wanted;
      wanted = null;
      become("busy");
      compare.right(await decoder.picture(beta), beta);
    }
    if (file === reading) become("done");
  } catch (error) {
    refuse(error);
  }
  turning = false;
}

/**
 * @param {ArrayBuffer} data
 * @param {string} name
 */
async function open(data, name) {
  const mine = ++reading;
  const size = data.byteLength;
  wanted = null;
  part("error").hidden = true;
  become("busy");
  try {
    const { conditions } = await about;
    const file = await decoder.read(data, name);
    const betas = Object.values(conditions);
    const first = await decoder.picture(betas.length ? Math.min(...betas) : null);
    const started = performance.now();
    const second = betas.length ? await decoder.picture(dial.beta) : null;
    const took = second ? performance.now() - started : first.milliseconds;
    if (mine !== reading) return; // another file was dropped meanwhile
    compare.show(first, second, dial.beta);
    part("views").classList.toggle("transparent", file.sections.some(({ type }) => type === OPACITY));
    part("welcome").hidden = true;
    part("stage").classList.remove("empty");
    part("panel").hidden = false;
    part("name").textContent = name;
    part("name").title = name;
    facts(part("facts"), file, size);
    checks(part("checks"), file, await about);
    times(part("bar"), part("times"), file, took, threads);
    part("first").hidden = shown++ > 0;
    document.title = `${name} · ugicm`;
    become("done");
  } catch (error) {
    if (mine === reading) refuse(error);
  }
}

/** @param {File | undefined} file */
async function openFile(file) {
  if (file) await open(await file.arrayBuffer(), file.name);
}

/** @param {string} address relative to the page */
async function openAddress(address) {
  try {
    const url = new URL(address, document.baseURI);
    const name = decodeURIComponent(url.pathname.split("/").at(-1) ?? address);
    if (url.origin !== location.origin) {
      throw new Error(`${url.href}: is on another server; this page asks its own alone: download the file and drop it here`);
    }
    const response = await fetch(url);
    if (!response.ok) throw new Error(`${name}: no such file here (status ${response.status}); check the name`);
    await open(await response.arrayBuffer(), name);
  } catch (error) {
    refuse(error);
  }
}

for (const id of ["choose", "another"]) {
  const input = /** @type {HTMLInputElement} */ (part(id));
  input.addEventListener("change", () => {
    openFile(input.files?.[0]);
    input.value = "";
  });
}
for (const kind of ["dragenter", "dragover"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.add("dragging");
  });
}
addEventListener("dragleave", (event) => !event.relatedTarget && document.body.classList.remove("dragging"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  openFile(event.dataTransfer?.files[0]);
});
part("save").addEventListener("click", () => compare.save(part("name").textContent ?? "picture"));
part("differ").addEventListener("click", () => {
  part("differ").setAttribute("aria-pressed", String(compare.toggleDifference()));
});

/** What the site itself offers. */
async function offer() {
  const { examples } = /** @type {import("./codec.js").Site} */ (await (await fetch(new URL("site.json", base))).json());
  for (const address of examples) {
    const link = document.createElement("a");
    link.href = `?file=${encodeURIComponent(address)}`;
    link.textContent = decodeURIComponent(address.split("/").at(-1) ?? address);
    part("examples").append(link, " ");
  }
  part("examples").hidden = !examples.length;
}

part("stage").classList.add("empty");
const status = part("status");
if (asked.has("beta")) dial.show(Number(asked.get("beta")));
if (asked.has("file")) openAddress(asked.get("file") ?? "");
offer().catch(() => {});
try {
  const { architecture, id, conditions, version, reference } = await about;
  status.textContent = `Decoder ready, ${threads === 1 ? "one thread" : `${threads} threads`}`;
  status.classList.add("ready");
  part("about").textContent =
    `${architecture} ${id} on onnxruntime-web ${version}, WebAssembly${reference ? "; integers on the reference" : ""}`;
  const single = !Object.keys(conditions).length;
  part("panel").querySelector(".preference")?.toggleAttribute("hidden", single);
  part("differ").hidden = single;
  if (document.documentElement.dataset.state === "loading") become("ready");
} catch (error) {
  status.textContent = "The decoder cannot be loaded";
  status.classList.add("failed");
  refuse(error);
}
