import { once } from 'node:events';
import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Scope } from './checkpoint/safetensors-files.ts';

/** Has a server listen until the test is over: on any free port, on `port`, or on a socket. Resolves with its endpoint. */
export async function listening(
  test: Scope,
  server: Server,
  { path, port = 0 }: { path?: string; port?: number } = {},
): Promise<string> {
  if (path === undefined) server.listen(port, '127.0.0.1');
  else server.listen(path);
  await once(server, 'listening');
  test.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return path === undefined ? `http://127.0.0.1:${(server.address() as AddressInfo).port}` : `unix:${path}`;
}
