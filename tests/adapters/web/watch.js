// Tells the test what the page shows, once it has opened a file, refused one, or cannot go on.

/** @param {string} id */
const text = (id) => document.getElementById(id)?.innerText ?? "";
const idle = new URLSearchParams(location.search).has("file") ? ["done", "error"] : ["ready", "error"];

/** Until the page has nothing left to do. */
async function settled() {
  do await new Promise((wake) => setTimeout(wake, 50));
  while (!idle.includes(document.documentElement.dataset.state ?? ""));
}

await settled();
const dropped = new URLSearchParams(location.search).get("drop"); // a file that is dropped on the page afterwards
if (dropped) {
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([await (await fetch(dropped)).blob()], dropped.split("/").at(-1) ?? ""));
  dispatchEvent(new DragEvent("drop", { dataTransfer, cancelable: true }));
  await settled();
}
const turned = new URLSearchParams(location.search).get("turn"); // where the dial is turned then
if (turned) {
  const dial = /** @type {HTMLInputElement} */ (document.querySelector("#dial input"));
  dial.value = turned;
  dial.dispatchEvent(new Event("input"));
  await settled();
}
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
