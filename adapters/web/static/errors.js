// Every failure that a file, a bundle or a browser can cause, with the names and the words of `ugicm.runtime.errors`:
// one line that says what was wrong, where, and what to do about it.

/** Base of all failures that are no fault of this program. */
export class UgicError extends Error {
  /** @override */
  get name() {
    return this.constructor.name;
  }
}

/** The data does not begin with the magic of a .ugic file. */
export class NotUgicError extends UgicError {}

/** A bitstream or bundle of a format version that this release does not read. */
export class VersionError extends UgicError {}

/** A bitstream ends before its last field. */
export class TruncatedError extends UgicError {}

/** A bitstream whose bytes contradict each other or its checksums. */
export class CorruptFileError extends UgicError {}

/** A file of another codec than the page's bundle. */
export class CodecMismatchError extends UgicError {}

/** An intact file decoded to other symbols than were encoded. */
export class DesynchronisedError extends UgicError {}

/** A bundle is missing, incomplete, changed since export, or inconsistent. */
export class BundleError extends UgicError {}

/** A condition that the codec does not have. */
export class ConditionError extends UgicError {}

/** The inference library cannot be loaded or fails. */
export class BackendError extends UgicError {}

/** What to say where memory lacks. */
export const NO_MEMORY = "not enough memory; use a smaller image or a machine with more";

/**
 * An error on its way between a worker and the page.
 * @param {unknown} error
 * @returns {{name: string, message: string}}
 */
export function plain(error) {
  if (error instanceof UgicError) return { name: error.name, message: error.message };
  if (error instanceof RangeError) return { name: "BackendError", message: NO_MEMORY }; // an array that is too large
  const words = error instanceof Error ? error.message : String(error);
  return { name: error instanceof Error ? error.name : "Error", message: words };
}
