/** What the command leaves of an engine that it has paused, however the command ends. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { HostDevice } from '../../src/native-bridge/host-device.ts';
import { f32, temporaryDirectory, writeSafetensors } from '../checkpoint/safetensors-files.ts';
import { Command } from '../scenarios/command.ts';
import { type Fault, startEngine } from './fake-instance.ts';
import { eventually, isRunning } from './harness.ts';

/** Starts the command `update` and resolves when the engine has got as far as `reached`. */
async function startUpdate(t: TestContext, first: Fault, reached: string, ...options: string[]) {
  let fault = first;
  const engine = await startEngine(t, () => fault, { is_paused: false });
  const turn = (next: Fault) => {
    fault = next;
  };
  const model = join(temporaryDirectory(t), 'model.safetensors');
  writeSafetensors(model, [f32('w', 4)]);
  const namespace = `test-${randomBytes(6).toString('hex')}`;
  // As the workers of an engine have.
  const device = HostDevice.open({ namespace, index: 0, capacity: 2 ** 24, uploadThreads: 1 });
  t.after(() => device.close());
  const target = [
    '--endpoint',
    engine.endpoint,
    '--ranks',
    '1',
    '--devices',
    `host:${namespace}`,
    ...options,
  ];
  const command = new Command(t, 'src/cli/main.ts', 'update', '--checkpoint', model, ...target);
  await eventually(`the engine is asked ${reached}`, () => engine.asked.includes(reached));
  return { ...engine, command, turn };
}

const pausing = ['--pause', 'wait'];

for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
  test(`a command that gets ${signal} before anything is installed leaves the engine resumed`, async (t) => {
    const { asked, said, command } = await startUpdate(t, 'silence', '/collective_rpc', ...pausing);
    assert.equal(said.is_paused, true);
    command.kill(signal);
    await eventually('the engine is resumed', () => asked.at(-1) === '/resume');
    const { errors } = await command.ended;
    assert.doesNotMatch(errors, /"level":50/, 'an end that was asked for is no error of a process');
    if (signal === 'SIGTERM') assert.match(errors, /interrupted by SIGTERM: the cluster is stopping\n$/);
  });
}

test('a command that is interrupted while its engine pauses undoes a pause that takes effect after that', async (t) => {
  const { asked, said, command } = await startUpdate(t, 'late pause', '/pause?mode=wait', ...pausing);
  command.interrupt();
  const { code, errors } = await command.ended;
  assert.equal(code, 130);
  assert.match(
    errors,
    /interrupted by SIGINT: the cluster is stopping; instance engine may still pause.*; the cluster has ended, and the engine is resumed\n$/,
  );
  // At least once after the pause took effect, and before: nobody knows whether it had.
  assert.deepEqual([...new Set(asked)], ['/pause?mode=wait', '/resume']);
  assert.equal(said.is_paused, false);
});

test('a command that is killed while its engine pauses undoes a pause that takes effect after that', async (t) => {
  const { asked, said, command } = await startUpdate(t, 'late pause', '/pause?mode=wait', ...pausing);
  const supervisor = supervisorOf(command);
  command.kill('SIGKILL');
  await command.ended;
  await eventually('nothing of it runs', () => !isRunning(supervisor));
  // At least once after the pause took effect, and before: nobody knows whether it had.
  assert.deepEqual([...new Set(asked)], ['/pause?mode=wait', '/resume']);
  assert.equal(said.is_paused, false);
});

test('a command that is interrupted, and cannot resume its engine, does not leave that to a cluster that has ended', async (t) => {
  const json = join(temporaryDirectory(t), 'result.json');
  const options = [...pausing, '--json', json];
  const { said, endpoint, command, turn } = await startUpdate(t, 'silence', '/collective_rpc', ...options);
  turn('resume');
  command.interrupt();
  const { code, errors } = await command.ended;
  assert.equal(code, 130);
  assert.match(
    errors,
    /SIGINT: the cluster is stopping; instance engine is still paused .* until the cluster ends: .*; instance engine is still paused \(engine \S+ answered POST \/resume with 404\): weightcast resume/,
  );
  assert.ok(errors.endsWith(`: weightcast resume --endpoint ${endpoint}\n`), errors);
  assert.equal(said.is_paused, true);
  assert.equal(JSON.parse(readFileSync(json, 'utf8')).instances[0].paused, true);
});

