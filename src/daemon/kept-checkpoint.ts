import type { CheckpointStatus } from '../actors/protocol/checkpoint-values.ts';
import { isOnDevice } from '../checkpoint/file-identity.ts';
import { decodeManifest, type Manifest } from '../checkpoint/manifest.ts';
import { readMetas } from '../checkpoint/metas.ts';
import type { RegisterOptions } from '../cluster/cluster.ts';

export interface Registration extends RegisterOptions {
  readonly name: string;
  /** A directory or file, a list of files, or a metas file. */
  readonly source: string | readonly string[] | { readonly metas: string };
  /** Nobody comes back to it: it goes when another one comes that is so too, unless an instance serves it. */
  readonly temporary?: boolean;
  /** What its client calls this content. */
  readonly version?: string;
  /** What it was for the daemon before this one, and has to be. */
  readonly digest?: string | null;
}

/** A checkpoint as clients see it. `waiting`: it is loaded when the first instance joins, whose ranks hold it. */
export interface CheckpointView {
  readonly name: string;
  readonly version: string | null;
  readonly state: 'waiting' | 'loaded' | 'failed';
  readonly digest: string | null;
  readonly tensors: number;
  readonly bytes: number;
  readonly seconds: number | null;
  /** Why it could not be loaded again; null in other states. */
  readonly problem: string | null;
  /** In the memory of a device: only ranks there read it, and it ends with its trainer. */
  readonly onDevice: boolean;
}

/** A checkpoint that is registered, and what from. */
export interface Kept {
  readonly registration: Registration;
  /** Those of its files that are the daemon's. */
  readonly owned: readonly string[];
  readonly tensors: number;
  readonly bytes: number;
  /** What it was the last time that it was loaded. */
  digest: string | null;
  /** Null while no rank holds it. */
  status: CheckpointStatus | null;
  problem: string | null;
}

export function pathsOf(source: Registration['source']): readonly string[] {
  if (typeof source === 'string') return [source];
  return 'metas' in source ? [source.metas] : source;
}

/** Of a metas file. */
export async function manifestOf(metas: string): Promise<Manifest> {
  return decodeManifest((await readMetas(metas)).manifest);
}

export function viewOf({
  registration,
  owned,
  status,
  problem,
  digest,
  tensors,
  bytes,
}: Kept): CheckpointView {
  const state = problem !== null ? 'failed' : status === null ? 'waiting' : 'loaded';
  return {
    name: registration.name,
    version: registration.version ?? null,
    state,
    digest,
    tensors,
    bytes,
    seconds: status?.seconds ?? null,
    problem,
    onDevice: owned.some(isOnDevice),
  };
}
