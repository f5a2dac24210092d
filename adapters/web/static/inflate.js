// DEFLATE, by the browser, into no more bytes than were announced.

/**
 * @param {Uint8Array} packed
 * @param {"deflate" | "deflate-raw"} format with zlib's header and checksum, or without
 * @param {number} size bytes to come out
 * @param {string} name what errors call it
 * @returns {Promise<Uint8Array>} of that size
 * @throws {Error} more or fewer bytes, or no such stream
 */
export async function inflated(packed, format, size, name) {
  const out = new Uint8Array(size);
  const stream = new Blob([/** @type {BlobPart} */ (packed)]).stream().pipeThrough(new DecompressionStream(format));
  const reader = stream.getReader();
  let at = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (at + value.length > size) {
      reader.cancel().catch(() => {});
      throw new Error(`${name} is larger than announced`);
    }
    out.set(value, at);
    at += value.length;
  }
  if (at !== size) throw new Error(`${name} is cut short`);
  return out;
}
