/** The agent of a host: it outlives supervisors, its ranks outlive it, and nothing runs on without owner and supervisor. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { verifyWeights } from '../../scenarios/verify-weights.ts';
import { openCheckpoint } from '../../src/checkpoint/source.ts';
import { Cluster, type ClusterOptions } from '../../src/index.ts';
import { temporaryDirectory } from '../checkpoint/safetensors-files.ts';
import { withFleet } from './fleet.ts';
import { directoriesOf, eventually, isRunning, parentOf, pidsOf, replaceSupervisor } from './harness.ts';

const program = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));

/** A rank on host b, whose engine does not matter. */
function optionsOf(options: Partial<ClusterOptions>): ClusterOptions {
  return {
    ranks: 1,
    listen: 'tcp://127.0.0.1:*',
    devices: { kind: 'host', namespace: `test-${randomBytes(6).toString('hex')}`, capacity: 2 ** 24 },
    instances: [{ name: 'b', endpoint: 'http://127.0.0.1:9', ranks: [0], host: 'b' }],
    ...options,
  };
}

/** The process of the cluster's only rank, when it is ready and another one than before. */
async function rankBeside(cluster: Cluster, before: number): Promise<number> {
  let now = before;
  await eventually('another process is the rank', async () => {
    const [rank] = (await cluster.status()).ranks;
    now = rank!.pid ?? before;
    return rank!.state === 'ready' && now !== before;
  });
  return now;
}

function startAgent(
  words: readonly string[],
  variables: Readonly<Record<string, string>> = {},
  stderr: 'pipe' | 'inherit' = 'inherit',
): ChildProcess {
  return spawn(process.execPath, [program, 'agent', ...words], {
    env: { ...process.env, ...variables },
    stdio: ['ignore', 'inherit', stderr],
  });
}

test('agent and ranks outlive supervisors, and updates go on; the second time with a rank that hangs, which is killed', async () => {
  const hosts = { b: { launcher: ['env'], fabricAddresses: ['127.0.0.1'] } };
  const fleet = { instances: { b: [0] }, hosts, listen: 'tcp://127.0.0.1:*' };
  await withFleet(fleet, async ({ cluster, engines, makeModel }) => {
    const model = await makeModel(2);
    await cluster.register('one', model);
    const [rank] = pidsOf(await cluster.status()) as [number];
    const agent = parentOf(rank);
    assert.deepEqual(pidsOf(await replaceSupervisor(cluster)), [rank]);
    assert.equal(parentOf(rank), agent);
    await cluster.update('one');
    await verifyWeights(engines.get('b')!.endpoint, await openCheckpoint(model));

    process.kill(rank, 'SIGSTOP');
    await replaceSupervisor(cluster);
    const other = await rankBeside(cluster, rank);
    assert.deepEqual([isRunning(rank), parentOf(other)], [false, agent]);
    // What it had registered lies in its host's memory.
    await cluster.update('one');
    assert.deepEqual((await cluster.stop()).killed, [`rank 0 on host b (process ${rank})`]);
    assert.deepEqual([agent, other].filter(isRunning), []);
  });
});

test('an agent that is killed has a successor, which adopts its ranks and kills one that hangs', async (t) => {
  const variables = { NCCL_TEST: 'of the host' };
  const hosts = { b: { launcher: ['env', 'NCCL_DEBUG=of-launcher'], environment: variables } };
  const cluster = await Cluster.start(optionsOf({ hosts, stopTimeoutMilliseconds: 6_000 }));
  t.after(() => cluster.stop());
  const [rank] = pidsOf(await cluster.status()) as [number];
  const environment = readFileSync(`/proc/${rank}/environ`, 'utf8').split('\0');
  assert.ok(environment.includes('NCCL_TEST=of the host') && environment.includes('NCCL_DEBUG=of-launcher'));
  const agent = parentOf(rank);
  assert.doesNotMatch(readFileSync(`/proc/${agent}/cmdline`, 'utf8'), /of the host|secretKey/);
  const directories = directoriesOf(rank);
  const successorOf = async (dead: number) => {
    let next = dead;
    await eventually('another agent writes that it is there', () => {
      const record = directories
        .map((directory) => join(directory, 'agent'))
        .find((path) => existsSync(path));
      next = JSON.parse(readFileSync(record!, 'utf8')).pid;
      return next !== dead && isRunning(next);
    });
    return next;
  };
  process.kill(agent, 'SIGKILL');
  const successor = await successorOf(agent);
  assert.deepEqual(pidsOf(await cluster.status()), [rank]);
  // One that hangs is noticed by its silence, or here with its supervisor's end.
  process.kill(rank, 'SIGSTOP');
  await replaceSupervisor(cluster);
  const other = await rankBeside(cluster, rank);
  assert.deepEqual([isRunning(rank), parentOf(other)], [false, successor]);
  process.kill(other, 'SIGSTOP');
  const { killed } = await cluster.stop();
  assert.deepEqual(
    killed,
    [rank, other].map((pid) => `rank 0 on host b (process ${pid})`),
  );
  assert.deepEqual([rank, other, agent, successor].filter(isRunning), []);
  assert.deepEqual(directories.filter(existsSync), []);
});

