import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { type AddressInfo, connect } from 'node:net';
import { type TestContext, test } from 'node:test';
import { VllmClient } from '../../src/engines/vllm.ts';
import { AbortedError, DeadlineError, EngineError } from '../../src/errors.ts';
import { systemClock } from '../../src/native-bridge/clock.ts';
import { packageRoot } from '../../src/package-root.ts';
import { listening } from '../listening.ts';
import {
  type Answer,
  closing,
  fakeEngine,
  hasty,
  order,
  patient,
  socketPath,
  status,
} from './fake-engine.ts';
import { Fixture, gate, never, soon } from './harness.ts';

/** What holds for the HTTP face of every engine, shown with vLLM's. */
function clientOf(t: TestContext, endpoint: string, apiKey?: string): VllmClient {
  return closing(t, new VllmClient({ endpoint, clock: systemClock, ...(apiKey && { apiKey }) }));
}

const traceback = 'Traceback (most recent call last):\n  File "rpc.py", line 9\nKeyError: "GPU-2"\n';
const refusals: [string, number, string, string, string][] = [
  [
    'vLLM',
    500,
    '{"error":{"message":"Call failed\\nand more","type":"E","code":500}}',
    ' 500: Call failed',
    'Call failed\nand more',
  ],
  [
    'an older vLLM',
    400,
    '{"object":"error","message":"Missing method"}',
    ' 400: Missing method',
    'Missing method',
  ],
  ['FastAPI', 400, '{"detail":"Missing \'method\'"}', " 400: Missing 'method'", "Missing 'method'"],
  ['a plain server', 500, 'Internal Server Error', ' 500: Internal Server Error', 'Internal Server Error'],
  ['a Python program', 500, traceback, ' 500: KeyError: "GPU-2"', traceback.trim()],
  ['a silent one', 503, '', ' 503', ''],
  ['one that says null', 404, 'null', ' 404: null', 'null'],
];
for (const [who, code, body, line, cause] of refusals) {
  test(`the error has the message of ${who}`, async (t) => {
    const { endpoint } = await fakeEngine(t, status(code, body));
    await assert.rejects(clientOf(t, endpoint).update(order, patient()), (error) => {
      assert.ok(error instanceof EngineError);
      assert.equal(error.message, `engine ${endpoint} answered POST /collective_rpc with${line}`);
      assert.equal(error.cause, cause);
      return true;
    });
  });
}

test('a call ends at its deadline, or when it is aborted, also while no connection comes about', async (t) => {
  const listener = new Fixture(t, 'full-listener');
  const { port } = await listener.next<AddressInfo>();
  listener.child.kill('SIGSTOP');
  const waiting = Array.from({ length: 4 }, () => connect({ host: '127.0.0.1', port }).on('error', () => {}));
  t.after(() => {
    for (const socket of waiting) socket.destroy();
  });
  await Promise.all(waiting.slice(0, 2).map((socket) => once(socket, 'connect')));
  const client = clientOf(t, `http://127.0.0.1:${port}`);
  await assert.rejects(client.resume({ ...patient(), timeoutMilliseconds: soon }), DeadlineError);
  const abort = new AbortController();
  const aborted = client.resume({ timeoutMilliseconds: never, signal: abort.signal });
  abort.abort();
  await assert.rejects(aborted, AbortedError);
});

test('an endless error message is truncated', async (t) => {
  const { endpoint } = await fakeEngine(t, status(500, 'x'.repeat(5 << 20)));
  await assert.rejects(clientOf(t, endpoint).update(order, patient()), (error: Error) => {
    assert.ok(error.message.length < 1_000);
    assert.equal((error.cause as string).length, 1 << 20);
    return true;
  });
});

test('an answer without an end is not read to its end', async (t) => {
  const hungUp = gate();
  const { endpoint } = await fakeEngine(t, (request, response) => {
    request.socket.on('close', hungUp.open);
    const more = () => {
      if (!response.destroyed) response.write('x'.repeat(1 << 16), () => setImmediate(more));
    };
    response.writeHead(500);
    more();
  });
  await assert.rejects(clientOf(t, endpoint).update(order, patient()), { message: / with 500: x{500}$/ });
  await hungUp.opened;
});

