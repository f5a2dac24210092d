// Substreams to symbols: the range decoder of docs/bitstream.md, with words of 32 bits, a state of 64, precision 24.
//
// A decoder needs `range` and the difference `point - lower`, each as two halves of 32 bits in JavaScript's doubles. All
// products and sums below stay under 2^53, so that they are exact. The quotient that chooses an entry is an estimate,
// wrong by one at most, because a double cannot hold 64 bits; the exact remainder then tells whether the entry was right.
// BigInt would do all this in a line and take forty times as long.

import { Reader } from "./container.js";
import { CorruptFileError, TruncatedError } from "./errors.js";
import { TOTAL } from "./tables.js";

/** @typedef {import("./tables.js").Tables} Tables */
/** @typedef {Uint8Array | Uint16Array} Rows */

const WORD = 2 ** 32;
const LARGEST_DIFFERENCE = 2 ** 33 - 1; // at the end of what an encoder writes it is smaller

/**
 * The symbols of substreams.
 * @param {Uint8Array[]} streams
 * @param {Rows} rows the table row of each symbol, in scan order
 * @param {Tables} tables
 * @param {string} name what error messages call the file
 * @returns {Int32Array} as many as rows
 * @throws {CorruptFileError} a stream breaks a rule of docs/bitstream.md
 */
export function decode(streams, rows, tables, name) {
  if (rows.some((row) => row >= tables.rows)) throw new RangeError("a row beyond the tables");
  const out = new Int32Array(rows.length);
  const cuts = parts(rows, tables, streams.length, name);
  streams.forEach((stream, i) => {
    const where = `${name} is damaged: substream ${i} of ${streams.length}`;
    decodeSubstream(stream, rows, tables, out, cuts[i], cuts[i + 1], where);
  });
  return out;
}

/**
 * Where in the scan order each substream begins, and the end: equal shares of the coded symbols.
 * @param {Rows} rows
 * @param {Tables} tables
 * @param {number} count of substreams
 * @param {string} name
 * @returns {number[]} count + 1 positions
 */
function parts(rows, tables, count, name) {
  if (count === 0) throw new CorruptFileError(`${name} is damaged: it has no substreams; copy or download it again`);
  let total = 0;
  for (let i = 0; i < rows.length; i++) if (tables.lengths[rows[i]] > 0) total += 1;
  const cuts = [0];
  let position = 0;
  let passed = 0; // coded symbols before `position`
  for (let i = 1; i < count; i++) {
    const ordinal = Math.floor((i * total) / count);
    while (position < rows.length && (passed < ordinal || tables.lengths[rows[position]] === 0)) {
      if (tables.lengths[rows[position]] > 0) passed += 1;
      position += 1;
    }
    cuts.push(position);
  }
  cuts.push(rows.length);
  return cuts;
}

/**
 * @param {Uint8Array} stream
 * @param {Rows} rows of the whole image
 * @param {Tables} tables
 * @param {Int32Array} out of the whole image
 * @param {number} from the part of the scan order that this substream covers
 * @param {number} to
 * @param {string} where how the message of an error begins
 */