test('when owner and supervisor are killed, agent and ranks end, and leave nothing', async () => {
  const owner = spawn(process.execPath, [
    fileURLToPath(new URL('fixtures/owner.js', import.meta.url)),
    'agent',
  ]);
  const [line] = await once(createInterface(owner.stdout), 'line');
  const { supervisor, rank } = JSON.parse(line);
  const agent = parentOf(rank);
  const directories = directoriesOf(rank);
  for (const pid of [supervisor, owner.pid!]) process.kill(pid, 'SIGKILL');
  await eventually('agent and rank have ended', () => ![agent, rank].some(isRunning));
  assert.deepEqual(directories.filter(existsSync), []);
});

test('an agent that something else starts joins with its file, is replaced by the next one, and ends with the cluster', async (t) => {
  const file = join(temporaryDirectory(t), 'b.join');
  const start = Cluster.start(optionsOf({ hosts: { b: { joins: true, joinFile: file } } }));
  t.after(async () => (await start).stop());
  await eventually('the join file is there', () => existsSync(file));
  assert.equal(statSync(file).mode & 0o777, 0o600);
  const agent = startAgent(['--join', file]);
  const cluster = await start;
  const [rank] = pidsOf(await cluster.status()) as [number];
  assert.equal(parentOf(rank), agent.pid);
  assert.equal(await cluster.joinFile('b'), readFileSync(file, 'utf8'));

  // Told the same by a variable; its ranks are not.
  const second = startAgent([], { WEIGHTCAST_JOIN: await cluster.joinFile('b') });
  await once(agent, 'exit');
  assert.deepEqual(pidsOf(await cluster.status()), [rank]);
  process.kill(rank, 'SIGKILL');
  const other = await rankBeside(cluster, rank);
  assert.equal(parentOf(other), second.pid);
  assert.doesNotMatch(readFileSync(`/proc/${other}/environ`, 'utf8'), /WEIGHTCAST_JOIN/);
  assert.deepEqual(pidsOf(await replaceSupervisor(cluster)), [other]);
  const ended = once(second, 'exit');
  assert.deepEqual((await cluster.stop()).killed, []);
  assert.deepEqual(await ended, [0, null]);
});

test('a host whose agent does not join is named when its start takes too long', async () => {
  const options = { hosts: { b: { joins: true as const } }, startTimeoutMilliseconds: 1_000 };
  await assert.rejects(Cluster.start(optionsOf(options)), {
    name: 'DeadlineError',
    message: /rank 0 was not ready 1 s after its start .*; no agent of host b has joined/,
  });
});

test('a wrong join file is one clear error', async (t) => {
  const directory = temporaryDirectory(t);
  const good = {
    ...{ format: 'weightcast-join-1', host: 'b', endpoint: 'tcp://127.0.0.1:1' },
    ...{ hubPublicKey: 'a'.repeat(40), publicKey: 'b'.repeat(40), secretKey: 'c'.repeat(40) },
    directory: `/dev/shm/weightcast-${randomBytes(6).toString('hex')}-b`,
    ...{ startTimeoutMilliseconds: 200, stopTimeoutMilliseconds: 1_000, orphanTimeoutMilliseconds: 1_000 },
    ...{ inherited: {}, environment: {} },
  };
  const contents: [string, RegExp, number][] = [
    ['no JSON', /^UsageError: "\S+" is not a join file: it is not JSON\n$/, 2],
    [
      JSON.stringify({ ...good, secretKey: 'short' }),
      /^UsageError: "\S+" is not a join file .*secretKey: it is not a key\n$/,
      2,
    ],
    [
      JSON.stringify(good),
      /^PeerLostError: the agent of host b gives up: no hub at tcp:\/\/127\.0\.0\.1:1 welcomed .*\n$/,
      1,
    ],
  ];
  const outcomes = contents.map(async ([content, words, exitCode], index) => {
    const file = join(directory, `${index}`);
    writeFileSync(file, content);
    const agent = startAgent(['--join', file], {}, 'pipe');
    const [said, [code]] = await Promise.all([text(agent.stderr!), once(agent, 'exit')]);
    assert.match(said, words);
    assert.equal(code, exitCode);
  });
  await Promise.all(outcomes);
  assert.equal(existsSync(good.directory), false);
});