test("what an engine says moves no terminal's cursor", async (t) => {
  const { endpoint } = await fakeEngine(t, status(500, 'a\u001b[2J\u2028b\rc'));
  await assert.rejects(clientOf(t, endpoint).update(order, patient()), {
    message: / with 500: a\\u001b\[2J\\u2028b c$/,
  });
});

test('a call to an engine that is silent, or stops in the middle of its answer, ends at its deadline', async (t) => {
  for (const answer of [() => {}, (_, response) => void response.writeHead(200).write('{')] as Answer[]) {
    const { endpoint } = await fakeEngine(t, answer);
    await assert.rejects(clientOf(t, endpoint).update(order, hasty()), {
      name: 'DeadlineError',
      message: `engine ${endpoint} did not answer POST /collective_rpc within 300 ms`,
    });
  }
});

test('an abort ends the call at once and closes the connection', async (t) => {
  const asked = gate();
  const hungUp = gate();
  const { endpoint } = await fakeEngine(t, (request) => {
    request.socket.on('close', hungUp.open);
    asked.open();
  });
  const controller = new AbortController();
  const update = clientOf(t, endpoint).update(order, {
    timeoutMilliseconds: never,
    signal: controller.signal,
  });
  await asked.opened;
  const reason = new AbortedError('rank 3 died');
  controller.abort(reason);
  await assert.rejects(update, (error) => error === reason);
  await hungUp.opened;
});

test('a call that is aborted before it starts sends nothing', async (t) => {
  const { asked, endpoint } = await fakeEngine(t, status(200));
  const options = { timeoutMilliseconds: never, signal: AbortSignal.abort('too late') };
  await assert.rejects(clientOf(t, endpoint).update(order, options), {
    name: 'AbortedError',
    message: /too late/,
  });
  await assert.rejects(clientOf(t, endpoint).ready(options), { name: 'AbortedError' });
  assert.deepEqual(asked, []);
});

test('the error names an engine that closes the connection or does not listen', async (t) => {
  const { endpoint, server } = await fakeEngine(t, (request) => request.socket.destroy());
  const client = clientOf(t, endpoint);
  const name = 'EngineError';
  await assert.rejects(client.update(order, patient()), {
    name,
    message: /did not answer POST .*: other side closed/,
  });
  server.close();
  await once(server, 'close');
  await assert.rejects(client.update(order, patient()), {
    name,
    message: /did not answer POST .*ECONNREFUSED/,
  });
});

test('calls that follow each other share a connection, which is closed before the engine may close it', async (t) => {
  const ports = new Set<number>();
  const hungUp = gate();
  const { endpoint } = await fakeEngine(t, (request, response) => {
    ports.add(request.socket.remotePort!);
    request.socket.once('end', hungUp.open);
    response.end();
  });
  const client = clientOf(t, endpoint);
  for (let call = 0; call < 3; call += 1) {
    await client.update(order, patient());
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.equal(ports.size, 1);
  await hungUp.opened;
  await client.update(order, patient());
  assert.equal(ports.size, 2);
});

test('an idle connection that the engine has closed does not fail the next call', async (t) => {
  const { endpoint } = await fakeEngine(t, (request, response) => {
    response.end(() => request.socket.destroy());
  });
  const client = clientOf(t, endpoint);
  await client.update(order, patient());
  await new Promise((resolve) => setTimeout(resolve, soon));
  await client.update(order, patient());
});

test('an engine is ready once it answers its health route with 200', async (t) => {
  let failures = 2;
  const { asked, endpoint } = await fakeEngine(t, (request, response) => {
    failures -= 1;
    status(failures < 0 ? 200 : 503)(request, response);
  });
  await clientOf(t, endpoint).ready(patient());
  assert.deepEqual(asked, Array(3).fill({ route: 'GET /health', body: '' }));
});

test('an engine that is not up yet is polled until it listens', async (t) => {
  const first = await fakeEngine(t, status(200));
  const { port } = first.server.address() as AddressInfo;
  first.server.close();
  await once(first.server, 'close');
  const ready = clientOf(t, first.endpoint).ready(patient());
  await new Promise((resolve) => setTimeout(resolve, soon));
  await fakeEngine(t, status(200), { port });
  await ready;
});

test('the deadline error of an engine that does not become ready has its last answer', async (t) => {
  const { endpoint } = await fakeEngine(t, status(503, '{"error":{"message":"loading"}}'));
  await assert.rejects(clientOf(t, endpoint).ready(hasty()), {
    name: 'DeadlineError',
    message: `engine ${endpoint} is not ready after 300 ms: engine ${endpoint} answered GET /health with 503: loading`,
  });
});

test('an engine can be reached by a unix socket', async (t) => {
  const { asked, endpoint } = await fakeEngine(t, status(200), { path: socketPath(t) });
  const client = clientOf(t, endpoint);
  await client.ready(patient());
  await client.update(order, patient());
  assert.deepEqual(
    asked.map(({ route }) => route),
    ['GET /health', 'POST /collective_rpc'],
  );
});

test('every call has the API key as its bearer token', async (t) => {
  const { asked, endpoint } = await fakeEngine(t, status(200));
  const client = clientOf(t, endpoint, 'sk-1234');
  await client.ready(patient());
  await client.pause('abort', patient());
  await client.update(order, patient());
  assert.deepEqual(
    asked.map(({ authorization }) => authorization),
    Array(asked.length).fill('Bearer sk-1234'),
  );
});

test('an API key that no header can carry is refused, and not part of the error', (t) => {
  for (const key of ['two words', 'schlüssel', 'line\nbreak']) {
    assert.throws(
      () => clientOf(t, 'http://127.0.0.1:1', key),
      (error: Error) => error.name === 'UsageError' && !error.message.includes(key),
    );
  }
});

test('an answer with success: false is a failure, whatever its status', async (t) => {
  const answer = '{"success": false, "message": "requests are running"}';
  const { endpoint } = await fakeEngine(t, status(200, answer));
  await assert.rejects(clientOf(t, endpoint).update(order, patient()), {
    name: 'EngineError',
    message: `engine ${endpoint} answered POST /collective_rpc with 200: requests are running`,
  });
});

test('a page that something else sends in the place of the engine is a failure', async (t) => {
  const { endpoint } = await fakeEngine(t, status(200, '<html>Welcome</html>', 'text/html; charset=utf-8'));
  const client = clientOf(t, endpoint);
  for (const [call, route] of [
    [client.resume(patient()), 'POST /resume'],
    [client.update(order, patient()), 'POST /collective_rpc'],
  ] as const) {
    await assert.rejects(call, {
      name: 'EngineError',
      message: `engine ${endpoint} answered ${route} with 200: an HTML page, which no engine sends`,
    });
  }
});

test('an engine behind a proxy is asked under its prefix', async (t) => {
  for (const [prefix, route] of [
    ['', '/collective_rpc'],
    ['/', '/collective_rpc'],
    ['/engines/a', '/engines/a/collective_rpc'],
    ['/engines/a/', '/engines/a/collective_rpc'],
  ] as const) {
    const { asked, endpoint } = await fakeEngine(t, status(200));
    await clientOf(t, endpoint + prefix).update(order, patient());
    assert.deepEqual(
      asked.map((one) => one.route),
      [`POST ${route}`],
    );
  }
});

test('an engine whose certificate is not trusted is not waited for, and what to do is said', async (t) => {
  // Its key, and a certificate that it has signed itself.
  const pem = readFileSync(new URL('test/engines/fixtures/self-signed.pem', packageRoot));
  const server = createServer({ key: pem, cert: pem });
  const endpoint = (await listening(t, server)).replace('http:', 'https:');
  await assert.rejects(clientOf(t, endpoint).ready(patient()), {
    name: 'EngineError',
    message: /did not answer GET \/health: self-signed certificate: give the .* NODE_EXTRA_CA_CERTS/,
  });
});

test('an invalid endpoint is refused', () => {
  for (const endpoint of [
    '',
    'localhost:8000',
    'ftp://host',
    'http://host/v1',
    'http://host/a/v1/',
    'http://host/a/../b',
    'http://host//a',
    'http://host/a?b=1',
    'unix:',
    'http://',
    ' http://h',
    'http://h\n',
    'http:\\\\h',
  ]) {
    const make = () => new VllmClient({ endpoint, clock: systemClock });
    assert.throws(make, { name: 'UsageError', message: /^invalid endpoint "/ }, endpoint);
  }
});
