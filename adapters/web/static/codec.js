// A .ugic file to pictures: the steps of `ugicm.runtime.flow`, with the networks on ONNX Runtime's WebAssembly.
//
// file → z → exact path → rows, means → symbols → context → y_hat → g_s_trunk → features → g_s, for each preference

import { OPACITY } from "./additions.js";
import { gainsOf, qualityOf } from "./between.js";
import { Bundle } from "./bundle.js";
import { parse, symbolChecksum } from "./container.js";
import { CodecMismatchError, ConditionError, CorruptFileError, DesynchronisedError } from "./errors.js";
import { admitted, channelRows } from "./exact.js";
import { readOpacity } from "./opacity.js";
import { decode } from "./range_coder.js";
import { Runtime } from "./runtime.js";

/** @typedef {import("./container.js").Bitstream} Bitstream */
/** @typedef {import("./runtime.js").Tensor} Tensor */

/**
 * `site.json`, which `ugicm web` writes beside the page.
 * @typedef {object} Site
 * @property {string} bundle its folder
 * @property {number} inputLimit the largest magnitude of a hyper-latent
 * @property {import("./runtime.js").Library} onnxruntime
 * @property {string[]} examples .ugic files that the page offers
 */

/**
 * A file whose symbols are decoded, ready for any preference.
 * @typedef {object} Decoded
 * @property {Bitstream} stream
 * @property {number} checksum of the symbols, equal to the file's
 * @property {Record<string, Tensor>} shared inputs of `g_s` that no preference touches
 * @property {Uint8Array | null} opacity one byte a pixel; null where every pixel is opaque
 * @property {Record<string, number>} milliseconds by stage
 */

/** @typedef {{width: number, height: number, data: Uint8ClampedArray, milliseconds: number}} Picture RGBA */

/** The graphs that are loaded beside `h_s`; a view may have one of its own, such as g_s.human. g_s.view lacks weights. */
const DECODING = /^(h_s_mean|context|g_s_trunk|condition|g_s(\.(?!view$).+)?)$/;

/** The codec of one bundle. */
export class Codec {
  /**
   * @param {Site} site
   * @param {Bundle} bundle
   * @param {Runtime} runtime
   * @param {Awaited<ReturnType<typeof admitted>>} exact
   * @param {Map<string, Awaited<ReturnType<Runtime["load"]>>>} graphs
   */
  constructor(site, bundle, runtime, exact, graphs) {
    this.site = site;
    this.bundle = bundle;
    this.runtime = runtime;
    this.exact = exact;
    this.graphs = graphs;
  }

  /**
   * Fetches the library and the decoder's half of the bundle, and admits the exact path.
   * @param {URL} base where site.json is
   * @param {number} threads
   * @returns {Promise<Codec>}
   */
  static async open(base, threads) {
    /** @type {Site} */
    const site = await (await fetch(new URL("site.json", base))).json();
    const bundle = await Bundle.open(new URL(site.bundle, base));
    const names = Object.keys(bundle.manifest.graphs).filter((name) => DECODING.test(name));
    const files = names.map((name) => bundle.file(bundle.manifest.graphs[name].file));
    files.forEach((file) => file.catch(() => {})); // awaited below, after the library
    const runtime = await Runtime.open(site.onnxruntime, base, threads);
    const exact = await admitted(bundle, runtime);
    const graphs = new Map();
    for (const [i, name] of names.entries()) graphs.set(name, await runtime.load(await files[i], name));
    return new Codec(site, bundle, runtime, exact, graphs);
  }

