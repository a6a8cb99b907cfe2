import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import type { EngineClient } from '../../src/engines/engine-client.ts';
import { listening } from '../listening.ts';
import { never, soon } from './harness.ts';

export interface Asked {
  readonly route: string;
  readonly body: string;
  readonly authorization?: string;
}

export type Answer = (request: IncomingMessage, response: ServerResponse) => void;

export const status =
  (code: number, body = '', type = 'application/json'): Answer =>
  (_, response) =>
    void response.writeHead(code, { 'content-type': type }).end(body);

export interface FakeEngine {
  readonly asked: Asked[];
  readonly server: Server;
  readonly endpoint: string;
}

/** What a vLLM from before weight-transfer engines does not have. */
const newRoutes = ['/init_weight_transfer_engine', '/update_weight_version'];

/** As its workers answer what they are. */
const extension = status(200, '{"results":[{"protocol":2}]}');

/**
 * An HTTP server in the engine's place. Unless `transferEngine` is given, a vLLM without weight-transfer engines but with our
 * worker extension; it is not noted that it was asked for that, nor for its configuration, which it has only if it is given.
 */
export async function fakeEngine(
  t: TestContext,
  answer: Answer,
  where: { path?: string; port?: number; transferEngine?: true; configuration?: Answer } = {},
): Promise<FakeEngine> {
  const asked: Asked[] = [];
  const server = createServer(async (request, response) => {
    if (newRoutes.includes(request.url!) && !where.transferEngine) {
      return status(404, '{"detail":"Not Found"}')(request, response);
    }
    if (request.url === '/server_info?config_format=json')
      return (where.configuration ?? status(404))(request, response);
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const { authorization } = request.headers;
    const body = Buffer.concat(chunks).toString();
    if (body.includes('weightcast_protocol') && !where.transferEngine) return extension(request, response);
    asked.push({
      route: `${request.method} ${request.url}`,
      body,
      ...(authorization !== undefined && { authorization }),
    });
    answer(request, response);
  });
  return { asked, server, endpoint: await listening(t, server, where) };
}

export function socketPath(t: TestContext): string {
  const directory = mkdtempSync(join(tmpdir(), 'weightcast-test-'));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  return join(directory, 'engine.sock');
}

export function closing<C extends EngineClient>(t: TestContext, client: C): C {
  t.after(() => client.close());
  return client;
}

export const patient = () => ({ timeoutMilliseconds: never, signal: new AbortController().signal });
export const hasty = () => ({ timeoutMilliseconds: soon, signal: new AbortController().signal });

export const links = { 'GPU-1': 'ipc://@a.sock', 'GPU-2': 'ipc://@b.sock' };
export const version = 'qwen@00ff';
export const order = { links, resetCache: false };
