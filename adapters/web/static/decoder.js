// The page's side of worker.js: questions out, answers back.

/**
 * @typedef {object} Facts of a decoded file
 * @property {number} width
 * @property {number} height
 * @property {number} quality
 * @property {string} codecId
 * @property {number} version
 * @property {number} checksum
 * @property {{type: number, length: number}[]} sections beside the symbols, bytes of each
 * @property {number} substreams
 * @property {Record<string, number>} milliseconds
 */
/**
 * @typedef {object} About the decoder
 * @property {string} architecture
 * @property {string} id
 * @property {Record<string, number>} conditions
 * @property {number} qualities
 * @property {number} vectors golden vectors that came out bit for bit
 * @property {boolean} reference
 * @property {number} threads
 * @property {string} version of onnxruntime-web
 */

/** An error of the worker's: `name` is its type in `ugicm.runtime.errors`. */
class Refusal extends Error {
  /** @param {{name: string, message: string}} error */
  constructor(error) {
    super(error.message);
    this.name = error.name;
  }
}

/** The decoder. */
export class Decoder {
  /** @param {URL} base where site.json and worker.js are */
  constructor(base) {
    // Started from a blob, the worker is under the page's content security policy: it too can only ask this site.
    const start = `import ${JSON.stringify(new URL("worker.js", base).href)};`;
    const address = URL.createObjectURL(new Blob([start], { type: "text/javascript" }));
    this.base = base;
    this.worker = new Worker(address, { type: "module" });
    /** @type {Map<number, {resolve: (answer: any) => void, reject: (error: Error) => void}>} */
    this.waiting = new Map();
    this.asked = 0;
    this.worker.addEventListener("message", ({ data: { number, answer, error } }) => {
      const { resolve, reject } = /** @type {any} */ (this.waiting.get(number));
      this.waiting.delete(number);
      if (error) reject(new Refusal(error));
      else resolve(answer);
    });
    this.worker.addEventListener("error", (event) => {
      const error = new Refusal({ name: "BackendError", message: `the decoder cannot be loaded: ${event.message ?? ""}` });
      for (const { reject } of this.waiting.values()) reject(error);
      this.waiting.clear();
    });
  }

  /**
   * @param {number} threads
   * @returns {Promise<About>}
   */
  open(threads) {
    return this.ask("open", { base: this.base.href, threads });
  }

  /**
   * @param {ArrayBuffer} data
   * @param {string} name
   * @returns {Promise<Facts>}
   */
  read(data, name) {
    return this.ask("read", { data, name });
  }

  /**
   * A picture of the file that was read last.
   * @param {number | null} beta
   * @returns {Promise<import("./codec.js").Picture>}
   */
  picture(beta) {
    return this.ask("picture", { beta });
  }

  /**
   * @param {string} kind
   * @param {object} question
   * @returns {Promise<any>}
   */
  ask(kind, question) {
    const number = this.asked++;
    return new Promise((resolve, reject) => {
      this.waiting.set(number, { resolve, reject });
      this.worker.postMessage({ number, kind, question });
    });
  }
}

/**
 * How many threads this page may use: one without the two headers.
 * @param {string | null} asked for in the address
 * @returns {number}
 */
export function threadsFor(asked) {
  if (!globalThis.crossOriginIsolated) return 1;
  return Math.max(1, Math.min(Number(asked) || navigator.hardwareConcurrency || 1, 16, asked ? 16 : 4));
}
