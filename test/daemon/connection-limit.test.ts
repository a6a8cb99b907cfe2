import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type ServerResponse } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { type TestContext, test } from 'node:test';
import { ConnectionLimit } from '../../src/daemon/connection-limit.ts';
import { type Answer, ask } from './ask.ts';

const most = 3;

/** A server for three clients. What asks for `/slow` is answered when `finish` is called. */
async function limited(t: TestContext) {
  const limit = new ConnectionLimit(most);
  const slow: ServerResponse[] = [];
  const server = createServer((request, response) => {
    limit.works(request.socket, response);
    if (request.url === '/slow') slow.push(response);
    else response.end();
  });
  limit.watch(server);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    server.close();
    server.closeAllConnections();
  });
  const { port } = server.address() as AddressInfo;
  /** A connection on which nothing is asked; resolves when it is there, with its end. */
  const idle = async () => {
    const accepted = once(server, 'connection');
    const socket = connect(port, '127.0.0.1').on('error', () => {});
    t.after(() => socket.destroy());
    await accepted;
    return { ended: once(socket, 'close') };
  };
  const request = (path: string): Promise<Answer> => ask(`http://127.0.0.1:${port}`, 'GET', path);
  return { server, slow, idle, request };
}

test('who asks gets in, however many others are connected and ask nothing; the first of those goes', async (t) => {
  const { idle, request } = await limited(t);
  const [first, second] = [await idle(), await idle()];
  for (let count = 0; count < 2 * most; count += 1) await idle();
  assert.equal((await request('/')).status, 200);
  await Promise.all([first.ended, second.ended]);
});

test('a connection on which something is done does not go; who finds no other in the way is told so', async (t) => {
  const { server, slow, idle, request } = await limited(t);
  const answers: Promise<Answer>[] = [];
  for (let count = 1; count <= most; count += 1) {
    const asked = once(server, 'request');
    answers.push(request('/slow'));
    await asked;
  }
  const refused = await request('/');
  assert.equal(refused.status, 429);
  assert.equal(refused.body.error.code, 'WEIGHTCAST_OVERLOADED');
  for (const response of slow) response.end();
  assert.deepEqual(
    (await Promise.all(answers)).map(({ status }) => status),
    [200, 200, 200],
  );
  await idle();
  assert.equal((await request('/')).status, 200);
});
