// CRC-32 as zlib computes it (polynomial 0xEDB88320, reflected), eight bytes at a time.

const TABLES = Array.from({ length: 8 }, () => new Uint32Array(256));
for (let n = 0; n < 256; n++) {
  let c = n;
  for (let k = 0; k < 8; k++) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1;
  TABLES[0][n] = c;
}
for (let n = 0; n < 256; n++) {
  for (let t = 1; t < 8; t++) {
    const c = TABLES[t - 1][n];
    TABLES[t][n] = TABLES[0][c & 255] ^ (c >>> 8);
  }
}
const [T0, T1, T2, T3, T4, T5, T6, T7] = TABLES;

/**
 * @param {Uint8Array} bytes
 * @param {number} crc of what came before; 0 at the beginning
 * @returns {number} 0 to 2^32 - 1
 */
export function crc32(bytes, crc = 0) {
  let c = ~crc;
  let i = 0;
  for (const stop = bytes.length - 7; i < stop; i += 8) {
    c ^= bytes[i] | (bytes[i + 1] << 8) | (bytes[i + 2] << 16) | (bytes[i + 3] << 24);
    c =
      T7[c & 255] ^ T6[(c >>> 8) & 255] ^ T5[(c >>> 16) & 255] ^ T4[c >>> 24] ^
      T3[bytes[i + 4]] ^ T2[bytes[i + 5]] ^ T1[bytes[i + 6]] ^ T0[bytes[i + 7]];
  }
  for (; i < bytes.length; i++) c = T0[(c ^ bytes[i]) & 255] ^ (c >>> 8);
  return ~c >>> 0;
}
