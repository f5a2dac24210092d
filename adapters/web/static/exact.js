// The exact path: `z` to the table rows and means of `y`. The graph `h_s` computes it where it gives the bundle's golden
// vectors bit for bit; where it does not, the integers themselves do, slower and right on any machine.

import { BundleError } from "./errors.js";

/** @typedef {import("./bundle.js").Bundle} Bundle */
/** @typedef {import("./npz.js").NumpyArray} NumpyArray */
/** @typedef {import("./runtime.js").Runtime} Runtime */
/** @typedef {{rows: Uint8Array | Uint16Array, mean: Float32Array | null}} Scaled */
/** @typedef {(z: Int32Array, shape: number[]) => Promise<Scaled>} Exact integers (1, Nz, h, w) to (1, M, H, W) */

/**
 * The exact path of a bundle, and how it was admitted.
 * @param {Bundle} bundle
 * @param {Runtime} runtime
 * @returns {Promise<{run: Exact, vectors: number, reference: boolean}>} golden vectors that were compared, and whether
 *   the integers themselves run
 */
export async function admitted(bundle, runtime) {
  const { latent_channels: channels, hyper_channels: hyper, graphs } = bundle.manifest;
  if (!hyper) return { run: factorised(channels), vectors: 0, reference: false };
  const [golden, model] = await Promise.all([bundle.arrays("golden.npz"), bundle.file(graphs.h_s.file)]);
  const graph = await runtime.load(model, "h_s");
  /** @type {Exact} */
  const run = async (z, shape) => {
    const [rows, mean] = await graph.run({ [graph.inputs[0]]: runtime.tensor(new Float32Array(z), shape) });
    return { rows: rows.data, mean: mean ? mean.data : null };
  };
  const vectors = [...golden.keys()].filter((name) => name.startsWith("z")).length;
  if (!vectors) throw new BundleError(`${bundle.where}: has no golden vectors; export the bundle again`);
  if (await reproduces(golden, vectors, run)) return { run, vectors, reference: false };
  console.warn("onnxruntime (WASM) is not admitted for the exact path; it runs on the reference");
  return { run: reference(await bundle.arrays("exact.npz")), vectors, reference: true };
}

/**
 * Whether every golden vector comes out bit for bit.
 * @param {Map<string, NumpyArray>} golden
 * @param {number} vectors
 * @param {Exact} run
 * @returns {Promise<boolean>}
 */
export async function reproduces(golden, vectors, run) {
  for (let i = 0; i < vectors; i++) {
    const z = golden.get(`z${i}`);
    const rows = golden.get(`scale_index${i}`);
    if (!z || !rows) throw new BundleError("golden.npz: a vector is incomplete; export the bundle again");
    const found = await run(Int32Array.from(z.data), z.shape);
    const mean = golden.get(`mean${i}`);
    if (!equal(found.rows, rows.data) || (mean && !(found.mean && equal(found.mean, mean.data)))) return false;
  }
  return true;
}

/**
 * The integer network of exact.npz (`ugicm.runtime.exact` says what a layer is).
 * @param {Map<string, NumpyArray>} arrays
 * @returns {Exact}
 */
export function reference(arrays) {
  /** @type {(name: string) => any} */
  const data = (name) => arrays.get(name)?.data;
  /** @type {(name: string) => number} */
  const scalar = (name) => data(name)?.[0] ?? 0;
  /** @type {Layer[]} */
  const layers = [];
  for (let i = 0; arrays.has(`layer${i}_weight`); i++) {
    const head = `layer${i}_`;
    layers.push({
      weight: data(`${head}weight`),
      shape: /** @type {NumpyArray} */ (arrays.get(`${head}weight`)).shape,
      bias: data(`${head}bias`),
      shift: data(`${head}shift`),
      low: data(`${head}low`),
      high: data(`${head}high`),
      table: data(`${head}table`),
      upsample: scalar(`${head}upsample`),
    });
  }
  const ones = scalar("ones");
  const channels = scalar("scale_channels");
  const unit = 2 ** -scalar("mean_fraction_bits");
  const table = data("scale_table");
  return async (z, [, hyper, height, width]) => {
    /** @type {Float64Array} */
    let x = new Float64Array((hyper + (ones > 0 ? 1 : 0)) * height * width).fill(ones);
    x.set(z);
    for (const layer of layers) {
      x = shuffled(requantised(accumulated(x, layer, height, width), layer, height * width), layer, height, width);
      height *= layer.upsample;
      width *= layer.upsample;
    }
    const size = channels * height * width;
    const rows = Uint8Array.from(x.subarray(0, size), table ? (v) => table[v] : undefined);
    const mean = scalar("mean_channels") ? Float32Array.from(x.subarray(size), (v) => v * unit) : null;
    return { rows, mean };
  };
}

