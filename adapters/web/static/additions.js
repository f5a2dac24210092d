// The fields that version 2 of the container adds: the guard of a staged codec, and sections beside the symbols.
// `ugicm.runtime.additions` reads the same fields and refuses the same faults in the same words and order.

import { VersionError } from "./errors.js";

const STAGED = 1; // flags
const SECTIONS = 2;
export const [OPACITY, ICC_PROFILE, EXIF, XMP] = [1, 2, 4, 6]; // types of sections: odd ones change the picture
const MAX_SECTIONS = 64;
const MAX_METADATA = 2 ** 24; // bytes of all sections of even types together

/**
 * How the rows of a staged codec are rounded.
 * @typedef {object} Guard
 * @property {number} bandBits
 * @property {number} block positions that share one shift
 */

/** @typedef {{type: number, data: Uint8Array}} Section */

/** @typedef {{version: number, guard: Guard | null, sections: Section[]}} Additions */

/**
 * The fields, not yet checked against each other.
 * @param {import("./container.js").Reader} reader
 * @returns {Omit<Additions, "version">}
 * @throws {VersionError} a flag or a section that must be understood and is not
 */
export function readAdditions(reader) {
  const flags = reader.varint();
  if (flags > (STAGED | SECTIONS)) {
    const hexadecimal = `0x${flags.toString(16)}`;
    throw new VersionError(
      `${reader.name} has flags ${hexadecimal} that this release does not know; install one that reads them`,
    );
  }
  const guard = flags & STAGED ? { bandBits: reader.take(1)[0], block: reader.varint() } : null;
  const count = flags & SECTIONS ? reader.varint() : 0;
  if (!flags || (flags & SECTIONS && !(count >= 1 && count <= MAX_SECTIONS))) {
    reader.corrupt(
      `it has flags ${flags} and ${count} sections; version 2 has a guard or 1 to ${MAX_SECTIONS} sections`,
    );
  }
  const sections = [];
  for (let i = 0; i < count; i++) {
    const type = reader.varint();
    const size = reader.varint();
    if (type % 2 && type !== OPACITY) {
      throw new VersionError(
        `${reader.name} has a section of type ${type} that changes the picture and that this release does not know; ` +
          "install one that does",
      );
    }
    sections.push({ type, data: reader.take(size) });
  }
  return { guard, sections };
}

/**
 * What is wrong with these fields, or an empty string.
 * @param {Omit<Additions, "version">} additions
 * @param {number} substreams
 * @returns {string}
 */
export function misfit({ guard, sections }, substreams) {
  if (guard && !(guard.bandBits >= 8 && guard.bandBits <= 20)) {
    return `the band 2**-${guard.bandBits} is outside 2**-8 to 2**-20`;
  }
  if (guard && !(guard.block >= 32 && guard.block <= 2 ** 20)) {
    return `blocks of ${guard.block} positions are outside 32 to ${2 ** 20}`;
  }
  if (guard && substreams !== 1) return `a staged file has one y substream, not ${substreams}`;
  const types = sections.map(({ type }) => type);
  if (types.some((type, i) => type <= (i ? types[i - 1] : 0))) {
    return `sections of types [${types.join(", ")}] are out of order`;
  }
  const size = sections.reduce((sum, { type, data }) => sum + (type % 2 ? 0 : data.length), 0);
  return size > MAX_METADATA ? `its metadata has ${size} bytes, at most ${MAX_METADATA} are allowed` : "";
}
