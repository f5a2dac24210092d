// The decoder in a worker, so that the page stays responsive. One question is answered after the other.

import { qualityOf } from "./between.js";
import { Codec } from "./codec.js";
import { BackendError, plain } from "./errors.js";

/** @type {Promise<Codec> | null} */
let opening = null;
/** @type {import("./codec.js").Decoded | null} */
let decoded = null;

/** @type {Record<string, (question: any) => Promise<any>>} */
const ANSWERS = {
  /** @param {{base: string, threads: number}} question */
  async open({ base, threads }) {
    opening = Codec.open(new URL(base), threads);
    const { bundle, exact, site } = await opening;
    const { architecture, codec_id: id, conditions, qualities } = bundle.manifest;
    const { vectors, reference } = exact;
    return { architecture, id, conditions, qualities, vectors, reference, threads, version: site.onnxruntime.version };
  },

  /** @param {{data: ArrayBuffer, name: string}} question */
  async read({ data, name }) {
    const codec = await opened();
    decoded = null;
    decoded = await codec.read(new Uint8Array(data), name);
    const { stream, checksum, milliseconds } = decoded;
    const { width, height, codecId, version } = stream;
    const quality = qualityOf(stream.quality, codec.bundle.manifest.qualities);
    const sections = stream.sections.map(({ type, data: { length } }) => ({ type, length }));
    return { width, height, quality, codecId, version, checksum, sections, substreams: stream.y.length, milliseconds };
  },

  /** @param {{beta: number | null}} question */
  async picture({ beta }) {
    const codec = await opened();
    if (!decoded) throw new Error("no file is decoded");
    return codec.picture(decoded, beta);
  },
};

async function opened() {
  if (!opening) throw new BackendError("the decoder is not loaded");
  return opening;
}

let before = Promise.resolve();
addEventListener("message", ({ data: { number, kind, question } }) => {
  before = before.then(async () => {
    try {
      const answer = await ANSWERS[kind](question);
      const moved = answer.data instanceof Uint8ClampedArray ? [answer.data.buffer] : [];
      postMessage({ number, answer }, { transfer: moved });
    } catch (error) {
      postMessage({ number, error: plain(error) });
    }
  });
});
