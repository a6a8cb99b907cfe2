/** The trainer's side in Python, against a daemon and the reference engine. */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { after, type TestContext, test } from 'node:test';
import { temporaryDirectory } from '../checkpoint/safetensors-files.ts';
import { eventually, isRunning } from '../cluster/harness.ts';
import { writeWeightcast } from '../commands.ts';
import { startDaemonBench } from './harness.ts';
import { runPython, withoutPython } from './python.ts';

const bench = await startDaemonBench({ after });
const { daemon, engine, instance } = bench;
const skip = withoutPython();

/** `name`: of a case of publisher_cases.py, or behind the name of another file of cases. */
async function runCase(name: string, given: object, environment: Record<string, string> = {}) {
  const [file, chosen] = name.includes('/') ? name.split('/') : ['publisher_cases', name];
  const argument = { case: chosen, socket: daemon.socket, ...given };
  const { code, output, said } = await runPython(`test/daemon/${file}.py`, argument, environment);
  assert.equal(code, 0, said);
  return output;
}

/** A command `weightcast` that is this program. */
function commandOf(t: TestContext): string {
  return writeWeightcast(temporaryDirectory(t));
}

test('a trainer publishes versions, and engines serve them', { skip }, async () => {
  const models = [await bench.makeModel(2), await bench.makeModel(3)];
  await runCase('steps', { instance, models });
});

test('versions take turns in the same memory', { skip }, async () => {
  await runCase('reused', { models: [await bench.makeModel(4)] });
});

test('what is received is not written meanwhile', { skip }, async () => {
  await runCase('receiver_keeps', {});
});

test('a trainer that is killed leaves what was complete, and nothing else', { skip }, async () => {
  const shared = (await bench.ask('GET', '/v1/status')).body.daemon.shared_directory;
  const argument = { case: 'trainer_dies', socket: daemon.socket };
  const { code, said } = await runPython('test/daemon/publisher_cases.py', argument);
  assert.equal(code, null, said);
  const files = () => readdirSync(shared).filter((name) => name.startsWith('session-'));
  await eventually('one file is left', () => files().length === 1);
  const { body } = await bench.ask('GET', '/v1/checkpoints/orphan');
  assert.deepEqual([body.version, body.files], ['complete', [join(shared, files()[0]!)]]);
  assert.equal((await bench.ask('DELETE', '/v1/checkpoints/orphan')).status, 200);
  assert.deepEqual(files(), []);
});

test('versions stay in the memory of a device, from which the rank there has them', { skip }, async () => {
  const models = [await bench.makeModel(2), await bench.makeModel(3), await bench.makeModel(2)];
  await runCase('publisher_device_cases/steps', {
    instance,
    models,
    device: `HOST-${basename(bench.scratch)}-0`,
  });
});

test('a version in the memory of a device ends with its trainer, also one that is killed', {
  skip,
}, async () => {
  const shared = (await bench.ask('GET', '/v1/status')).body.daemon.shared_directory;
  const model = await bench.makeModel(2);
  const device = `HOST-${basename(bench.scratch)}-1`;
  const argument = { case: 'trainer_dies', socket: daemon.socket, model, device };
  const { code, said } = await runPython('test/daemon/publisher_device_cases.py', argument);
  assert.equal(code, null, said);
  await eventually(
    'it is unregistered',
    async () => (await bench.ask('GET', '/v1/checkpoints/mortal')).status === 404,
  );
  assert.deepEqual(
    readdirSync(shared).filter((name) => name.endsWith('.device')),
    [],
  );
  assert.equal((await bench.ask('POST', '/v1/updates', { checkpoint: 'mortal' })).status, 404);
});

test('a daemon that is killed leaves what was complete to the next one', { skip }, async (t) => {
  const socket = join(temporaryDirectory(t), 'killed.sock');
  const given = { socket, serve_options: ['--devices', 'host:killed-under-publisher'] };
  await runCase('daemon_dies', given, { WEIGHTCAST_COMMAND: commandOf(t) });
});

test('the ranks of a trainer write a version together', { skip }, async () => {
  await runCase('publisher_rank_cases/ranks', {});
});

test('a rank that comes to a version which rank 0 has given up is told why', { skip }, async () => {
  await runCase('publisher_rank_cases/abandoned_by_rank_0', {});
});

test('a version that one rank cannot begin is given up by all at once', { skip }, async () => {
  await runCase('publisher_rank_cases/not_begun', {});
});

test('of two trainers that publish by one name the second is refused', { skip }, async () => {
  await runCase('two_trainers', {});
});

test('an update is cancelled with its task', { skip }, async () => {
  await runCase('cancelled', { models: [await bench.makeModel(5)], workers: engine.workerPids });
});

test('a word in place of a list is refused by name', { skip }, async () => {
  await runCase('words', {});
});

test('what is wrong with a version is one line that names it', { skip }, async () => {
  await runCase('mistakes', {});
});

test('a first version that is refused leaves nothing to the next one', { skip }, async () => {
  await runCase('publisher_fault_cases/refused_first', {});
});

test('a tensor that could not be copied is not given', { skip }, async () => {
  await runCase('publisher_fault_cases/failed_put', {});
});

test('files that may be registered are not written, and go once others are registered', {
  skip,
}, async () => {
  await runCase('publisher_fault_cases/unknown_outcome', {});
});

test('a process that was forked while something was received keeps no lock', { skip }, async () => {
  await runCase('publisher_fault_cases/received_and_forked', { models: [await bench.makeModel(6)] });
});

test('what the system refuses is an error of the publisher', { skip }, async () => {
  await runCase('publisher_fault_cases/no_raw_errors', {});
});

test('a silent daemon keeps nobody past a deadline, nor a task that is cancelled', { skip }, async () => {
  await runCase('publisher_fault_cases/silent_daemon', {});
});

test('an update can be cancelled while all threads of its loop are busy', { skip }, async () => {
  await runCase('publisher_fault_cases/cancelled_among_many', {});
});

test('a process that was forked within a version changes nothing of it', { skip }, async () => {
  await runCase('publisher_fault_cases/forked_while_open', {});
});

test('a daemon that was started for a publisher ends some time after it', { skip }, async (t) => {
  const socket = join(temporaryDirectory(t), 'started.sock');
  const given = { socket, serve_options: ['--devices', 'host:started-by-publisher'] };
  const pid = Number(await runCase('started', given, { WEIGHTCAST_COMMAND: commandOf(t) }));
  await eventually('it has ended', () => !isRunning(pid));
});
