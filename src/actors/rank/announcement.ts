/**
 * What a rank announces to its engine worker of whole tensors, if not all: of the others the worker keeps nothing, so that it would
 * only take time to pass over them.
 */
export interface Announcement {
  /** By the rows of the manifest, 1 for what is announced. */
  readonly rows: Uint8Array;
  /** `arrivalDigest` of that in the checkpoint, in the order of the rows. */
  readonly expected: string;
}