  /**
   * The symbols of a file, and what all pictures of it share.
   * @param {Uint8Array} data
   * @param {string} name what error messages call the file
   * @returns {Promise<Decoded>}
   */
  async read(data, name) {
    const { manifest, inverseGain } = this.bundle;
    const clock = new Clock();
    const stream = this.parse(data, name);
    const plane = stream.sections.find(({ type }) => type === OPACITY);
    const opacity = plane ? await readOpacity(plane.data, stream.width, stream.height, name) : null;
    const z = this.hyperLatents(stream, name);
    clock.lap("entropy");
    const { rows, mean: exactMean } = await this.exact.run(z.symbols, z.shape);
    let mean = exactMean;
    if (mean === null && this.graphs.has("h_s_mean")) {
      mean = (await this.run("h_s_mean", { z: this.runtime.tensor(new Float32Array(z.symbols), z.shape) })).data;
    }
    clock.lap("exact");
    const symbols = decode(stream.y, rows, this.bundle.yTables, name);
    const checksum = symbolChecksum(z.symbols, symbols);
    if (checksum !== stream.symbolChecksum) {
      throw new DesynchronisedError(
        `${name}: intact, but its symbols are not those that were encoded; check this machine with ugicm verify`,
      );
    }
    clock.lap("entropy");
    const ratio = manifest.hyper_channels ? manifest.stride / manifest.latent_stride : 1;
    const shape = [1, manifest.latent_channels, z.shape[2] * ratio, z.shape[3] * ratio];
    const yHat = await this.latents(symbols, mean, shape);
    clock.lap("context");
    const gain = gainsOf(inverseGain, stream.quality, manifest.qualities, manifest.latent_channels);
    /** @type {Record<string, Tensor>} */
    let shared = { y_hat: yHat, inverse_gain: this.runtime.tensor(gain, [1, gain.length, 1, 1]) };
    if (this.graphs.has("g_s_trunk")) shared = { features: await this.run("g_s_trunk", shared) };
    clock.lap("g_s");
    return { stream, checksum, shared, opacity, milliseconds: clock.laps };
  }

  /**
   * A picture of a decoded file.
   * @param {Decoded} decoded
   * @param {number | null} beta the preference, 0 (for people) to 1 (for machines); null for a codec with one view
   * @returns {Promise<Picture>}
   * @throws {ConditionError}
   */
  async picture({ stream, shared, opacity }, beta) {
    const started = performance.now();
    const { conditions } = this.bundle.manifest;
    const name = Object.keys(conditions).find((one) => conditions[one] === beta);
    const own = `g_s.${name}`;
    const condition = this.graphs.has(own) ? null : await this.condition(beta, name);
    const image = await this.run(this.graphs.has(own) ? own : "g_s", condition ? { ...shared, condition } : shared);
    const { width, height } = stream;
    const data = cropped(image.data, image.dims[2], width, height, opacity);
    return { width, height, data, milliseconds: performance.now() - started };
  }

  /**
   * The bitstream of a file that this codec can decode.
   * @param {Uint8Array} data
   * @param {string} name
   * @returns {Bitstream}
   */
  parse(data, name) {
    const stream = parse(data, name);
    const { codec_id: id, qualities } = this.bundle.manifest;
    if (stream.guard && stream.codecId !== id) {
      throw new CodecMismatchError(
        `${name}: made by codec ${stream.codecId}, a codec with context, which the page does not decode; use ugicm decode`,
      );
    }
    if (stream.codecId !== id) {
      throw new CodecMismatchError(
        `${name}: made by codec ${stream.codecId}, but this bundle is ${id}; name the right one with --bundle`,
      );
    }
    if (stream.guard) {
      throw new CorruptFileError(`${name}: its header and its codec disagree on stages; get the file again`);
    }
    if (Number.isNaN(qualityOf(stream.quality, qualities))) {
      throw new CorruptFileError(
        `${name}: quality byte ${stream.quality} names no quality of a codec that has ${qualities}; ` +
          "get the file again, or name a newer bundle of its codec with --bundle",
      );
    }
    return stream;
  }

