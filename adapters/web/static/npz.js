// NumPy's .npz: a zip archive of .npy arrays, stored or deflated. The browser inflates; nothing here runs code of a file.

import { BundleError } from "./errors.js";
import { inflated } from "./inflate.js";

const LARGEST = 2 ** 28; // bytes of one archive, unpacked
const [END, ENTRY, LOCAL] = [0x06054b50, 0x02014b50, 0x04034b50]; // signatures of zip's records
const MAGIC = "\x93NUMPY";

/** @typedef {Int8Array | Uint8Array | Int16Array | Uint16Array | Int32Array | Uint32Array | Float32Array} Numbers */

/**
 * An array in C order.
 * @typedef {object} NumpyArray
 * @property {string} type NumPy's letter and size: i1, u1, i2, u2, i4, u4, f4
 * @property {number[]} shape
 * @property {Numbers} data
 */

/** @type {Record<string, {new (buffer: ArrayBuffer): Numbers, BYTES_PER_ELEMENT: number}>} */
const TYPES = {
  i1: Int8Array, u1: Uint8Array, i2: Int16Array, u2: Uint16Array, i4: Int32Array, u4: Uint32Array, f4: Float32Array,
};

/**
 * The arrays of an archive, by name.
 * @param {Uint8Array} bytes
 * @param {string} where what error messages call it
 * @returns {Promise<Map<string, NumpyArray>>}
 * @throws {BundleError}
 */
export async function readArrays(bytes, where) {
  try {
    const entries = directory(bytes);
    if (entries.reduce((sum, entry) => sum + entry.size, 0) > LARGEST) {
      throw new BundleError(`${where}: unpacks to more than ${LARGEST} bytes; not a file of this toolkit`);
    }
    /** @type {Map<string, NumpyArray>} */
    const arrays = new Map();
    for (const entry of entries) {
      arrays.set(entry.name.replace(/\.npy$/, ""), readArray(await unpacked(bytes, entry)));
    }
    return arrays;
  } catch (error) {
    if (error instanceof BundleError) throw error;
    const words = error instanceof Error ? error.message : String(error);
    throw new BundleError(`${where}: not a readable array file (${words}); export the bundle again`);
  }
}

/** @typedef {{name: string, method: number, packed: number, size: number, at: number}} Entry */

/**
 * The entries of a zip archive, from its central directory.
 * @param {Uint8Array} bytes
 * @returns {Entry[]}
 */
function directory(bytes) {
  const view = viewOf(bytes);
  let end = bytes.length - 22;
  while (end >= 0 && view.getUint32(end, true) !== END) end -= 1;
  if (end < 0) throw new Error("File is not a zip file");
  const count = view.getUint16(end + 10, true);
  let at = view.getUint32(end + 16, true);
  const entries = [];
  for (let i = 0; i < count; i++) {
    if (view.getUint32(at, true) !== ENTRY) throw new Error("Bad magic number for central directory");
    const nameLength = view.getUint16(at + 28, true);
    entries.push({
      name: new TextDecoder().decode(bytes.subarray(at + 46, at + 46 + nameLength)),
      method: view.getUint16(at + 10, true),
      packed: view.getUint32(at + 20, true),
      size: view.getUint32(at + 24, true),
      at: view.getUint32(at + 42, true),
    });
    at += 46 + nameLength + view.getUint16(at + 30, true) + view.getUint16(at + 32, true);
  }
  return entries;
}

/**
 * The bytes of an entry; no more than it announces are kept.
 * @param {Uint8Array} bytes
 * @param {Entry} entry
 * @returns {Promise<Uint8Array>}
 */
async function unpacked(bytes, entry) {
  const view = viewOf(bytes);
  if (view.getUint32(entry.at, true) !== LOCAL) throw new Error("Bad magic number for file header");
  const start = entry.at + 30 + view.getUint16(entry.at + 26, true) + view.getUint16(entry.at + 28, true);
  const packed = bytes.subarray(start, start + entry.packed);
  if (packed.length !== entry.packed) throw new Error(`${entry.name} is cut short`);
  if (entry.method === 0) return packed;
  if (entry.method !== 8) throw new Error(`${entry.name} is packed in an unknown way`);
  return inflated(packed, "deflate-raw", entry.size, entry.name);
}

/**
 * One .npy file, of a type in `TYPES`.
 * @param {Uint8Array} bytes
 * @returns {NumpyArray}
 */
function readArray(bytes) {
  const view = viewOf(bytes);
  if (String.fromCharCode(...bytes.subarray(0, 6)) !== MAGIC) throw new Error("the magic string is not correct");
  const wide = bytes[6] > 1; // of the header's length
  const start = wide ? 12 : 10;
  const stop = start + (wide ? view.getUint32(8, true) : view.getUint16(8, true));
  const header = new TextDecoder().decode(bytes.subarray(start, stop));
  const type = /'descr': '[<|]([a-z]\d)'/.exec(header)?.[1] ?? "?";
  const shape = (/'shape': \(([\d, ]*)\)/.exec(header)?.[1] ?? "").split(",").map((n) => n.trim()).filter(Boolean).map(Number);
  const kind = TYPES[type];
  if (kind === undefined || !header.includes("'fortran_order': False")) throw new Error(`an array of type ${type}`);
  const count = shape.reduce((product, n) => product * n, 1);
  if (bytes.length - stop !== count * kind.BYTES_PER_ELEMENT) throw new Error("an array has a wrong size");
  return { type, shape, data: new kind(bytes.slice(stop).buffer) }; // copied: the bytes may lie at an odd address
}

/**
 * @param {Uint8Array} bytes
 * @returns {DataView}
 */
function viewOf(bytes) {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
