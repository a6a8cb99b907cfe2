import { describe, ProtocolError } from '../errors.ts';
import { packDocument, unpackDocument } from './document-codec.ts';
import type { Manifest } from './manifest.ts';

const packedPaths = new WeakMap<Manifest['segments'], Uint8Array>();

/**
 * The paths of a manifest's segments, in its order, for messages to many ranks: packed once, since there are as many as ranks, or
 * more.
 */
export function packPaths({ segments }: Pick<Manifest, 'segments'>): Uint8Array {
  const packed =
    packedPaths.get(segments) ?? packDocument(Buffer.from(JSON.stringify(segments.map(({ path }) => path))));
  packedPaths.set(segments, packed);
  return packed;
}

/** Throws a `ProtocolError`. */
export function unpackPaths(packed: Uint8Array): string[] {
  const text = Buffer.from(unpackDocument(packed)).toString();
  let paths: unknown;
  try {
    paths = JSON.parse(text);
  } catch (error) {
    throw new ProtocolError(`not a list of segments: ${describe(error)}`, { cause: error });
  }
  if (Array.isArray(paths) && paths.every((path) => typeof path === 'string')) return paths;
  throw new ProtocolError('a list of segments has something else in it than paths');
}
