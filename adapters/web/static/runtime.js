// ONNX Runtime's WebAssembly build, fetched by address and digest, so that a copy in the site and one from elsewhere are
// the same bytes or are refused.

import { BackendError, NO_MEMORY } from "./errors.js";

/**
 * The two files of onnxruntime-web that are used: the module with its glue code, and the WebAssembly.
 * @typedef {{version: string, module: Resource, wasm: Resource}} Library
 * @typedef {{url: string, integrity: string}} Resource
 */
/**
 * An array as onnxruntime-web holds it.
 * @typedef {{type: string, dims: readonly number[], data: any}} Tensor
 */

/** Sessions on so many threads. */
export class Runtime {
  /**
   * @param {any} ort the namespace of onnxruntime-web
   * @param {number} threads
   */
  constructor(ort, threads) {
    this.ort = ort;
    this.threads = threads;
  }

  /**
   * @param {Library} library
   * @param {URL} base what the addresses are relative to
   * @param {number} threads more than one need a page that is isolated by the two headers
   * @returns {Promise<Runtime>}
   * @throws {BackendError} it cannot be fetched, or is not what the site was written with
   */
  static async open(library, base, threads) {
    const [code, wasm] = await Promise.all([fetched(library.module, base), fetched(library.wasm, base)]);
    const address = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
    const ort = await import(address); // its threads load this address again: it is never revoked
    ort.env.logLevel = "error";
    ort.env.wasm.numThreads = threads;
    ort.env.wasm.wasmBinary = wasm;
    return new Runtime(ort, threads);
  }

  /**
   * @param {Uint8Array} model an ONNX file
   * @param {string} name
   * @returns {Promise<Graph>}
   * @throws {BackendError}
   */
  async load(model, name) {
    // What ONNX Runtime takes for its own format, which no check of an ONNX file has read.
    if (new TextDecoder("latin1").decode(model.subarray(4, 8)) === "ORTM") {
      throw new BackendError(`graph ${name} is no ONNX file; use a bundle that export wrote`);
    }
    try {
      const session = await this.ort.InferenceSession.create(model, {
        executionProviders: ["wasm"],
        graphOptimizationLevel: "all",
      });
      return new Graph(session, name);
    } catch (error) {
      throw new BackendError(`onnxruntime (WASM) cannot load graph ${name}: ${reason(error)}`);
    }
  }

  /**
   * @param {Float32Array} data
   * @param {number[]} shape
   * @returns {Tensor}
   */
  tensor(data, shape) {
    return new this.ort.Tensor("float32", data, shape);
  }
}

/** One graph in a session. */
class Graph {
  /**
   * @param {any} session
   * @param {string} name
   */
  constructor(session, name) {
    this.session = session;
    this.name = name;
    /** @type {string[]} */
    this.inputs = session.inputNames;
  }

  /**
   * @param {Record<string, Tensor>} inputs
   * @returns {Promise<Tensor[]>} the outputs in the graph's order
   * @throws {BackendError}
   */
  async run(inputs) {
    try {
      const outputs = await this.session.run(inputs);
      return this.session.outputNames.map((/** @type {string} */ name) => outputs[name]);
    } catch (error) {
      throw new BackendError(`ONNX Runtime failed in graph ${this.name}: ${reason(error)}`);
    }
  }
}

/**
 * @param {Resource} resource
 * @param {URL} base
 * @returns {Promise<ArrayBuffer>}
 */
async function fetched(resource, base) {
  const url = new URL(resource.url, base);
  try {
    const response = await fetch(url, { integrity: resource.integrity });
    if (response.ok) return await response.arrayBuffer();
  } catch {
    // no answer, or other bytes: the browser does not tell which
  }
  throw new BackendError(`${url}: is not there, or is not the file this site was written with; write the site again`);
}

/**
 * The library's words on one line; where it is memory that lacks, ours.
 * @param {unknown} error
 * @returns {string}
 */
function reason(error) {
  const words = (error instanceof Error ? error.message : String(error)).replace(/\s+/g, " ");
  if (/allocat|bad_alloc|out of memory|OOM/i.test(words) || error instanceof RangeError || typeof error === "number") {
    return NO_MEMORY;
  }
  return words.slice(0, 300);
}
