import { createHash } from 'node:crypto';
import { deflateSync, inflateSync } from 'node:zlib';
import { describe, ProtocolError } from '../errors.ts';

/** Of what a document unpacks to: more than the largest manifest has. */
const mostBytes = 2 ** 29;
/** The fastest: names and offsets repeat so much that others gain little. */
const level = 1;

/** What is sent to every host, packed: a manifest to a third or less. */
export function packDocument(content: Uint8Array): Uint8Array {
  return deflateSync(content, { level });
}

/** SHA-256 of a packed document, in hex. */
export function documentDigest(packed: Uint8Array): string {
  return createHash('sha256').update(packed).digest('hex');
}

/** Throws a `ProtocolError`. */
export function unpackDocument(packed: Uint8Array): Uint8Array {
  try {
    return inflateSync(packed, { maxOutputLength: mostBytes });
  } catch (error) {
    throw new ProtocolError(`not a packed document: ${describe(error)}`);
  }
}
