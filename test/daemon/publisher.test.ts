/** The trainer's side in Python, against a daemon and the reference engine. */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { temporaryDirectory } from '../checkpoint/safetensors-files.ts';
import { eventually, isRunning } from '../cluster/harness.ts';
import { startDaemonBench } from './harness.ts';
import { runPython, withoutPython } from './python.ts';

const bench = await startDaemonBench({ after });
const { daemon, instance } = bench;
const skip = withoutPython();

async function runCase(name: string, given: object, environment: Record<string, string> = {}) {
  const argument = { case: name, socket: daemon.socket, ...given };
  const { status, output } = await runPython('test/daemon/publisher_cases.py', argument, environment);
  assert.equal(status, 0, output);
  return output;
}

/** A command `weightcast` that is this program. */
function commandOf(t: TestContext): string {
  const main = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));
  const command = join(temporaryDirectory(t), 'weightcast');
  writeFileSync(command, `#!/bin/sh\nexec '${process.execPath}' '${main}' "$@"\n`, { mode: 0o755 });
  return command;
}

test('a trainer publishes versions, and engines serve them', { skip }, async () => {
  const models = [await bench.makeModel(2), await bench.makeModel(3)];
  await runCase('steps', { instance, models });
});

test('what is wrong with a version is one line that names it', { skip }, async () => {
  await runCase('mistakes', {});
});

test('a daemon that was started for a publisher ends some time after it', { skip }, async (t) => {
  const socket = join(temporaryDirectory(t), 'started.sock');
  const given = { socket, serve_options: ['--devices', 'host:started-by-publisher'] };
  const pid = Number(await runCase('started', given, { WEIGHTCAST_COMMAND: commandOf(t) }));
  await eventually('it has ended', () => !isRunning(pid));
});
