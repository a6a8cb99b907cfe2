/** A plan or a manifest, packed (document-codec.ts), in a file of a host's directory, from which all ranks of the host read it; released as a segment. */
export interface HostDocument {
  readonly path: string;
  /** `documentDigest` of its bytes. */
  readonly digest: string;
  readonly bytes: number;
}

/** The documents of one host. */
export interface HostDocuments {
  /**
   * Writes a piece, the first of which creates the document. It is there when this returns, so that a later release finds
   * it. Throws `OutOfHostMemoryError` or `NativeError`.
   */
  write(document: HostDocument, offset: number, piece: Uint8Array): void;
  /** Rejects with `NativeError` for one that is not there, or not whole. */
  read(document: HostDocument): Promise<Uint8Array>;
}