test('a command whose engine answers its pause too late says what has become of it when it ends', async (t) => {
  const json = join(temporaryDirectory(t), 'result.json');
  const options = [...pausing, '--timeout', '2', '--json', json];
  const { said, command } = await startUpdate(t, 'late pause', '/pause?mode=wait', ...options);
  const { code, errors } = await command.ended;
  assert.equal(code, 1);
  assert.match(
    errors,
    /^DeadlineError: .*may still pause.*; the cluster has ended, and the engine is resumed\n$/m,
  );
  assert.equal(said.is_paused, false);
  assert.equal(JSON.parse(readFileSync(json, 'utf8')).instances[0].paused, false);
});

/** The supervisor is the only child of the command. */
function supervisorOf({ pid }: Command): number {
  return Number(readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ')[0]);
}

function killSupervisor(command: Command): void {
  process.kill(supervisorOf(command), 'SIGKILL');
}

test('a command whose supervisor is killed resumes the engine while its weights are whole, and says so', async (t) => {
  const { asked, said, command } = await startUpdate(t, 'late pause', '/pause?mode=wait', ...pausing);
  killSupervisor(command);
  const { code, errors } = await command.ended;
  assert.equal(code, 1);
  assert.match(
    errors,
    /instance engine was paused, and is resumed with the weights that it had.*\nPeerLostError: the supervisor process ended \(SIGKILL\)/s,
  );
  assert.deepEqual(asked, ['/pause?mode=wait', '/resume', '/resume']);
  assert.equal(said.is_paused, false);
});

test('a command whose supervisor is killed amid an installation names the engine that stays paused, and what to do', async (t) => {
  const { said, endpoint, command } = await startUpdate(t, 'slow load', 'load', ...pausing);
  killSupervisor(command);
  const { code, errors } = await command.ended;
  assert.equal(code, 1);
  assert.match(errors, /instance engine is broken and stays paused: update it again.*ended \(SIGKILL\)/s);
  assert.ok(errors.includes(`weightcast resume --endpoint ${endpoint}`), errors);
  assert.equal(said.is_paused, true);
});

test('the file of --json says why an update failed, and what became of each instance', async (t) => {
  const json = join(temporaryDirectory(t), 'result.json');
  const { command } = await startUpdate(t, 'trigger', '/resume', ...pausing, '--json', json);
  const { code, errors } = await command.ended;
  assert.equal(code, 1);
  const { error, instances } = JSON.parse(readFileSync(json, 'utf8'));
  assert.equal(errors, `EngineError: ${error.message}\n`);
  assert.equal(error.code, 'WEIGHTCAST_ENGINE');
  const [{ name, outcome, paused, error: why }] = instances;
  assert.deepEqual([name, outcome, paused, instances.length], ['engine', 'unchanged', false, 1]);
  assert.equal(why.message, error.message);
});

test('what cannot work is refused before anything starts', async (t) => {
  const refused = async (words: RegExp, ...options: string[]) => {
    const given = ['--checkpoint', '/nowhere', '--endpoint', 'http://127.0.0.1:1', '--ranks', '1'];
    const { code, errors } = await new Command(t, 'src/cli/main.ts', 'update', ...given, ...options).ended;
    assert.match(errors, words);
    assert.equal(code, 2);
  };
  await refused(/--json cannot be written: .*\/nowhere/, '--json', '/nowhere/result.json');
  await refused(/--json cannot be written: .*\/proc\/x/, '--json', '/proc/x');
  await refused(/--fused is "q_proj"; name two modules/, '--fused', 'q_proj');
  await refused(/; use WEIGHTCAST_ENGINE_API_KEY\n$/, '--endpoint', 'http://u:p@127.0.0.1:1');
  await refused(/--timeline is "\/tmp", which is a directory/, '--timeline', '/tmp');
  await refused(/--ranks is "99999999999"; .* at most 1024/, '--ranks', '99999999999');
  await refused(/--timeout is "99999999999"; .* at most 31536000/, '--timeout', '99999999999');
  await refused(
    /--pause.* 'foo' is invalid. Allowed choices are abort, wait, keep, retract/,
    '--pause',
    'foo',
  );
  await refused(/invalid endpoint "http:\/\/127.0.0.1:1\/v1"/, '--endpoint', 'http://127.0.0.1:1/v1');
});

test('a result that cannot be written is an error that says that the update has succeeded', async (t) => {
  const { asked, command } = await startUpdate(t, 'none', '/update_weight_version', '--json', '/dev/full');
  const { code, output, errors } = await command.ended;
  assert.equal(code, 1);
  assert.match(errors, /^NativeError: the update has succeeded, but \/dev\/full was not written: ENOSPC/m);
  assert.match(output, /^engine +updated; /m);
  assert.ok(asked.includes('load'));
});

test('a baseline that could not be written is refused before the engine is asked', async (t) => {
  const { asked, endpoint } = await startEngine(t, () => 'none');
  const given = ['baseline', '--endpoint', endpoint, '--output', '/nowhere/baseline.json'];
  const { code, errors } = await new Command(t, 'src/cli/main.ts', ...given).ended;
  assert.deepEqual([code, asked], [2, []]);
  assert.match(errors, /^UsageError: --output cannot be written: .*\/nowhere/);
});

test('a command that is killed amid an installation leaves the engine paused, which is said all the same', async (t) => {
  const { said, endpoint, command } = await startUpdate(t, 'slow load', 'load', ...pausing);
  command.kill('SIGKILL');
  const { errors } = await command.ended;
  assert.match(errors, /instance engine is broken and stays paused: update it again/);
  assert.ok(errors.includes(`weightcast resume --endpoint ${endpoint}`), errors);
  assert.equal(said.is_paused, true);
});

test('a command that is interrupted amid an installation says that the engine stays paused, and what to do', async (t) => {
  const { said, endpoint, command } = await startUpdate(t, 'slow load', 'load', ...pausing);
  command.interrupt();
  const { code, errors } = await command.ended;
  assert.equal(code, 130);
  assert.match(
    errors,
    /interrupted by SIGINT: the cluster is stopping; instance engine is broken and stays paused/,
  );
  assert.ok(errors.includes(`weightcast resume --endpoint ${endpoint}`), errors);
  assert.equal(said.is_paused, true);

  const resumed = await new Command(t, 'src/cli/main.ts', 'resume', '--endpoint', endpoint).ended;
  assert.deepEqual([resumed.code, resumed.said], [0, `engine ${endpoint} is resumed\n`]);
  assert.equal(said.is_paused, false);
});

test('resume says why an engine could not be resumed', async (t) => {
  const { endpoint } = await startEngine(t, () => 'resume');
  const { code, errors } = await new Command(t, 'src/cli/main.ts', 'resume', '--endpoint', endpoint).ended;
  assert.equal(code, 1);
  assert.equal(errors, `EngineError: engine ${endpoint} answered POST /resume with 404\n`);
  const sglang = await startEngine(t, () => 'none');
  const target = ['--endpoint', sglang.endpoint, '--engine', 'sglang'];
  assert.equal((await new Command(t, 'src/cli/main.ts', 'resume', ...target).ended).code, 0);
  assert.deepEqual(sglang.asked, ['/continue_generation']);
});

test('a command updates an engine on another host, whose ranks its launcher starts', async (t) => {
  const other = ['--host', 'b', '--launcher', 'env', '--cluster-listen', 'tcp://127.0.0.1:*'];
  const { asked, command } = await startUpdate(t, 'none', '/update_weight_version', ...other);
  const { code, errors } = await command.ended;
  assert.equal(code, 0, errors);
  assert.ok(asked.includes('load'));
});
