/** A daemon from its start to its end, as clients see it. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { verifyWeights } from '../../scenarios/verify-weights.ts';
import { INDEX } from '../../src/checkpoint/file-list.ts';
import { openCheckpoint } from '../../src/checkpoint/source.ts';
import { statusAnswer, updateAnswer } from '../../src/daemon/schemas.ts';
import { Baseline } from '../../src/index.ts';
import { packageRoot } from '../../src/package-root.ts';
import { mostTextBytes } from '../../src/text-file.ts';
import { ask } from './ask.ts';
import { startDaemonBench } from './harness.ts';
import { runPython, withoutPython } from './python.ts';

const token = 'a-token-of-some-length';
const bench = await startDaemonBench({ after }, { listen: { host: '127.0.0.1', port: 0, token } });
const { daemon, scratch, engine, instance } = bench;
const one = await bench.makeModel(2);

test('nobody but its user may use the socket', () => {
  assert.equal(statSync(daemon.socket).mode & 0o777, 0o600);
});

test('a checkpoint that is registered before there are ranks is loaded when they come', async () => {
  const waiting = await bench.ask('POST', '/v1/checkpoints', { name: 'one', path: one });
  assert.equal(waiting.status, 200, waiting.text);
  assert.equal(waiting.body.state, 'waiting');
  const metas = await bench.ask('GET', '/v1/checkpoints/one/metas');
  assert.deepEqual([metas.status, metas.body.error.code], [400, 'WEIGHTCAST_USAGE']);
  assert.match(metas.body.error.message, /^checkpoint one is in no memory yet/);
  const early = await bench.ask('GET', '/readyz');
  assert.deepEqual([early.status, early.body.reasons], [503, ['the daemon has no instance']]);

  const added = await bench.ask('POST', '/v1/instances', { ...instance, api_key: 'the-secret-key' });
  assert.equal(added.status, 200, added.text);
  const status = statusAnswer.parse((await bench.ask('GET', '/v1/status')).body);
  assert.deepEqual(
    status.checkpoints.map(({ name, state }) => [name, state]),
    [['one', 'loaded']],
  );
  assert.deepEqual(status.reasons, ['instance a is unknown (this daemon has not updated it yet)']);
});

test('an update answers with what became of each instance, and what is proved', async () => {
  const { status, body, text } = await bench.ask('POST', '/v1/updates', { checkpoint: 'one' });
  assert.equal(status, 200, text);
  const { report } = updateAnswer.parse(body);
  assert.deepEqual(
    report!.instances.map(({ name, outcome, proofs }) => [name, outcome, proofs.arrived]),
    [['a', 'updated', 'holds']],
  );
  await verifyWeights(engine.endpoint, await openCheckpoint(one));
  const ready = await bench.ask('GET', '/readyz');
  assert.deepEqual([ready.status, ready.body], [200, { ready: true, reasons: [] }]);
  const metrics = (await bench.ask('GET', '/metrics')).text;
  for (const line of [
    'weightcast_build_info{version="0.0.0-test"} 1',
    'weightcast_updates_total{outcome="succeeded"} 1',
    'weightcast_update_seconds_count{stage="total",outcome="succeeded"} 1',
    `weightcast_instance_version_info{instance="a",version="one@${report!.digest}"} 1`,
    'weightcast_instance_mixed{instance="a"} 0',
    'weightcast_ranks{state="ready"} 2',
    'weightcast_restarts_total 0',
    'weightcast_device_memory_shortages_total 0',
  ])
    assert.ok(metrics.split('\n').includes(line), `${line} is in ${metrics}`);
});

test('metas say where a checkpoint lies in memory, and a checkpoint is registered by them', async () => {
  const { status, body, text } = await bench.ask('GET', '/v1/checkpoints/one/metas');
  assert.equal(status, 200, text);
  assert.equal(JSON.parse(body.metas).format, 'weightcast-metas');
  const metas = join(scratch, 'metas.json');
  writeFileSync(metas, body.metas, { mode: 0o600 });
  const copy = await bench.ask('POST', '/v1/checkpoints', { name: 'copy', metas });
  assert.equal(copy.status, 200, copy.text);
  const [original] = (await bench.ask('GET', '/v1/status')).body.checkpoints;
  for (const key of ['digest', 'tensors', 'bytes']) assert.equal(copy.body[key], original[key], key);
  assert.equal((await bench.ask('DELETE', '/v1/checkpoints/copy')).status, 200);

  assert.equal((await bench.ask('GET', '/v1/checkpoints/none/metas')).status, 404);
  const two = await bench.ask('POST', '/v1/checkpoints', { name: 'copy', metas, path: one });
  assert.match(two.text, /give one of path, files and metas/);
  writeFileSync(metas, '{}');
  const wrong = await bench.ask('POST', '/v1/checkpoints', { name: 'copy', metas });
  assert.deepEqual([wrong.status, wrong.body.error.code], [400, 'WEIGHTCAST_CHECKPOINT'], wrong.text);
});

test('what an engine must hold is a file below a root', async () => {
  const baseline = join(scratch, 'baseline.json');
  const update = (path: string) =>
    bench.ask('POST', '/v1/updates', { checkpoint: 'one', verify: { baseline: path } });
  const missing = await update(baseline);
  assert.deepEqual([missing.status, missing.body.error.code], [400, 'WEIGHTCAST_CHECKPOINT'], missing.text);
  assert.equal((await update('/etc/passwd')).body.error.code, 'WEIGHTCAST_ACCESS');
  (await Baseline.of([{ endpoint: engine.endpoint }])).write(baseline);
  const { body, text } = await update(baseline);
  assert.equal(updateAnswer.parse(body).report!.instances[0]!.proofs.installed, 'holds', text);
});

test('an update that is not waited for tells of itself by events', async () => {
  const job = await bench.ask('POST', '/v1/updates', { checkpoint: 'one', wait: false });
  assert.deepEqual([job.status, job.body.state], [202, 'running']);
  const { text, headers } = await bench.ask('GET', `/v1/updates/${job.body.id}/events`);
  assert.equal(headers['content-type'], 'text/event-stream');
  const last = text.trim().split('\n\n').at(-1)!;
  assert.match(last, /^event: update$/m);
  assert.equal(JSON.parse(/^data: (.*)$/m.exec(last)![1]!).state, 'succeeded');
  const { body } = await bench.ask('GET', `/v1/updates/${job.body.id}`);
  assert.equal(updateAnswer.parse(body).report!.instances[0]!.outcome, 'updated');
});

test("checkpoint-engine's routes take its bodies", async () => {
  const two = await bench.makeModel(3);
  const files = (await openCheckpoint(two)).files.map(({ path }) => path);
  const route = (rest: string) => `/v1/checkpoints/${encodeURIComponent('Qwen/two')}${rest}`;
  const steps: [string, string, unknown?][] = [
    ['GET', '/v1/healthz'],
    ['POST', route('/files'), { files }],
    ['POST', route('/gather-metas')],
    [
      'POST',
      route('/update'),
      {
        ranks: [],
        update_url: `${engine.endpoint}/collective_rpc`,
        inference_group_ranks: [0, 1],
        timeout: 300.0,
        uds: null,
      },
    ],
  ];
  for (const [method, path, body] of steps) {
    const answer = await bench.ask(method, path, body);
    assert.equal(answer.status, 200, `${path}: ${answer.text}`);
  }
  const typed = { 'content-type': 'application/json' };
  const empty = await ask(daemon.socket, 'POST', route('/gather-metas'), undefined, typed);
  assert.equal(empty.status, 200, empty.text);
  await verifyWeights(engine.endpoint, await openCheckpoint(two));
  const all = await bench.ask('POST', route('/update'), {});
  assert.equal(all.status, 200, all.text);
  const some = await bench.ask('POST', route('/update'), { ranks: [0, 1, 2] });
  assert.equal(some.status, 200, some.text);
  const elsewhere = { update_url: 'http://10.9.9.9:8000/collective_rpc', inference_group_ranks: [4] };
  const refused = await bench.ask('POST', route('/update'), elsewhere);
  assert.deepEqual([refused.status, refused.body.error.code], [403, 'WEIGHTCAST_ACCESS']);
  const { body: metas } = await bench.ask('GET', '/v1/metas');
  assert.deepEqual(Object.keys(metas), ['0']);
  assert.deepEqual([metas[0].memory_buffer_metas_list, metas[0].rdma_device], [[], 'weightcast']);
  const loaded = await bench.ask('POST', '/v1/metas', metas);
  assert.equal(loaded.status, 200, loaded.text);
  const joined = await bench.ask('POST', '/v1/checkpoints/joined/update', {});
  assert.equal(joined.status, 200, joined.text);
  const digests = (await bench.ask('GET', '/v1/status')).body.checkpoints.map(
    ({ name, digest }: { name: string; digest: string }) => [name, digest] as const,
  );
  const digestOf = new Map<string, string>(digests);
  assert.equal(digestOf.get('joined'), digestOf.get('Qwen/two'));
  await verifyWeights(engine.endpoint, await openCheckpoint(two));
  const theirs = { 0: { p2p_store_addr: '10.0.0.1:1', memory_buffer_metas_list: [], rdma_device: 'mlx5_0' } };
  const unreadable = await bench.ask('POST', '/v1/metas', theirs);
  assert.deepEqual([unreadable.status, unreadable.body.error.code], [400, 'WEIGHTCAST_USAGE']);
  assert.equal((await bench.ask('DELETE', '/v1/checkpoints/joined')).status, 200);
  assert.equal((await bench.ask('DELETE', route(''))).status, 200);
  assert.deepEqual((await bench.ask('GET', '/v1/metas')).body, {});
  assert.equal((await bench.ask('POST', route('/gather-metas'))).status, 404);
});

test('what is wrong with a request is one line with a code and a fitting status', async () => {
  writeFileSync(join(scratch, 'bad.safetensors'), 'not a checkpoint');
  mkdirSync(join(scratch, 'indexed'));
  // Whoever opens it waits for a writer.
  spawnSync('mkfifo', [join(scratch, 'indexed', INDEX)]);
  writeFileSync(join(scratch, 'long'), '');
  truncateSync(join(scratch, 'long'), mostTextBytes + 1);
  const cases: [string, string, unknown, number, string, RegExp][] = [
    [
      'POST',
      '/v1/checkpoints',
      { name: 'x', path: '/etc/passwd' },
      403,
      'ACCESS',
      /outside the daemon's roots/,
    ],
    ['POST', '/v1/checkpoints', { name: 'x', path: 'relative' }, 400, 'USAGE', /absolute/],
    [
      'POST',
      '/v1/checkpoints',
      { name: 'x', path: join(scratch, 'bad.safetensors') },
      400,
      'CHECKPOINT',
      /bad/,
    ],
    [
      'POST',
      '/v1/checkpoints',
      { name: 'x', path: one, files: [one] },
      400,
      'USAGE',
      /one of path, files and metas/,
    ],
    ['POST', '/v1/checkpoints', { name: 'a\u0000b', path: one }, 400, 'USAGE', /name/],
    ['POST', '/v1/checkpoints', { name: 'n'.repeat(257), path: one }, 400, 'USAGE', /name/],
    // Nobody could unregister these by their names.
    [
      'POST',
      '/v1/checkpoints',
      '{"name":"a\\ud800b","path":"/x"}',
      400,
      'USAGE',
      /^name: it has .*half a character/,
    ],
    ['POST', '/v1/checkpoints', { name: '..', path: one }, 400, 'USAGE', /^name: it is a directory/],
    [
      'POST',
      '/v1/checkpoints',
      { name: 'a\u202eb', path: one },
      400,
      'USAGE',
      /^name: .*direction of writing/,
    ],
    [
      'POST',
      '/v1/checkpoints',
      { name: 'x', path: join(scratch, 'indexed') },
      400,
      'CHECKPOINT',
      /index.json .*not a regular file/,
    ],
    [
      'POST',
      '/v1/checkpoints',
      { name: 'x', metas: join(scratch, 'long') },
      400,
      'CHECKPOINT',
      /longer than 256 MiB/,
    ],
    [
      'POST',
      '/v1/updates',
      { checkpoint: 'one', verify: { baseline: join(scratch, 'long') } },
      400,
      'USAGE',
      /longer than 256 MiB/,
    ],
    ['POST', '/v1/checkpoints', '{"name":', 400, 'USAGE', /JSON/],
    ['POST', '/v1/checkpoints', `"${'x'.repeat(5 << 20)}"`, 413, 'USAGE', /large/],
    ['POST', '/v1/checkpoints', '{"__proto__": {"name": "x"}}', 400, 'USAGE', /./],
    ['POST', '/v1/updates', { checkpoint: 'one', bucketBytes: 1 }, 400, 'USAGE', /bucketBytes/],
    ['POST', '/v1/updates', { checkpoint: 'one', memory_fraction: 2 }, 400, 'USAGE', /memory_fraction/],
    ['POST', '/v1/updates', { checkpoint: 'none' }, 404, 'NOT_FOUND', /no checkpoint none/],
    ['POST', '/v1/updates', { checkpoint: 'one', instances: ['b'] }, 404, 'NOT_FOUND', /no instance b/],
    ['POST', '/v1/instances', instance, 400, 'USAGE', /instance a already/],
    ['POST', '/v1/instances', { ...instance, name: 'b' }, 400, 'USAGE', /rank 0 is in the cluster/],
    [
      'POST',
      '/v1/instances',
      { name: 'b', endpoint: 'http://10.9.9.9:80', ranks: [3] },
      403,
      'ACCESS',
      /--allow-engine/,
    ],
    ['POST', '/v1/instances', { ...instance, name: 'b', ranks: [-1] }, 400, 'USAGE', /ranks.0/],
    ['DELETE', '/v1/instances/b', undefined, 404, 'NOT_FOUND', /no instance b/],
    ['POST', '/v1/instances/b/resume', undefined, 404, 'NOT_FOUND', /no instance b/],
    ['DELETE', '/v1/checkpoints/none', undefined, 404, 'NOT_FOUND', /no checkpoint none/],
    ['GET', '/v1/updates/none', undefined, 404, 'NOT_FOUND', /no update none/],
    ['GET', '/v1/updates/none/events', undefined, 404, 'NOT_FOUND', /no update none/],
    ['GET', '/nowhere', undefined, 404, 'NOT_FOUND', /no route GET \/nowhere/],
    ['GET', '/v1/checkpoints/%2e%2e%2f%00/files', undefined, 404, 'NOT_FOUND', /no route/],
    [
      'POST',
      '/v1/updates',
      { checkpoint: 'one', verify: 3 },
      400,
      'USAGE',
      /^verify: .*expected boolean or object$/,
    ],
    [
      'POST',
      '/v1/updates',
      { checkpoint: 'one', verify: { instaled: true } },
      400,
      'USAGE',
      /^verify.instaled: /,
    ],
    [
      'POST',
      '/v1/updates',
      { checkpoint: 'one', fused_modules: [['nowhere_proj', 'o_proj']] },
      400,
      'USAGE',
      /^fused_modules: no tensor is of a module "nowhere_proj"/,
    ],
    [
      'POST',
      '/v1/instances',
      { ...instance, name: 'b', endpoint: 'http://u:p@127.0.0.1:1' },
      400,
      'USAGE',
      /use api_key$/,
    ],
    ['GET', '/v1/updates/%zz', undefined, 400, 'USAGE', /'\/v1\/updates\/%zz' is not a valid url/],
    ['POST', '/v1/stop', { when: 'later' }, 400, 'USAGE', /when/],
    // Too many of what may be given, not something else.
    [
      'POST',
      '/v1/updates',
      { checkpoint: 'one', verify: { answers: Array(1_025).fill({ prompt: 'x', logprobs: [-1] }) } },
      400,
      'USAGE',
      /^verify.answers: Too big: expected array to have <=1024 items$/,
    ],
    ['POST', '/v1/instances/a/resume', { pause: 'abort' }, 400, 'USAGE', /pause/],
    [
      'POST',
      '/v1/instances',
      { ...instance, name: 'b', ranks: [5] },
      400,
      'USAGE',
      /b .* has 1 rank, .* 2 workers/,
    ],
  ];
  for (const [method, path, body, status, code, message] of cases) {
    const answer = await bench.ask(method, path, body);
    const name = `${method} ${path} ${JSON.stringify(body)?.slice(0, 80)}: ${answer.text.slice(0, 300)}`;
    assert.deepEqual([answer.status, answer.body.error.code], [status, `WEIGHTCAST_${code}`], name);
    assert.match(answer.body.error.message, message, name);
    assert.doesNotMatch(answer.body.error.message, /\n/);
  }
  const tooNew = await ask(daemon.socket, 'GET', '/v1/status', undefined, { 'weightcast-api': '4' });
  assert.deepEqual([tooNew.status, tooNew.body.error.code], [400, 'WEIGHTCAST_USAGE']);
  for (const version of ['1', '2', '3'])
    assert.equal(
      (await ask(daemon.socket, 'GET', '/v1/status', undefined, { 'weightcast-api': version })).status,
      200,
    );
});

test('what is no request is refused as what is wrong in one, on the socket and over TCP', async () => {
  const { hostname, port } = new URL(daemon.url!);
  const head = 'GET /healthz HTTP/1.1\r\nHost: x\r\n';
  const cases: [string, number, RegExp][] = [
    ['no request\r\n\r\n', 400, /no request of HTTP/],
    [`${head}X: ${'y'.repeat(17_000)}\r\n\r\n`, 431, /headers .* too large/],
    [`${head}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n`, 400, /no request of HTTP/],
  ];
  for (const where of [{ path: daemon.socket }, { host: hostname, port: Number(port) }])
    for (const [sent, status, message] of cases) {
      const connection = connect(where as { path: string });
      connection.on('error', () => {}).write(sent);
      let text = '';
      for await (const piece of connection.setEncoding('latin1')) text += piece;
      assert.match(text, new RegExp(`^HTTP/1.1 ${status} `));
      const { error } = JSON.parse(text.split('\r\n\r\n')[1]!);
      assert.equal(error.code, 'WEIGHTCAST_USAGE');
      assert.match(error.message, message);
    }
  const form = await ask(daemon.socket, 'POST', '/v1/updates', 'checkpoint=one', {
    'content-type': 'application/x-www-form-urlencoded',
  });
  assert.deepEqual([form.status, form.body.error.code], [415, 'WEIGHTCAST_USAGE']);
  assert.match(form.body.error.message, /content-type: application\/json/);
});

test('who asks is answered beside 600 connections that ask nothing, on the socket and over TCP', async (t) => {
  const { hostname, port } = new URL(daemon.url!);
  for (const where of [{ path: daemon.socket }, { host: hostname, port: Number(port) }]) {
    // The daemon, which is in this process, accepts them meanwhile.
    for (let count = 0; count < 600; count += 1) {
      const connection = connect(where as { path: string }).on('error', () => {});
      t.after(() => connection.destroy());
      await once(connection, 'connect');
    }
    const { status } = await ask('path' in where ? where.path : daemon.url!, 'GET', '/healthz');
    assert.equal(status, 200);
  }
});

test('an engine that does not run yet is added, and the status says that it was not asked', async () => {
  const waiting = { name: 'later', endpoint: 'http://127.0.0.1:1', ranks: [5], devices: [3] };
  const { status, body, text } = await bench.ask('POST', '/v1/instances', waiting);
  assert.equal(status, 200, text);
  const later = statusAnswer.parse(body).instances.find(({ name }) => name === 'later');
  assert.equal(later!.state, 'unknown');
  assert.match(later!.problem!, /^engine http:\/\/127.0.0.1:1 is not ready after 2000 ms: .*ECONNREFUSED/);
  assert.equal((await bench.ask('DELETE', '/v1/instances/later')).status, 200);
});

test('an engine that someone else has paused makes the daemon not ready', async () => {
  assert.equal((await bench.ask('POST', '/v1/updates', { checkpoint: 'one' })).status, 200);
  await fetch(`${engine.endpoint}/pause`, { method: 'POST' });
  const paused = await bench.ask('GET', '/readyz');
  assert.equal(paused.status, 503);
  assert.deepEqual(paused.body.reasons, ['instance a is unknown (its engine was paused by someone else)']);
  assert.equal((await bench.ask('POST', '/v1/instances/a/resume')).status, 200);
  assert.equal((await bench.ask('GET', '/readyz')).status, 200);
});

test('a temporary checkpoint goes when another one is served in its place', async () => {
  const names = async () =>
    (await bench.ask('GET', '/v1/status')).body.checkpoints.map(({ name }: { name: string }) => name);
  for (const name of ['step-1', 'step-2']) {
    const body = { name, path: one, temporary: true };
    assert.equal((await bench.ask('POST', '/v1/checkpoints', body)).status, 200);
    // The one that is served stays while the next one is loaded.
    assert.deepEqual(await names(), name === 'step-1' ? ['one', 'step-1'] : ['one', 'step-1', 'step-2']);
    assert.equal((await bench.ask('POST', '/v1/updates', { checkpoint: name })).status, 200);
    assert.deepEqual(await names(), ['one', name]);
  }
  assert.equal((await bench.ask('POST', '/v1/updates', { checkpoint: 'one' })).status, 200);
  assert.deepEqual(await names(), ['one']);
});

test('no answer has the key of an engine, and a refusal does not repeat it', async () => {
  const secret = 'the-secret-key';
  const wrong = { ...instance, name: 'b', ranks: [7], api_key: `${secret} with spaces` };
  const answers = [
    await bench.ask('POST', '/v1/instances', wrong),
    await bench.ask('GET', '/v1/status'),
    await bench.ask('GET', '/metrics'),
    await bench.ask('GET', '/v1/updates'),
  ];
  assert.equal(answers[0]!.status, 400);
  for (const { text } of answers) assert.ok(!text.includes(secret), text);
});

test('over TCP nothing but health and readiness is told to who has no token', async () => {
  const url = daemon.url!;
  const asked = (path: string, headers = {}) => ask(url, 'GET', path, undefined, headers);
  for (const headers of [{}, { authorization: 'Bearer wrong' }, { authorization: token }])
    for (const path of [
      '/v1/status',
      '/metrics',
      '/openapi.json',
      '/nowhere',
      '/v1/events',
      '/healthz/',
      '//healthz',
    ]) {
      const { status, body } = await asked(path, headers);
      assert.deepEqual([status, body.error.code], [401, 'WEIGHTCAST_ACCESS'], path);
    }
  assert.equal((await asked('/healthz')).status, 200);
  assert.equal((await asked('/readyz')).status, 200);
  assert.equal((await asked('/v1/status', { authorization: `Bearer ${token}` })).status, 200);
});

test('the OpenAPI document has every route, and the schemas of bodies', async () => {
  const { body } = await bench.ask('GET', '/openapi.json');
  assert.equal(body.openapi, '3.1.0');
  assert.deepEqual(
    Object.keys(body.paths)
      .filter((path) => path.startsWith('/v1/updates'))
      .sort(),
    ['/v1/updates', '/v1/updates/{id}', '/v1/updates/{id}/events'],
  );
  const schema = body.paths['/v1/updates'].post.requestBody.content['application/json'].schema;
  assert.deepEqual(schema.required, ['checkpoint']);
  assert.equal(schema.additionalProperties, false);
  for (const path of Object.keys(body.paths))
    for (const method of Object.keys(body.paths[path])) {
      if (['/v1/stop', '/v1/events', '/v1/session'].includes(path)) continue;
      const answer = await bench.ask(method.toUpperCase(), path.replace(/\{\w+\}/g, 'none'));
      assert.doesNotMatch(answer.text, /no route/, `${method} ${path}`);
    }
});

test('a Python client does all of it', { skip: withoutPython() }, async () => {
  const { code, said } = await runPython('test/daemon/client_cases.py', {
    socket: daemon.socket,
    url: daemon.url,
    token,
    model: one,
    instance,
  });
  assert.equal(code, 0, said);
  await verifyWeights(engine.endpoint, await openCheckpoint(one));
});

test('a client of the version of the API before finds in answers all that it knows', async () => {
  const path = fileURLToPath(new URL('test/daemon/fixtures/api-1.json', packageRoot));
  const recorded: { method: string; path: string; status: number; answer: unknown }[] = JSON.parse(
    readFileSync(path, 'utf8'),
  );
  const known = (method: string, route: string) =>
    recorded.findLast((each) => each.method === method && each.path === route)!.answer;
  const older = (method: string, route: string, body?: unknown) =>
    ask(daemon.socket, method, route, body, { 'weightcast-api': '1' });
  const asked = [
    [known('POST', '/v1/checkpoints'), await older('POST', '/v1/checkpoints', { name: 'c', path: one })],
    [known('GET', '/v1/checkpoints/c'), await older('GET', '/v1/checkpoints/c')],
    [known('GET', '/v1/status'), await older('GET', '/v1/status')],
  ] as const;
  for (const [answer, { body }] of asked) assert.deepEqual(lacking(answer, body), []);
  assert.equal((await older('DELETE', '/v1/checkpoints/c')).status, 200);
});

/** What an answer of today lacks, or has in another form. */
function lacking(known: unknown, found: unknown, place = ''): string[] {
  if (known === null || found === null) return [];
  if (Array.isArray(known) && Array.isArray(found))
    return known.length === 0 || found.length === 0 ? [] : lacking(known[0], found[0], `${place}[0]`);
  if (typeof known !== typeof found) return [place];
  if (typeof known !== 'object') return [];
  return Object.entries(known).flatMap(([key, value]) =>
    lacking(value, (found as Record<string, unknown>)[key], `${place}.${key}`),
  );
}

