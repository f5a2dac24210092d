// The bundle of a site: its manifest, and its files as the manifest names them, checked by SHA-256 as they arrive.
// docs/bundle.md is the specification.

import { BundleError, VersionError } from "./errors.js";
import { readArrays } from "./npz.js";
import { Tables } from "./tables.js";

/** @typedef {import("./npz.js").NumpyArray} NumpyArray */
/** @typedef {{file: string, inputs: string[], outputs: string[]}} GraphEntry */

/**
 * @typedef {object} Manifest
 * @property {number} format
 * @property {string} architecture
 * @property {string} codec_id
 * @property {string} precision
 * @property {number} stride images are padded to multiples of it
 * @property {number} latent_stride
 * @property {number} latent_channels
 * @property {number} hyper_channels 0 for a codec without a hyperprior
 * @property {number} qualities
 * @property {Record<string, number>} conditions name to beta
 * @property {string | null} context
 * @property {object | null} [schedule] of a codec with context; format 2
 * @property {Record<string, GraphEntry>} graphs
 * @property {Record<string, {sha256: string, bytes: number}>} files
 */

const FORMATS = [1, 2];

/** A bundle, its tables read; graphs are fetched when they are asked for. */
export class Bundle {
  /**
   * @param {URL} base ends with a slash
   * @param {string} where what error messages call the bundle
   * @param {Manifest} manifest
   * @param {Map<string, NumpyArray>} arrays of tables.npz
   */
  constructor(base, where, manifest, arrays) {
    this.base = base;
    this.where = where;
    this.manifest = manifest;
    this.yTables = Tables.of(arrays, "y", where);
    this.zTables = Tables.of(arrays, "z", where);
    this.inverseGain = floats(arrays, "inverse_gain", where, [manifest.qualities, manifest.latent_channels]);
    /** @type {Map<string, Float32Array>} */
    this.conditions = new Map(
      Object.keys(manifest.conditions).map((name) => [name, floats(arrays, `condition_${name}`, where)]),
    );
    if (this.zTables.rows !== manifest.hyper_channels) {
      throw new BundleError(`${where}: the tables of z do not fit the manifest; export the bundle again`);
    }
    if (!manifest.hyper_channels && this.yTables.rows !== manifest.latent_channels) {
      throw new BundleError(`${where}: the tables of y do not fit the manifest; export the bundle again`);
    }
  }

  /**
   * @param {URL} base where the bundle's files are
   * @returns {Promise<Bundle>}
   * @throws {BundleError | VersionError}
   */
  static async open(base) {
    const where = base.pathname.replace(/\/$/, "");
    const response = await fetch(new URL("manifest.json", base));
    if (!response.ok) throw new BundleError(`${where}: not a bundle (no readable manifest.json); write the site again`);
    /** @type {Manifest} */
    const manifest = await response.json();
    if (!FORMATS.includes(manifest.format)) {
      throw new VersionError(
        `${where}/manifest.json: bundle format ${manifest.format}, but this release reads ${FORMATS.join(" and ")}; export the bundle again`,
      );
    }
    if (manifest.schedule) {
      throw new BundleError(`${where}: a codec with context, which this page does not decode; use ugicm decode`);
    }
    const tables = await fetchFile(base, where, manifest, "tables.npz");
    return new Bundle(base, where, manifest, await readArrays(tables, `${where}/tables.npz`));
  }

  /**
   * A file of the bundle, whole and unchanged.
   * @param {string} name
   * @returns {Promise<Uint8Array>}
   * @throws {BundleError}
   */
  file(name) {
    return fetchFile(this.base, this.where, this.manifest, name);
  }

  /**
   * The arrays of an .npz of the bundle.
   * @param {string} name
   * @returns {Promise<Map<string, NumpyArray>>}
   */
  async arrays(name) {
    return readArrays(await this.file(name), `${this.where}/${name}`);
  }
}

/**
 * @param {URL} base
 * @param {string} where
 * @param {Manifest} manifest
 * @param {string} name
 * @returns {Promise<Uint8Array>}
 */
async function fetchFile(base, where, manifest, name) {
  const entry = manifest.files[name];
  if (!entry) throw new BundleError(`${where}: has no ${name}; export the bundle again`);
  const url = new URL(name, base);
  const response = await fetch(url, { integrity: integrity(entry.sha256) }).catch(() => null);
  if (response?.ok) return new Uint8Array(await response.arrayBuffer());
  // The browser does not tell why it refused: ask again without the digest.
  const plain = await fetch(url).catch(() => null);
  const size = plain?.ok ? (await plain.arrayBuffer()).byteLength : -1;
  const reason =
    size < 0
      ? `cannot be read (${plain ? `status ${plain.status}` : "no answer"})`
      : `changed since export (${size === entry.bytes ? "SHA-256" : "its size"} differs)`;
  throw new BundleError(`${where}/${name}: ${reason}; copy or export the bundle again`);
}

/**
 * A manifest's hexadecimal digest as `fetch` wants it.
 * @param {string} sha256
 * @returns {string}
 */
function integrity(sha256) {
  const bytes = (sha256.match(/../g) ?? []).map((pair) => parseInt(pair, 16));
  return `sha256-${btoa(String.fromCharCode(...bytes))}`;
}

/**
 * @param {Map<string, NumpyArray>} arrays
 * @param {string} name
 * @param {string} where
 * @param {number[]} [shape]
 * @returns {Float32Array}
 */
function floats(arrays, name, where, shape) {
  const array = arrays.get(name);
  if (!array || !(array.data instanceof Float32Array) || !array.data.every(Number.isFinite)) {
    throw new BundleError(`${where}: array ${name} is missing or no float32 numbers; export the bundle again`);
  }
  if (shape && String(shape) !== String(array.shape)) {
    throw new BundleError(`${where}: array ${name} has a wrong shape; export the bundle again`);
  }
  return array.data;
}
