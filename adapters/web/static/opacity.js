// The opacity of a picture: a PNG datastream of the chunks IHDR, IDAT (one or more) and IEND alone, grey, 1 or 8 bits, not
// interlaced (docs/bitstream.md). Read here rather than by the browser, which would convert its colours.

import { crc32 } from "./crc32.js";
import { CorruptFileError } from "./errors.js";
import { inflated } from "./inflate.js";

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10]; // then IHDR, of 13 bytes
const [IHDR, IDAT, IEND] = [0x49484452, 0x49444154, 0x49454e44];
const MOST_INFLATED = 1032; // bytes that one byte of DEFLATE can stand for

/**
 * One byte a pixel, 255 is opaque.
 * @param {Uint8Array} bytes the section
 * @param {number} width
 * @param {number} height
 * @param {string} name what error messages call the file
 * @returns {Promise<Uint8Array>}
 * @throws {CorruptFileError}
 */
export async function readOpacity(bytes, width, height, name) {
  try {
    const { depth, packed } = checked(bytes, width, height);
    const length = Math.ceil((width * depth) / 8); // bytes of a row, without that of its filter
    if (height * (1 + length) > MOST_INFLATED * packed.length) throw new Error("fewer bytes than its pixels need");
    const rows = await inflated(packed, "deflate", height * (1 + length), "opacity");
    const samples = unfiltered(rows, length, height);
    if (depth === 8) return samples;
    const out = new Uint8Array(width * height);
    for (let y = 0, at = 0; y < height; y++) {
      for (let x = 0; x < width; x++) out[at++] = (samples[y * length + (x >> 3)] >> (7 - (x & 7))) & 1 ? 255 : 0;
    }
    return out;
  } catch {
    throw new CorruptFileError(
      `${name} is damaged: its transparency cannot be decoded; copy or download it again`,
    );
  }
}

/**
 * The depth and the compressed samples of a datastream whose chunks are those, whole, and of this size.
 * @param {Uint8Array} bytes
 * @param {number} width
 * @param {number} height
 * @returns {{depth: number, packed: Uint8Array}}
 */
function checked(bytes, width, height) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (SIGNATURE.some((byte, i) => bytes[i] !== byte)) throw new Error("no PNG");
  let at = SIGNATURE.length;
  /** @param {number} kind */
  const chunk = (kind) => {
    const length = view.getUint32(at);
    const stop = at + 8 + length;
    if (view.getUint32(at + 4) !== kind) throw new Error("another chunk");
    if (view.getUint32(stop) !== crc32(bytes.subarray(at + 4, stop))) throw new Error("a checksum is wrong");
    const body = bytes.subarray(at + 8, stop);
    at = stop + 4;
    return body;
  };
  const head = chunk(IHDR);
  const [depth, ...rest] = head.subarray(8);
  const same = head.length === 13 && view.getUint32(16) === width && view.getUint32(20) === height;
  if (!same || (depth !== 1 && depth !== 8) || rest.some(Boolean)) throw new Error("not as specified");
  const parts = [];
  while (view.getUint32(at + 4) === IDAT) parts.push(chunk(IDAT));
  if (chunk(IEND).length || at !== bytes.length) throw new Error("something follows");
  const packed = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  parts.reduce((to, part) => (packed.set(part, to), to + part.length), 0);
  return { depth, packed };
}

/**
 * The samples of rows that each begin with the number of their filter (PNG, "Filtering"; one byte a pixel).
 * @param {Uint8Array} rows
 * @param {number} length bytes of a row, without that number
 * @param {number} height
 * @returns {Uint8Array}
 */
function unfiltered(rows, length, height) {
  const out = new Uint8Array(length * height);
  for (let y = 0; y < height; y++) {
    const kind = rows[y * (length + 1)];
    if (kind > 4) throw new Error("no such filter");
    const from = y * (length + 1) + 1;
    const to = y * length;
    for (let x = 0; x < length; x++) {
      const left = x ? out[to + x - 1] : 0;
      const above = y ? out[to + x - length] : 0;
      const corner = x && y ? out[to + x - length - 1] : 0;
      out[to + x] = rows[from + x] + guess(kind, left, above, corner);
    }
  }
  return out;
}

/**
 * @param {number} kind of filter: none, Sub, Up, Average, Paeth
 * @param {number} left
 * @param {number} above
 * @param {number} corner
 * @returns {number} what the filter took off
 */
function guess(kind, left, above, corner) {
  if (kind === 0) return 0;
  if (kind === 1) return left;
  if (kind === 2) return above;
  if (kind === 3) return (left + above) >> 1;
  const a = Math.abs(above - corner);
  const b = Math.abs(left - corner);
  const c = Math.abs(left + above - 2 * corner);
  return a <= b && a <= c ? left : b <= c ? above : corner;
}
