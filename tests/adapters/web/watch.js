// Tells the test what the page shows, once it has opened a file, refused one, or cannot go on.

/** @param {string} id */
const text = (id) => document.getElementById(id)?.innerText ?? "";
const idle = new URLSearchParams(location.search).has("file") ? ["done", "error"] : ["ready", "error"];

while (!idle.includes(document.documentElement.dataset.state ?? "")) await new Promise((wake) => setTimeout(wake, 50));
const shown = Object.fromEntries(["status", "error", "facts", "checks", "about", "examples"].map((id) => [id, text(id)]));
/** @param {string} id */
const pixels = (id) => {
  const canvas = /** @type {HTMLCanvasElement} */ (document.getElementById(id));
  const small = canvas.width * canvas.height <= 10000;
  return small ? [...(canvas.getContext("2d")?.getImageData(0, 0, canvas.width, canvas.height).data ?? [])] : [];
};
const canvas = { human: pixels("human"), machine: pixels("machine") };
const state = document.documentElement.dataset.state;
await fetch("answer", { method: "POST", body: JSON.stringify({ state, isolated: crossOriginIsolated, canvas, ...shown }) });
