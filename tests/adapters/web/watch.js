// Tells the test what the page shows, once it has opened a file, refused one, or cannot go on.

/** @param {string} id */
const text = (id) => document.getElementById(id)?.innerText ?? "";
const idle = new URLSearchParams(location.search).has("file") ? ["done", "error"] : ["ready", "error"];

while (!idle.includes(document.documentElement.dataset.state ?? "")) await new Promise((wake) => setTimeout(wake, 50));
const shown = Object.fromEntries(["status", "error", "facts", "checks", "about", "examples"].map((id) => [id, text(id)]));
const state = document.documentElement.dataset.state;
await fetch("answer", { method: "POST", body: JSON.stringify({ state, isolated: crossOriginIsolated, ...shown }) });
