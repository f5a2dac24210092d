// The container of a .ugic file: a small header, the entropy-coded substreams, two checksums.
//
// docs/bitstream.md is the specification; `ugicm.runtime.bitstream` reads the same files and refuses the same faults in
// the same words and order. Every field is bounded by what is left of the bytes before it is read.

import { misfit, readAdditions } from "./additions.js";
import { crc32 } from "./crc32.js";
import { CorruptFileError, NotUgicError, TruncatedError, VersionError } from "./errors.js";

const VERSIONS = [1, 2];
const MAGIC = [0x55, 0x47, 0x49, 0x43]; // UGIC
const CODEC_ID_BYTES = 8;
const MAX_SIDE = 65535; // pixels
const MAX_PIXELS = 2 ** 28;
const MAX_SUBSTREAMS = 65535;
const MAX_VARINT_BYTES = 5; // every number of the format fits in 32 bits

/**
 * One encoded image, its substreams still entropy-coded.
 * @typedef {object} Bitstream
 * @property {number} version of the format
 * @property {string} codecId 16 hexadecimal digits
 * @property {number} quality 1 to 255
 * @property {number} width of the image before padding, in pixels
 * @property {number} height
 * @property {Uint8Array} z the hyper-latent's single substream
 * @property {Uint8Array[]} y the latent's substreams, in scan order
 * @property {number} symbolChecksum CRC-32 of all symbols, z then y
 * @property {import("./additions.js").Guard | null} guard of a staged codec's file
 * @property {import("./additions.js").Section[]} sections of ascending types, those that nobody knows among them
 */

/**
 * Read and check a .ugic file.
 * @param {Uint8Array} data
 * @param {string} name what error messages call the file
 * @returns {Bitstream}
 * @throws {NotUgicError | VersionError | TruncatedError | CorruptFileError}
 */
export function parse(data, name) {
  if (MAGIC.some((byte, i) => i < data.length && data[i] !== byte)) {
    throw new NotUgicError(`${name} is not a .ugic file: it does not begin with UGIC`);
  }
  const reader = new Reader(data, MAGIC.length, name);
  const version = data.length > MAGIC.length ? data[MAGIC.length] : 1;
  if (!VERSIONS.includes(version)) {
    const known = VERSIONS.join(" and ");
    throw new VersionError(`${name} has format version ${version}, this release reads ${known}; install one that reads it`);
  }
  reader.at += 1;
  const codecId = hexadecimal(reader.take(CODEC_ID_BYTES));
  const quality = reader.take(1)[0];
  const width = reader.varint();
  const height = reader.varint();
  const additions = version > 1 ? readAdditions(reader) : { guard: null, sections: [] };
  const z = reader.take(reader.varint());
  const count = reader.varint();
  if (count > MAX_SUBSTREAMS) {
    reader.corrupt(`it claims ${count} substreams, at most ${MAX_SUBSTREAMS} are allowed`);
  }
  const lengths = [];
  for (let i = 0; i < count; i++) lengths.push(reader.varint());
  const y = lengths.map((length) => reader.take(length));
  const symbolChecksum = reader.uint32();
  const end = reader.at;
  const fileChecksum = reader.uint32();
  if (reader.at !== reader.data.length) {
    reader.corrupt(`${reader.data.length - reader.at} bytes follow its last field`);
  }
  if (crc32(reader.data.subarray(0, end)) !== fileChecksum) {
    reader.corrupt("its file checksum does not match its bytes");
  }
  const fault = outOfRange(quality, width, height, count) || misfit(additions, count);
  if (fault) reader.corrupt(fault);
  return { version, codecId, quality, width, height, z, y, symbolChecksum, ...additions };
}

/** Takes fields off bytes, one after the other. */
export class Reader {
  /**
   * @param {Uint8Array} data
   * @param {number} at index of the next field
   * @param {string} name what error messages call the file
   */
  constructor(data, at, name) {
    this.data = data;
    this.at = at;
    this.name = name;
  }

  /**
   * @param {number} size
   * @returns {Uint8Array} a view of the next bytes
   */
  take(size) {
    if (size > this.data.length - this.at) {
      throw new TruncatedError(`${this.name} ends before its last field; copy or download it again`);
    }
    const bytes = this.data.subarray(this.at, this.at + size);
    this.at += size;
    return bytes;
  }

  /** @returns {number} the next four bytes, little-endian */
  uint32() {
    const [a, b, c, d] = this.take(4);
    return (a | (b << 8) | (c << 16) | (d << 24)) >>> 0;
  }

  /** @returns {number} an unsigned LEB128 number below 2^32, in its shortest form */
  varint() {
    const start = this.at;
    let value = 0;
    for (let i = 0; i < MAX_VARINT_BYTES; i++) {
      const byte = this.take(1)[0];
      value += (byte & 0x7f) * 2 ** (7 * i);
      if (byte < 0x80) {
        if (byte === 0 && i > 0) this.corrupt(`the number at byte ${start} is not in its shortest form`);
        if (value >= 2 ** 32) break;
        return value;
      }
    }
    return this.corrupt(`the number at byte ${start} needs more than 32 bits`);
  }

  /**
   * @param {string} what
   * @returns {never}
   */
  corrupt(what) {
    throw new CorruptFileError(`${this.name} is damaged: ${what}; copy or download it again`);
  }
}

/**
 * CRC-32 over all symbols, each modulo 2^16 as two bytes, low one first.
 * @param {Int32Array[]} arrays z, then y
 * @returns {number}
 */
export function symbolChecksum(...arrays) {
  let crc = 0;
  const bytes = new Uint8Array(1 << 16);
  for (const symbols of arrays) {
    for (let start = 0; start < symbols.length; start += bytes.length / 2) {
      const stop = Math.min(symbols.length, start + bytes.length / 2);
      let at = 0;
      for (let i = start; i < stop; i++) {
        bytes[at++] = symbols[i];
        bytes[at++] = symbols[i] >> 8;
      }
      crc = crc32(bytes.subarray(0, at), crc);
    }
  }
  return crc;
}

/**
 * @param {Uint8Array} bytes
 * @returns {string}
 */
function hexadecimal(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * @param {number} quality
 * @param {number} width
 * @param {number} height
 * @param {number} substreams
 * @returns {string} what is wrong with these fields, or an empty string
 */
function outOfRange(quality, width, height, substreams) {
  if (quality < 1) return `the quality ${quality} is outside 1 to 255`;
  if (!(width >= 1 && width <= MAX_SIDE && height >= 1 && height <= MAX_SIDE && width * height <= MAX_PIXELS)) {
    return `the image size ${width}x${height} is outside 1x1 to ${MAX_SIDE} a side and ${MAX_PIXELS} pixels`;
  }
  if (substreams < 1) return `the number of y substreams ${substreams} is outside 1 to ${MAX_SUBSTREAMS}`;
  return "";
}
