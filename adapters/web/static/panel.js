// What is told beside the picture: of the file, of what was checked, of the time.

import { EXIF, ICC_PROFILE, OPACITY, XMP } from "./additions.js";

/** @typedef {import("./decoder.js").About} About */
/** @typedef {import("./decoder.js").Facts} Facts */

/** @type {Record<string, string>} */
const STAGES = { entropy: "symbols", exact: "scales", context: "context", g_s: "synthesis", picture: "a view" };

/** @type {Record<number, string>} */
const SECTIONS = { [OPACITY]: "transparency", [ICC_PROFILE]: "ICC profile", [EXIF]: "EXIF", [XMP]: "XMP" };

/**
 * @param {string} tag
 * @param {string} text
 * @returns {HTMLElement}
 */
function element(tag, text) {
  return Object.assign(document.createElement(tag), { textContent: text });
}

/**
 * @param {number} number
 * @returns {string} with thin spaces between thousands
 */
function grouped(number) {
  return String(number).replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

/**
 * @param {HTMLElement} list
 * @param {Facts} file
 * @param {number} bytes
 */
export function facts(list, file, bytes) {
  const pixels = file.width * file.height;
  const rows = [
    ["size", `${file.width} × ${file.height}`],
    ["file", `${grouped(bytes)} bytes`],
    ["rate", `${((8 * bytes) / pixels).toFixed(3)} bits a pixel`],
    ["smaller than raw", `${grouped(Math.round((3 * pixels) / bytes))} times`],
    ["quality", String(file.quality)],
    ...file.sections.map(({ type, length }) => [SECTIONS[type] ?? `section ${type}`, `${grouped(length)} bytes`]),
  ];
  if (file.sections.some(({ type }) => type === ICC_PROFILE)) rows.push(["colours", "shown as sRGB, without the profile"]);
  list.replaceChildren(...rows.flatMap(([term, value]) => [element("dt", term), element("dd", value)]));
}

/**
 * @param {HTMLElement} list
 * @param {Facts} file
 * @param {About} about
 */
export function checks(list, file, about) {
  const rows = [
    ["The file is whole", `its bytes match its checksum; format ${file.version}`],
    ["The codec is the right one", file.codecId],
  ];
  if (about.vectors) {
    rows.push(
      about.reference
        ? ["Integers run on the reference", "this browser's graph does not give the golden vectors"]
        : ["This browser is exact", `${about.vectors} of ${about.vectors} golden vectors, bit for bit`],
    );
  }
  rows.push(["Symbols as they were encoded", `CRC-32 ${file.checksum.toString(16).padStart(8, "0")}`]);
  list.replaceChildren(
    ...rows.map(([what, how]) => {
      const item = element("li", what);
      item.append(element("small", how));
      item.classList.toggle("slow", what.startsWith("Integers"));
      return item;
    }),
  );
}

/**
 * @param {HTMLElement} bar
 * @param {HTMLElement} list
 * @param {Facts} file
 * @param {number} picture milliseconds of one view
 * @param {number} threads
 */
export function times(bar, list, file, picture, threads) {
  const stages = Object.entries({ ...file.milliseconds, picture });
  bar.replaceChildren(
    ...stages.map(([stage, milliseconds]) => {
      const piece = element("i", "");
      piece.className = stage;
      piece.style.flexGrow = String(milliseconds);
      return piece;
    }),
  );
  const all = stages.reduce((sum, [, milliseconds]) => sum + milliseconds, 0);
  list.replaceChildren(
    ...stages.flatMap(([stage, milliseconds]) => {
      const term = element("dt", STAGES[stage] ?? stage);
      const swatch = element("i", "");
      swatch.className = stage;
      term.prepend(swatch);
      return [term, element("dd", `${milliseconds.toFixed(0)} ms`)];
    }),
    element("dt", `all, ${threads === 1 ? "one thread" : `${threads} threads`}`),
    element("dd", `${all.toFixed(0)} ms`),
  );
}
