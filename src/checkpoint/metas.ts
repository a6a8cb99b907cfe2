import { createHash } from 'node:crypto';
import * as z from 'zod';
import { CheckpointError, describe } from '../errors.ts';
import { writeSecret } from '../secret-file.ts';
import { readRegularFile } from '../text-file.ts';
import { decodeManifest, encodeManifest, type Manifest } from './manifest.ts';
import { quoted } from './printable.ts';
import { firstForeignRank } from './rank-name.ts';

/**
 * A metas file says where a registered checkpoint lies in the memory of a cluster's ranks, and how another cluster reads
 * it there. It is JSON:
 *
 * | key | value |
 * |---|---|
 * | `format` | `"weightcast-metas"` |
 * | `version` | 1; a change that older readers could not ignore raises it |
 * | `checkpoint`, `digest` | name and content digest: the version that engines are told they get |
 * | `secret` | hexadecimal: grants read access, so the file is for its owner only (mode 0600) |
 * | `manifest` | base64 of the manifest as checkpoint/manifest-codec.ts encodes it: names, dtypes, shapes, segments, digests |
 * | `sources` | `[{rank, host, nics: [str], address: base64, segments: {path: base64}}]`: the ranks that can be read from, their fabric's address, and by which token each segment is read |
 *
 * It is valid while the ranks live and the checkpoint stays registered with them.
 */
export interface Metas {
  readonly checkpoint: string;
  readonly digest: string;
  readonly secret: string;
  readonly manifest: Uint8Array;
  readonly sources: readonly ForeignSource[];
}

/** A rank of another cluster. */
export interface ForeignSource {
  readonly rank: number;
  readonly host: string;
  readonly nics: readonly string[];
  /** `Fabric.address`. */
  readonly address: Uint8Array;
  readonly segments: readonly { readonly path: string; readonly token: Uint8Array }[];
}

const format = 'weightcast-metas';
const version = 1;

const base64 = z.base64().transform((text) => new Uint8Array(Buffer.from(text, 'base64')));
const schema = z.object({
  format: z.literal(format),
  version: z.literal(version),
  checkpoint: z.string().min(1),
  digest: z.string(),
  secret: z.string().regex(/^[0-9a-f]{32,}$/),
  manifest: base64,
  sources: z
    .array(
      z.object({
        rank: z.int().min(0),
        host: z.string(),
        nics: z.array(z.string()),
        address: base64,
        segments: z.record(z.string(), base64),
      }),
    )
    .min(1)
    .max(4096),
});

/** Replaces the file if there is one. Rejects with the system's own error. */
export function writeMetas(path: string, metas: Metas): Promise<void> {
  return writeSecret(path, metasText(metas));
}

/** What is in the file. */
export function metasText(metas: Metas): string {
  const text = (bytes: Uint8Array) => Buffer.from(bytes).toString('base64');
  const { checkpoint, digest, secret, manifest } = metas;
  const sources = metas.sources.map(({ rank, host, nics, address, segments }) => ({
    rank,
    host,
    nics,
    address: text(address),
    segments: Object.fromEntries(segments.map((segment) => [segment.path, text(segment.token)])),
  }));
  const content = { format, version, checkpoint, digest, secret, manifest: text(manifest), sources };
  return `${JSON.stringify(content, null, 1)}\n`;
}

/** Rejects with a CheckpointError that names the file and what is wrong with it. */
export async function readMetas(path: string): Promise<Metas> {
  let value: unknown;
  try {
    value = JSON.parse((await readRegularFile(path)).toString('utf8'));
  } catch (error) {
    // A parser quotes what it could not read, which may be the secret.
    const why = error instanceof SyntaxError ? 'it is not JSON' : describe(error);
    throw new CheckpointError(`${quoted(path)} is not a metas file: ${why}`);
  }
  const parsed = schema.safeParse(value);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const where = issue?.path.join('.') || 'its content';
    throw new CheckpointError(`${quoted(path)} is not a metas file: ${where}: ${issue?.message}`);
  }
  const { sources, ...metas } = parsed.data;
  try {
    decodeManifest(metas.manifest);
  } catch (error) {
    throw new CheckpointError(`${quoted(path)} is not a metas file: manifest: ${describe(error)}`);
  }
  return {
    ...metas,
    sources: sources.map(({ segments, ...source }) => ({
      ...source,
      segments: Object.entries(segments).map(([segment, token]) => ({ path: segment, token })),
    })),
  };
}

/**
 * The same as seen by a cluster that loads it: hosts and ranks have names and numbers that are not its own, since a
 * host of the same name need not be the same, nor share its segments.
 */
export function asForeign(metas: Metas): Metas {
  // Names go into logs, where nothing of the secret belongs.
  const cluster = createHash('sha256').update(metas.secret).digest('hex').slice(0, 8);
  const nameOf = (host: string) => `${host}@${cluster}`;
  const numberOf = new Map(metas.sources.map(({ rank }, index) => [rank, firstForeignRank + index]));
  const manifest = decodeManifest(metas.manifest);
  const segments = manifest.segments.map((segment) => ({
    ...segment,
    host: nameOf(segment.host),
    rank: numberOf.get(segment.rank) ?? firstForeignRank,
  }));
  const foreign: Manifest = { ...manifest, segments };
  return {
    ...metas,
    manifest: encodeManifest(foreign),
    sources: metas.sources.map((source) => ({
      ...source,
      rank: numberOf.get(source.rank)!,
      host: nameOf(source.host),
    })),
  };
}
