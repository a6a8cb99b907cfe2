import type { CheckpointStatus } from '../actors/protocol/checkpoint-values.ts';
import { deadlines } from '../actors/protocol/deadlines.ts';
import { toSupervisor } from '../actors/protocol/supervisor.ts';
import { asForeign, type ForeignSource, type Metas, readMetas } from '../checkpoint/metas.ts';
import type { ClusterConnection } from './connection.ts';

/** With what another cluster reads a checkpoint of this one. */
export async function askMetas(connection: ClusterConnection, name: string): Promise<Metas> {
  const exported = await connection.ask(toSupervisor.exportMetas, { checkpoint: name }, deadlines.open);
  return { ...exported, checkpoint: name, secret: connection.fabricSecret };
}

/** Registers a checkpoint of another cluster, by its metas file. */
export async function registerMetas(
  connection: ClusterConnection,
  name: string,
  path: string,
): Promise<CheckpointStatus> {
  const { manifest, secret, sources } = asForeign(await readMetas(path));
  const source = { kind: 'metas' as const, manifest, secret, sources: sources.map(toMessage) };
  return connection.ask(toSupervisor.register, { checkpoint: name, source }, deadlines.load);
}

function toMessage({ nics, segments, ...source }: ForeignSource) {
  return { ...source, nics: [...nics], segments: [...segments] };
}