function decodeSubstream(stream, rows, tables, out, from, to, where) {
  const { lengths, offsets } = tables;
  const counts = new Uint32Array(tables.rows);
  for (let i = from; i < to; i++) counts[rows[i]] += 1;
  const used = [];
  let size = 0;
  for (let row = 0; row < tables.rows; row++) {
    if (counts[row] === 0 || lengths[row] === 0) continue;
    used.push(row);
    size += counts[row];
  }
  if (used.length === 0) {
    if (stream.length) fail(where, "holds bytes but no symbols");
    return;
  }
  const { section, words } = split(stream, where);

  // The coding order: by row, ascending; symbols of one row in scan order. A counting sort.
  const order = new Uint32Array(size);
  const next = new Uint32Array(tables.rows);
  let start = 0;
  for (const row of used) {
    next[row] = start;
    start += counts[row];
  }
  for (let i = from; i < to; i++) if (lengths[rows[i]] > 0) order[next[rows[i]]++] = i;

  const decoder = new RangeDecoder(words);
  const entries = new Uint32Array(size); // zeros: the escape of rows that hold nothing else
  let coded = false;
  start = 0;
  for (const row of used) {
    if (lengths[row] > 1) {
      if (!decoder.read(tables, row, entries, start, start + counts[row])) fail(where, "holds words that no encoder writes");
      coded = true;
    }
    start += counts[row];
  }
  /** @type {{at: number, row: number}[]} */
  const escapes = [];
  start = 0;
  for (const row of used) {
    const stop = start + counts[row];
    const [offset, escape] = [offsets[row], lengths[row] - 1];
    for (let i = start; i < stop; i++) {
      if (entries[i] === escape) escapes.push({ at: order[i], row });
      else out[order[i]] = offset + entries[i];
    }
    start = stop;
  }
  const values = unpackEscapes(section, escapes.length, where);
  escapes.forEach(({ at, row }, i) => {
    if ((values[i] - offsets[row]) >>> 0 < lengths[row] - 1) fail(where, "escapes a symbol that its row holds");
    out[at] = values[i];
  });
  if (coded !== words.length > 0 || !decoder.exhausted()) fail(where, "does not end where its symbols end");
  checkEscapes(section, escapes.length, where);
}

/** The decoder's state. */
export class RangeDecoder {
  /** @param {Uint32Array} words */
  constructor(words) {
    this.words = words;
    this.next = 0;
    this.rangeHigh = WORD - 1;
    this.rangeLow = WORD - 1;
    this.high = this.word(); // of point - lower
    this.low = this.word();
  }

  /** The next word; 0 past the end. */
  word() {
    return this.next < this.words.length ? this.words[this.next++] : (this.next++, 0);
  }

  /** Whether the stream ends here as an encoder ends it. */
  exhausted() {
    return this.next >= this.words.length && this.high * WORD + this.low < LARGEST_DIFFERENCE;
  }

  /**
   * Entries of one row.
   * @param {Tables} tables
   * @param {number} row of two or more entries
   * @param {Uint32Array} out
   * @param {number} from
   * @param {number} to
   * @returns {boolean} whether an encoder can have written this
   */
  read(tables, row, out, from, to) {
    const { cumulative } = tables;
    const { words } = this;
    const first = tables.starts[row]; // where C(0) stands
    const last = first + tables.lengths[row] - 1; // C of the last entry
    const likeliest = first + tables.likeliest[row];
    let { high, low, rangeHigh, rangeLow, next } = this;
    for (let i = from; i < to; i++) {
      const scale = rangeHigh * 256 + (rangeLow >>> 24); // range >> 24, 40 bits
      const quantile = Math.min(Math.floor((high * WORD + low) / scale), TOTAL - 1); // ±1

      let k = likeliest;
      if (!(cumulative[k] <= quantile && quantile < cumulative[k + 1])) {
        let end = last;
        k = first;
        while (k < end) {
          const middle = (k + end + 1) >>> 1;
          if (cumulative[middle] <= quantile) k = middle;
          else end = middle - 1;
        }
      }

      for (;;) {
        // high, low -= scale · C(k), in two products of 40 and 12 bits
        const c = cumulative[k];
        let upper = scale * (c >>> 12);
        let carry = Math.floor(upper / 1048576);
        let rest = (upper - carry * 1048576) * 4096 + scale * (c & 4095);
        let over = Math.floor(rest / WORD);
        let newHigh = high - carry - over;
        let newLow = low - (rest - over * WORD);
        if (newLow < 0) {
          newLow += WORD;
          newHigh -= 1;
        }
        if (newHigh < 0) {
          k -= 1; // the estimate was one too large
          continue;
        }
        // range = scale · frequency(k)
        const f = cumulative[k + 1] - c;
        upper = scale * (f >>> 12);
        carry = Math.floor(upper / 1048576);
        rest = (upper - carry * 1048576) * 4096 + scale * (f & 4095);
        over = Math.floor(rest / WORD);
        const newRangeHigh = carry + over;
        const newRangeLow = rest - over * WORD;
        if (newHigh > newRangeHigh || (newHigh === newRangeHigh && newLow >= newRangeLow)) {
          if (k === last) return false; // a quotient of 2^24 or more
          k += 1; // the estimate was one too small
          continue;
        }
        high = newHigh;
        low = newLow;
        rangeHigh = newRangeHigh;
        rangeLow = newRangeLow;
        break;
      }

      if (rangeHigh === 0) {
        rangeHigh = rangeLow;
        rangeLow = 0;
        high = low;
        low = next < words.length ? words[next] : 0;
        next += 1;
      }
      out[i] = k - first;
    }
    Object.assign(this, { high, low, rangeHigh, rangeLow, next });
    return true;
  }
}

