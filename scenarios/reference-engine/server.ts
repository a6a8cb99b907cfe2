import type { AddressInfo } from 'node:net';
import type { FastifyInstance } from 'fastify';
import { openCheckpoint } from '../../src/checkpoint/source.ts';
import { describe, UsageError } from '../../src/errors.ts';
import { parseConfiguration } from '../../src/processes/configuration.ts';
import { runChild, tell } from './child.ts';
import { type EngineConfiguration, engineConfiguration } from './configuration.ts';
import { ReferenceEngine } from './engine.ts';
import { createServer } from './routes.ts';
import type { ServerMessage } from './worker-protocol.ts';

/** The process of the engine's HTTP server, the parent of its workers. It ends when its parent releases it. */

async function listen(server: FastifyInstance, { host, port }: EngineConfiguration): Promise<string> {
  try {
    await server.listen({ host, port });
  } catch (error) {
    throw new UsageError(`cannot listen on ${host}, port ${port}: ${describe(error)}`);
  }
  const { address, family, port: bound } = server.server.address() as AddressInfo;
  return `http://${family === 'IPv6' ? `[${address}]` : address}:${bound}`;
}

async function serve(configuration: EngineConfiguration, released: Promise<void>): Promise<void> {
  const index = await openCheckpoint(configuration.model);
  // The parent may release this process while a large model is still being allocated; the workers then end on their own.
  const engine = await Promise.race([ReferenceEngine.start(configuration, index), released]);
  if (engine === undefined) return;
  const server = createServer(engine, configuration.name);
  try {
    const endpoint = await listen(server, configuration);
    const { workers } = engine.workers;
    tell<ServerMessage>({
      type: 'ready',
      endpoint,
      deviceUuids: workers.map(({ deviceUuid }) => deviceUuid),
      workerPids: workers.map(({ pid }) => pid),
    });
    await released;
  } finally {
    await engine.stop();
    await server.close();
  }
}

runChild('engine', (given, released) => serve(parseConfiguration(engineConfiguration, given), released));
