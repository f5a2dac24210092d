// Qualities between a codec's whole ones: as `ugicm.runtime.between` and docs/bitstream.md have them.

const FINEST = 32;
const LARGEST_BYTE = 255;

/**
 * How many steps lie from one whole quality to the next.
 * @param {number} qualities
 * @returns {number}
 */
function division(qualities) {
  let steps = qualities > 1 ? FINEST : 1;
  while (steps > 1 && (qualities - 1) * steps + 1 > LARGEST_BYTE) steps /= 2;
  return steps;
}

/**
 * The quality that a byte names; NaN: none of a codec with so many.
 * @param {number} byte
 * @param {number} qualities
 * @returns {number}
 */
export function qualityOf(byte, qualities) {
  const steps = division(qualities);
  if (byte < 1 || byte > (qualities - 1) * steps + 1) return NaN;
  if (byte <= qualities) return byte;
  const index = byte - qualities - 1;
  return Math.floor(index / (steps - 1)) + 1 + ((index % (steps - 1)) + 1) / steps;
}

/**
 * The gains of a quality: a row, or between two rows in their logarithms.
 * @param {Float32Array} rows of all whole qualities
 * @param {number} byte
 * @param {number} qualities
 * @param {number} channels
 * @returns {Float32Array}
 */
export function gainsOf(rows, byte, qualities, channels) {
  const quality = qualityOf(byte, qualities);
  const low = Math.floor(quality);
  const part = quality - low;
  const row = (/** @type {number} */ index) => rows.slice((index - 1) * channels, index * channels);
  if (!part) return row(low);
  const above = row(low + 1);
  return row(low).map((gain, channel) => {
    const size = Math.exp((1 - part) * Math.log(Math.abs(gain)) + part * Math.log(Math.abs(above[channel])));
    return Math.sign(gain) * size;
  });
}