/**
 * The escape section of a substream that is not empty, and its words.
 * @param {Uint8Array} stream
 * @param {string} where
 * @returns {{section: Uint8Array, words: Uint32Array}}
 */
function split(stream, where) {
  const reader = new Reader(stream, 0, where);
  let size = 0;
  try {
    size = reader.varint();
  } catch (error) {
    if (!(error instanceof CorruptFileError || error instanceof TruncatedError)) throw error;
    fail(where, "does not begin with a well-formed length");
  }
  const stop = reader.at + size;
  if (stop > stream.length) fail(where, "is shorter than its escape section");
  if ((stream.length - stop) % 4) fail(where, "does not end on a whole word");
  const view = new DataView(stream.buffer, stream.byteOffset, stream.byteLength);
  const words = new Uint32Array((stream.length - stop) / 4);
  for (let i = 0; i < words.length; i++) words[i] = view.getUint32(stop + 4 * i, true);
  return { section: stream.subarray(reader.at, stop), words };
}

/**
 * The values of an escape section: varints of zigzag forms, strict about their number and form.
 * @param {Uint8Array} section
 * @param {number} count how many are escaped
 * @param {string} where
 * @returns {Int32Array}
 */
function unpackEscapes(section, count, where) {
  if (heldBy(section) < count) checkEscapes(section, count, where);
  const values = new Int32Array(count);
  let large = false;
  let at = 0;
  for (let i = 0; i < count; i++) {
    let value = 0;
    let size = 0;
    let byte;
    do {
      byte = section[at++];
      value += (byte & 0x7f) * 2 ** (7 * size++);
    } while (byte >= 0x80);
    if (size > 5 || (size > 1 && byte === 0)) fail(where, "holds an escaped symbol that is not in its shortest form");
    large ||= value >= WORD;
    values[i] = (value >>> 1) ^ -(value & 1);
  }
  if (large) fail(where, "holds an escaped symbol of more than 32 bits");
  return values;
}

/**
 * How many varints end in an escape section.
 * @param {Uint8Array} section
 * @returns {number}
 */
function heldBy(section) {
  let held = 0;
  for (const byte of section) if (byte < 0x80) held += 1;
  return held;
}

/**
 * Refuses an escape section that holds another number of values than are escaped.
 * @param {Uint8Array} section
 * @param {number} count
 * @param {string} where
 */
function checkEscapes(section, count, where) {
  const held = heldBy(section);
  if (held !== count || (section.length && section[section.length - 1] >= 0x80)) {
    fail(where, `needs ${count} escaped symbols and holds ${held}`);
  }
}

/**
 * @param {string} where
 * @param {string} what
 * @returns {never}
 */
function fail(where, what) {
  throw new CorruptFileError(`${where} ${what}; copy or download it again`);
}
