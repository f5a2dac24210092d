// Decodes what jobs.json names with the modules of the page, and sends what came out to the test.
// The page has loaded when the test has its answer: until then the server keeps the picture of harness.html waiting.

import { Codec } from "./codec.js";
import { plain } from "./errors.js";

/** @param {Uint8ClampedArray} bytes */
function base64(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 4096) text += String.fromCharCode(...bytes.subarray(i, i + 4096));
  return btoa(text);
}

const { threads, jobs } = await (await fetch("jobs.json")).json();
const answer = { isolated: crossOriginIsolated, results: [] };
try {
  const codec = await Codec.open(new URL(".", location.href), threads);
  answer.vectors = codec.exact.vectors;
  answer.reference = codec.exact.reference;
  answer.threads = codec.runtime.ort.env.wasm.numThreads;
  for (const { name, betas, times = 1 } of jobs) {
    const data = new Uint8Array(await (await fetch(`jobs/${name}`)).arrayBuffer());
    const result = { name, pictures: {}, milliseconds: [] };
    try {
      for (let i = 0; i < times; i++) {
        const started = performance.now();
        const decoded = await codec.read(data, name);
        result.checksum = decoded.checksum;
        for (const beta of betas) {
          const picture = await codec.picture(decoded, beta);
          if (times === 1) result.pictures[beta] = base64(picture.data);
        }
        result.milliseconds.push({ all: performance.now() - started, ...decoded.milliseconds });
      }
    } catch (error) {
      result.error = plain(error);
    }
    answer.results.push(result);
  }
} catch (error) {
  answer.error = plain(error);
}
await fetch("answer", { method: "POST", body: JSON.stringify(answer) });