/**
 * @typedef {{weight: Int8Array | Int16Array, shape: number[], bias: Int32Array, shift: Int8Array, low: Int32Array,
 *   high: Int32Array, table: Int16Array | undefined, upsample: number}} Layer
 */

/**
 * The convolution and bias, zeros outside: (I, h, w) to (O, h, w).
 * @param {Float64Array} x
 * @param {Layer} layer
 * @param {number} height
 * @param {number} width
 */
function accumulated(x, { weight, shape: [outputs, inputs, size], bias }, height, width) {
  const area = height * width;
  const half = size >> 1;
  const out = new Float64Array(outputs * area);
  let at = 0;
  for (let o = 0; o < outputs; o++) {
    const to = o * area;
    out.fill(bias[o], to, to + area);
    for (let i = 0; i < inputs; i++) {
      for (let dy = -half; dy <= half; dy++) {
        for (let dx = -half; dx <= half; dx++) {
          const w = weight[at++];
          if (w === 0) continue;
          const [left, right] = [Math.max(0, -dx), Math.min(width, width - dx)];
          for (let row = Math.max(0, -dy); row < Math.min(height, height - dy); row++) {
            const from = i * area + (row + dy) * width + dx;
            for (let column = left; column < right; column++) out[to + row * width + column] += w * x[from + column];
          }
        }
      }
    }
  }
  return out;
}

/**
 * Scaled by a power of two, rounded half to even, clipped, looked up; in place.
 * @param {Float64Array} x
 * @param {Layer} layer
 * @param {number} area
 */
function requantised(x, { shift, low, high, table }, area) {
  for (let i = 0; i < x.length; i++) {
    const channel = Math.floor(i / area);
    const scaled = x[i] * 2 ** -shift[channel];
    const floor = Math.floor(scaled);
    const above = scaled - floor;
    const rounded = above > 0.5 || (above === 0.5 && floor % 2 !== 0) ? floor + 1 : floor;
    const clipped = Math.min(Math.max(rounded, low[channel]), high[channel]);
    x[i] = table ? table[clipped - low[0]] : clipped;
  }
  return x;
}

/**
 * Channel 4c + 2i + j to channel c, row i, column j.
 * @param {Float64Array} x
 * @param {Layer} layer
 * @param {number} height
 * @param {number} width
 */
function shuffled(x, { upsample: n, shape: [outputs] }, height, width) {
  if (n === 1) return x;
  const out = new Float64Array(x.length);
  let at = 0;
  for (let o = 0; o < outputs; o++) {
    const [c, i, j] = [Math.floor(o / n ** 2), Math.floor((o % n ** 2) / n), o % n];
    for (let row = 0; row < height; row++) {
      const to = (c * height * n + row * n + i) * width * n + j;
      for (let column = 0; column < width; column++) out[to + column * n] = x[at++];
    }
  }
  return out;
}

/**
 * The stand-in of `h_s` in a codec without a hyperprior: the row of a symbol is its channel, the mean 0.
 * @param {number} channels
 * @returns {Exact}
 */
function factorised(channels) {
  return async (_, [, , height, width]) => ({ rows: channelRows(channels, height * width), mean: null });
}

/**
 * Rows of symbols whose row is their channel.
 * @param {number} channels
 * @param {number} area
 * @returns {Uint8Array | Uint16Array}
 */
export function channelRows(channels, area) {
  const rows = new (channels <= 256 ? Uint8Array : Uint16Array)(channels * area);
  for (let c = 0; c < channels; c++) rows.fill(c, c * area, (c + 1) * area);
  return rows;
}

/**
 * @param {ArrayLike<number>} a
 * @param {ArrayLike<number>} b
 * @returns {boolean}
 */
function equal(a, b) {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}
