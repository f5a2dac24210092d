// Rows of integer frequencies: what the substreams of a file mean.

import { BundleError } from "./errors.js";

/** @typedef {import("./npz.js").NumpyArray} NumpyArray */

export const TOTAL = 2 ** 24;
const MAX_ENTRIES = TOTAL - 2;

/** A set of rows, checked. A row of length 0 is skipped; of length 1, every symbol is escaped. */
export class Tables {
  /**
   * @param {Uint32Array} frequencies all rows concatenated
   * @param {Int32Array} lengths entries of each row, the escape (its last) included
   * @param {Int32Array} offsets the value of each row's first entry
   * @param {string} name what error messages call them
   * @throws {BundleError}
   */
  constructor(frequencies, lengths, offsets, name) {
    /** @type {(condition: boolean, what: string) => void} */
    const require = (condition, what) => {
      if (!condition) throw new BundleError(`${name}: ${what}; export the bundle again`);
    };
    require(lengths.length === offsets.length, `${lengths.length} lengths but ${offsets.length} offsets`);
    require(lengths.length <= 1 << 16, `${lengths.length} rows, at most 65536 are allowed`);
    require(lengths.every((n) => n >= 0 && n <= MAX_ENTRIES), `row lengths must be 0 to ${MAX_ENTRIES}`);
    const needed = lengths.reduce((sum, n) => sum + n, 0);
    require(needed === frequencies.length, `the rows need ${needed} frequencies, not ${frequencies.length}`);
    require(frequencies.every((f) => f >= 1), "every frequency must be at least 1");

    this.lengths = lengths;
    this.offsets = offsets;
    this.rows = lengths.length;
    /** C(0), C(1), …, C(n) of each row, one row after the other; `starts` says where. */
    this.cumulative = new Uint32Array(needed + lengths.length);
    this.starts = new Uint32Array(lengths.length);
    /** The entry of each row that is tried first: its likeliest. */
    this.likeliest = new Uint32Array(lengths.length);
    /** The fewest bits that one symbol of every row can take together: what bounds a size that a header claims. */
    this.leastBits = 0;

    let from = 0;
    let to = 0;
    for (let row = 0; row < lengths.length; row++) {
      this.starts[row] = to;
      let sum = 0;
      let most = 0;
      for (let k = 0; k < lengths[row]; k++) {
        this.cumulative[to++] = sum;
        const f = frequencies[from++];
        sum += f;
        if (f > most) [most, this.likeliest[row]] = [f, k];
      }
      require(lengths[row] === 0 || sum === TOTAL, "the frequencies of a row must sum to 2**24");
      this.cumulative[to++] = sum;
      require(offsets[row] + Math.max(lengths[row] - 2, 0) < 2 ** 31, "a row reaches past the largest int32 symbol");
      if (lengths[row] > 1) this.leastBits -= Math.log2(most / TOTAL);
    }
  }

  /**
   * The tables of `y` or `z` in the arrays of a bundle.
   * @param {Map<string, NumpyArray>} arrays
   * @param {"y" | "z"} name
   * @param {string} where what error messages call the bundle
   * @returns {Tables}
   * @throws {BundleError}
   */
  static of(arrays, name, where) {
    const columns = /** @type {const} */ ([["frequencies", "u4"], ["lengths", "i4"], ["offsets", "i4"]]);
    const found = columns.map(([column, type]) => {
      const array = arrays.get(`${name}_${column}`);
      if (!array) throw new BundleError(`${where}: array ${name}_${column} is missing; export the bundle again`);
      if (array.type !== type || array.shape.length !== 1) {
        const kind = type === "u4" ? "uint32" : "int32";
        throw new BundleError(`${where}: tables of ${name}: ${column} must be a 1-D ${kind} array; export the bundle again`);
      }
      return array.data;
    });
    const [frequencies, lengths, offsets] = /** @type {[Uint32Array, Int32Array, Int32Array]} */ (found);
    return new Tables(frequencies, lengths, offsets, `${where}: tables of ${name}`);
  }
}
