import { once } from 'node:events';
import { createServer } from 'node:http';
import type { TestContext } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { protocolVersion } from '../../src/engines/worker-link/messages.ts';
import { receiveWeights } from '../../src/engines/worker-link/worker-side.ts';
import { Cluster, type InstanceOptions } from '../../src/index.ts';
import { systemClock } from '../../src/native-bridge/clock.ts';
import { listening } from '../listening.ts';
import { sharedMemoryName } from '../shared-memory-name.ts';

export type Fault =
  | 'none'
  | 'load'
  | 'pause'
  | 'trigger'
  | 'resume'
  | 'reset'
  | 'label'
  | 'answer'
  | 'silence'
  | 'slow load'
  | 'late pause';

/** What the engine says of itself, where it has the route. */
export interface Said {
  is_paused?: boolean;
  is_sleeping?: boolean;
  weight_version?: string;
  world_size?: number;
}

/** Less than an engine is watched for that has not answered. */
const lateMilliseconds = 500;

const questions = [
  '/is_paused',
  '/is_sleeping',
  '/weight_info',
  '/v1/models',
  '/get_world_size',
  '/server_info',
];
const faultOf = {
  '/pause': 'pause',
  '/collective_rpc': 'trigger',
  '/resume': 'resume',
  '/reset_prefix_cache': 'reset',
};

/**
 * An engine's HTTP face with workers that take no bytes, in this process; `asked` is what it was asked, in order, without
 * what changes nothing. A fault is a route that answers 404, a load that fails or does not end, or an update call that no
 * worker hears of (`silence`), or that ends in an error although all loads went well (`answer`), or a pause that takes effect
 * after the one who asked has gone (`late pause`).
 */
export async function startEngine(t: TestContext, fault: () => Fault, said: Said = {}) {
  const asked: string[] = [];
  const ended = new Promise<void>((resolve) => t.after(() => resolve()));
  const receiver = {
    open: () => {},
    async load() {
      asked.push('load');
      if (fault() === 'slow load') await ended;
      if (fault() === 'load') throw new RangeError('no such tensor');
    },
    release: () => {},
    finish: async () => null,
  };
  async function update(body: string): Promise<void> {
    const [links] = JSON.parse(body).args as [Record<string, string>];
    const workers = Object.entries(links).map(([deviceUuid, address]) =>
      receiveWeights({ address, deviceUuid, timeoutMilliseconds: 30_000, clock: systemClock }, receiver),
    );
    await Promise.all(workers);
  }
  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const url = request.url!;
    const path = url.replace(/\?.*/, '');
    if (path === '/health') return void response.end();
    if (questions.includes(path)) return void response.end(JSON.stringify(said));
    // It has a worker extension, and no weight-transfer engine.
    if (path === '/init_weight_transfer_engine') return void response.writeHead(404).end();
    const body = String(Buffer.concat(chunks));
    if (body.includes('weightcast_protocol'))
      return void response.end(JSON.stringify({ results: [{ protocol: protocolVersion }] }));
    asked.push(url);
    if (faultOf[path as keyof typeof faultOf] === fault()) return void response.writeHead(404).end();
    if (path === '/update_weight_version' && fault() !== 'label')
      said.weight_version = JSON.parse(body).new_version;
    if (path === '/pause' && fault() === 'late pause') {
      await once(response, 'close');
      await setTimeout(lateMilliseconds);
    }
    if (path === '/pause' || path === '/resume') {
      if (said.is_paused !== undefined) said.is_paused = path === '/pause';
      // As a vLLM does that is paused.
      if (said.is_sleeping !== undefined) said.is_sleeping = path === '/pause';
    }
    if (path === '/collective_rpc' && fault() === 'silence') return;
    if (path !== '/collective_rpc') return void response.end('{}');
    await update(body).then(
      () => response.writeHead(fault() === 'answer' ? 500 : 200).end('{"results":[null]}'),
      (error: Error) => response.writeHead(500).end(error.message),
    );
  });
  return { asked, said, endpoint: await listening(t, server) };
}

/** A cluster that has registered a checkpoint `a` of one tensor. */
export async function startCluster(t: TestContext, instances: InstanceOptions[]): Promise<Cluster> {
  const cluster = await Cluster.start({
    ranks: instances.length,
    instances,
    devices: { kind: 'host', namespace: sharedMemoryName(), capacity: 2 ** 24 },
  });
  t.after(() => cluster.stop());
  await cluster.register('a', { tensors: { w: { dtype: 'F32', shape: [4], data: new Uint8Array(16) } } });
  return cluster;
}

/** Name, state, checkpoint and whether it is paused, of each instance. */
export async function statesOf(cluster: Cluster): Promise<[string, string, string | null, boolean][]> {
  const { instances } = await cluster.status();
  return instances.map(({ name, state, version, isPaused }) => {
    return [name, state, version?.checkpoint ?? null, isPaused];
  });
}