  /**
   * The hyper-latents of a file, (1, Nz, H/64, W/64); of no channels without a hyperprior.
   * @param {Bitstream} stream
   * @param {string} name
   * @returns {{symbols: Int32Array, shape: number[]}}
   */
  hyperLatents(stream, name) {
    const { stride, hyper_channels: channels } = this.bundle.manifest;
    const height = Math.ceil(stream.height / stride);
    const width = Math.ceil(stream.width / stride);
    const bounding = channels ? [stream.z] : stream.y;
    const { leastBits } = channels ? this.bundle.zTables : this.bundle.yTables;
    const held = bounding.reduce((sum, bytes) => sum + bytes.length, 0);
    if (height * width * leastBits > 8 * held + 64 * bounding.length) {
      throw new CorruptFileError(
        `${name}: ${held} bytes cannot hold ${stream.width}×${stream.height} pixels; get the file again`,
      );
    }
    const symbols = decode([stream.z], channelRows(channels, height * width), this.bundle.zTables, name);
    const limit = this.site.inputLimit;
    if (symbols.some((value) => value > limit || value < -limit)) {
      throw new CorruptFileError(`${name}: a hyper-latent is out of range; get the file again`);
    }
    return { symbols, shape: [1, channels, height, width] };
  }

  /**
   * Reconstructed latents, of the shape of the symbols.
   * @param {Int32Array} symbols
   * @param {Float32Array | null} mean
   * @param {number[]} shape
   * @returns {Promise<Tensor>}
   */
  async latents(symbols, mean, shape) {
    const values = new Float32Array(symbols);
    if (mean === null) return this.runtime.tensor(values, shape);
    if (!this.bundle.manifest.context) {
      for (let i = 0; i < values.length; i++) values[i] += mean[i];
      return this.runtime.tensor(values, shape);
    }
    const [, , height, width] = shape;
    const anchor = new Float32Array(height * width);
    for (let i = 0; i < anchor.length; i++) anchor[i] = (Math.floor(i / width) + (i % width) + 1) % 2;
    return this.run("context", {
      symbols: this.runtime.tensor(values, shape),
      mean: this.runtime.tensor(mean, shape),
      anchor: this.runtime.tensor(anchor, [1, 1, height, width]),
    });
  }

  /**
   * The vectors of a preference, null for a codec with one view.
   * @param {number | null} beta
   * @param {string | undefined} name of that preference, if it has one
   * @returns {Promise<Tensor | null>}
   */
  async condition(beta, name) {
    const { conditions, architecture } = this.bundle.manifest;
    if (beta === null) return null;
    const names = Object.keys(conditions);
    if (!names.length) {
      throw new ConditionError(`this codec (${architecture}) was trained for one view; leave --condition out`);
    }
    const named = this.bundle.conditions.get(name ?? "");
    if (named) return this.runtime.tensor(named, [1, named.length]);
    if (!(beta >= 0 && beta <= 1)) {
      throw new ConditionError(`unknown condition ${beta}; give ${names.join(", ")} or a number from 0 to 1`);
    }
    return this.run("condition", { beta: this.runtime.tensor(Float32Array.of(beta), [1]) });
  }

  /**
   * The first output of a graph.
   * @param {string} name
   * @param {Record<string, Tensor>} inputs
   * @returns {Promise<Tensor>}
   */
  async run(name, inputs) {
    const graph = this.graphs.get(name);
    if (!graph) throw new Error(`no graph ${name}`);
    return (await graph.run(inputs))[0];
  }
}

/**
 * The top left part of an RGB picture, as RGBA.
 * @param {Uint8Array} rgb rows of `stride` pixels
 * @param {number} stride
 * @param {number} width
 * @param {number} height
 * @param {Uint8Array | null} opacity
 * @returns {Uint8ClampedArray}
 */
function cropped(rgb, stride, width, height, opacity) {
  const out = new Uint8ClampedArray(width * height * 4);
  let to = 0;
  for (let row = 0; row < height; row++) {
    let from = row * stride * 3;
    for (let column = 0; column < width; column++) {
      out[to++] = rgb[from++];
      out[to++] = rgb[from++];
      out[to++] = rgb[from++];
      out[to] = opacity ? opacity[to >> 2] : 255;
      to += 1;
    }
  }
  return out;
}

/** Milliseconds by stage, added up. */
class Clock {
  constructor() {
    /** @type {Record<string, number>} */
    this.laps = {};
    this.last = performance.now();
  }

  /** @param {string} stage that ends now */
  lap(stage) {
    const now = performance.now();
    this.laps[stage] = (this.laps[stage] ?? 0) + now - this.last;
    this.last = now;
  }
}
