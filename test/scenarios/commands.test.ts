import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { type TestContext, test } from 'node:test';
import { eventually } from '../cluster/harness.ts';
import { Command } from './command.ts';

function scenario(test: TestContext, name: string, ...options: string[]): Command {
  return new Command(test, `scenarios/${name}.ts`, ...options);
}

/** Scratch directories of late-join, which only this file runs. */
function scratchDirectories(): string[] {
  return readdirSync(tmpdir()).filter((name) => name.startsWith('weightcast-late-join-'));
}

test('every scenario describes itself and its options', async (t) => {
  const names = ['late-join', 'join-storm', 'source-dies'];
  for (const { code, output } of await Promise.all(names.map((name) => scenario(t, name, '--help').ended))) {
    assert.equal(code, 0);
    for (const word of ['--size', '--json', 'WEIGHTCAST_FABRIC']) assert.ok(output.includes(word), output);
  }
});

test('a wrong option ends a scenario with exit code 2 and one line that names it', async (t) => {
  const wrong: [name: string, option: string, value: string][] = [
    ['late-join', '--size', 'large'],
    ['late-join', '--ranks', '0'],
    ['source-dies', '--size', '5'],
    ['join-storm', '--joiners', '1000'],
    ['join-storm', '--link', 'fast'],
  ];
  for (const [name, option, value] of wrong) {
    const { code, errors, output } = await scenario(t, name, option, value).ended;
    assert.equal(code, 2, errors);
    assert.equal(output, '');
    const lines = errors.trim().split('\n');
    assert.match(
      lines.at(-1)!,
      option === '--size' && value === '5' ? /too small/ : new RegExp(`${option} is`),
    );
  }
});

test('Ctrl-C stops a scenario and everything that it started', async (t) => {
  const before = scratchDirectories();
  const command = scenario(t, 'late-join', '--size', '8MiB', '--ranks', '1');
  await eventually('the first update runs', () => command.errors.includes('updating both'));
  const [scratch] = scratchDirectories().filter((name) => !before.includes(name));
  command.interrupt();
  const { code, errors } = await command.ended;
  assert.equal(code, 130, errors);
  assert.match(errors, /AbortedError: interrupted by SIGINT\n$/);
  assert.ok(scratch !== undefined && !scratchDirectories().includes(scratch));
  assert.deepEqual(
    readdirSync('/dev/shm').filter((name) => name.includes(scratch)),
    [],
  );
});
