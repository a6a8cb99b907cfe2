import { randomBytes } from 'node:crypto';
import { basename } from 'node:path';
import { Cluster, type InstanceOptions, type ProofOptions, type UpdateReport } from '../../src/index.ts';
import type { Scope } from '../checkpoint/safetensors-files.ts';

/** What an engine answers that was started with the weights, and ends after that. */
export async function freshAnswers<A>(
  start: (scope: Scope) => Promise<{ answers(): Promise<A> }>,
): Promise<A> {
  const ends: (() => unknown)[] = [];
  try {
    const server = await start({ after: (end) => ends.push(end) });
    return await server.answers();
  } finally {
    for (const end of ends) await end();
  }
}

/** A cluster for an engine on the CPU, of as many ranks as that has workers. */
export async function startCluster(
  scope: Scope,
  instance: Omit<InstanceOptions, 'name' | 'ranks'>,
  workers = 1,
): Promise<Cluster> {
  const cluster = await Cluster.start({
    ranks: workers,
    instances: [{ name: 'engine', ranks: [...Array(workers).keys()], ...instance }],
    // Nobody but the rank makes a device: to an engine on a CPU it is nothing but memory.
    devices: { kind: 'host', namespace: `test-${randomBytes(6).toString('hex')}` },
  });
  scope.after(async () => void (await cluster.stop()));
  return cluster;
}

/** Several buckets: the largest tensors have as many bytes, and most layers end within one. */
const bucketBytes = 2 ** 21;

/** Updates to the model of a directory, which is registered for as long. */
export async function update(
  cluster: Cluster,
  directory: string,
  verify: ProofOptions = {},
): Promise<UpdateReport> {
  const name = basename(directory);
  await cluster.register(name, directory);
  try {
    return await cluster.update(name, { bucketBytes, verify });
  } finally {
    await cluster.unregister(name);
  }
}
