/** `weightcast serve` and the commands that talk to it, as processes. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, statSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { f32, temporaryDirectory, writeSafetensors } from '../checkpoint/safetensors-files.ts';
import { eventually, isRunning } from '../cluster/harness.ts';
import { Command } from '../scenarios/command.ts';
import { ask } from './ask.ts';
import { sharedOf } from './harness.ts';

const run = (t: TestContext, ...words: string[]) => new Command(t, 'src/cli/main.ts', ...words);

async function serve(t: TestContext, socket: string, ...options: string[]) {
  const command = run(t, 'serve', '--socket', socket, '--devices', 'host:serve-command', ...options);
  await eventually('it serves', () => {
    assert.equal(command.errors, '');
    return command.output.includes('press Ctrl-C');
  });
  const { daemon } = (await ask(socket, 'GET', '/v1/status')).body;
  return { command, pid: daemon.pid as number, shared: daemon.shared_directory as string };
}

test('one daemon serves on a socket; its commands talk to it; a signal ends it and leaves nothing', async (t) => {
  const scratch = temporaryDirectory(t);
  const socket = join(scratch, 'd.sock');
  const model = join(scratch, 'm.safetensors');
  writeSafetensors(model, [f32('w', 4)]);
  const { command, pid, shared } = await serve(t, socket);
  assert.equal(statSync(socket).mode & 0o777, 0o600);
  const directories = sharedOf(pid);
  assert.ok(directories.includes(shared) && directories.length === 2, String(directories));

  const second = await run(t, 'serve', '--socket', socket).ended;
  assert.equal(second.code, 2);
  assert.match(
    second.errors,
    new RegExp(`^UsageError: another daemon serves on ${socket}: pid ${pid}, since 20`),
  );
  assert.ok(existsSync(socket), 'the refused one has left the socket alone');

  const commands: [string[], number, RegExp][] = [
    [['register', model, '--name', 'v'], 0, /^registered v \(1 tensors, 16 B\); it is loaded when the first/],
    [['status'], 0, /^checkpoint {2}v; waits for the first instance; 1 tensors; 16 B$/m],
    [['update', '--name', 'w'], 2, /^NotFoundError: the daemon has no checkpoint w$/m],
    [['update', '--checkpoint', 'v'], 2, /^CheckpointError: .*\/v does not exist; for a .* give --name$/m],
    // What would do nothing is refused.
    [['update', '--name', 'v', '--first-device', '4'], 2, /^UsageError: --first-device needs --endpoint/],
    [
      ['update', '--endpoint', 'http://127.0.0.1:1', '--ranks', '1'],
      2,
      /^UsageError: --socket is for a daemon/,
    ],
    [['resume', '--instance', 'a', '--timeout', '9'], 2, /^UsageError: --timeout needs --endpoint/],
    [['join-file', 'node-2'], 2, /^NotFoundError: the daemon has no host node-2 that joins/],
    [
      ['add', '--endpoint', 'http://10.9.9.9:1', '--ranks', '0-1'],
      2,
      /^AccessError: engine http:\/\/10.9.9.9:1 is not/,
    ],
  ];
  for (const [words, code, text] of commands) {
    const ended = await run(t, ...words, '--socket', socket).ended;
    assert.equal(ended.code, code, `${words}: ${ended.output}${ended.errors}`);
    assert.match(ended.output + ended.errors, text);
  }

  command.kill('SIGHUP');
  const { code, errors } = await command.ended;
  assert.deepEqual([code, errors], [0, '']);
  for (const path of [socket, ...directories]) assert.ok(!existsSync(path), path);
  const gone = await run(t, 'status', '--socket', socket).ended;
  assert.equal(gone.code, 1);
  assert.match(
    gone.errors,
    /^NotReadyError: no daemon of this user serves on .*; start one with weightcast serve\n$/,
  );
});

test('its help names a page that is there, and what holds without an option', async (t) => {
  const { code, output } = await run(t, 'serve', '--help').ended;
  const help = output.replace(/\s+/g, ' ');
  assert.equal(code, 0);
  assert.ok(existsSync(/described in (\S*\/docs\/daemon\.md)\./.exec(help)![1]!), help);
  assert.match(help, /--root <directory> .* \(default: every file, or with --listen none\)/);
  assert.doesNotMatch(help, /\[\]/);
});

test('the socket of a daemon that was killed is taken over; stop ends it', async (t) => {
  const scratch = temporaryDirectory(t);
  const socket = join(scratch, 'd.sock');
  const first = await serve(t, socket);
  first.command.kill('SIGKILL');
  await first.command.ended;
  assert.ok(existsSync(socket), 'nobody has removed it');
  const second = await serve(t, socket);
  assert.notEqual(second.pid, first.pid);
  await eventually('what the first one had is swept', () => !existsSync(first.shared));
  const { code, output } = await run(t, 'stop', '--socket', socket).ended;
  assert.deepEqual([code, output], [0, 'the daemon has ended\n']);
  assert.equal((await second.command.ended).code, 0);
  assert.ok(!isRunning(second.pid) && !existsSync(socket) && !existsSync(second.shared));
});

test('a command that a daemon does not answer ends at once when it is interrupted', async (t) => {
  const socket = join(temporaryDirectory(t), 'd.sock');
  const silent = createServer();
  await new Promise<void>((resolve) => silent.listen(socket, resolve));
  t.after(() => silent.close());
  for (const [words, code] of [
    [['register', '/x'], 130],
    [['status', '--watch'], 0],
  ] as const) {
    const asked = once(silent, 'connection');
    const command = run(t, ...words, '--socket', socket);
    const [connection] = (await asked) as [Socket];
    t.after(() => connection.destroy());
    await once(connection, 'data');
    command.interrupt();
    const ended = await command.ended;
    assert.equal(ended.code, code, ended.errors);
  }
});

test('what a daemon cannot serve with is refused in one line, before anything starts', async (t) => {
  const socket = join(temporaryDirectory(t), 'd.sock');
  const refused = async (...options: string[]) => {
    const { code, errors } = await run(t, 'serve', '--socket', socket, '--devices', 'host', ...options).ended;
    assert.equal(code, 2, errors);
    return errors;
  };
  assert.equal(
    await refused('--listen', '127.0.0.1:0'),
    'UsageError: --listen needs --token-file: who has no token may not ask\n',
  );
  assert.equal(await refused('--root', '/nowhere'), 'UsageError: root /nowhere is not a directory\n');
  assert.ok(!existsSync(socket));
});