test('an instance that leaves takes the memory along; what was registered comes back with the next', async () => {
  assert.equal((await bench.ask('DELETE', '/v1/instances/a')).status, 200);
  const without = await bench.ask('POST', '/v1/updates', { checkpoint: 'one' });
  assert.deepEqual([without.status, without.body.error.code], [400, 'WEIGHTCAST_USAGE']);
  assert.match(without.body.error.message, /no instance to update/);
  const { body } = await bench.ask('GET', '/v1/status');
  assert.equal(body.checkpoints[0].state, 'waiting');
  // Its ranks have other numbers now, on the same devices.
  const { ranks: _, ...engineOnly } = instance;
  const moved = { ...engineOnly, workers: [{ ranks: [8, 9], devices: [0, 1] }] };
  const added = await bench.ask('POST', '/v1/instances', moved);
  assert.equal(added.status, 200, added.text);
  assert.equal((await bench.ask('POST', '/v1/updates', { checkpoint: 'one' })).status, 200);
  await verifyWeights(engine.endpoint, await openCheckpoint(one));
});

test('a daemon that is stopped leaves neither socket nor shared memory', async () => {
  const { shared_directory: shared } = (await bench.ask('GET', '/v1/status')).body.daemon;
  assert.ok(existsSync(shared));
  await daemon.stop();
  assert.deepEqual([existsSync(shared), existsSync(daemon.socket)], [false, false]);
});
