import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { eventually } from '../cluster/harness.ts';

interface Ended {
  readonly code: number | null;
  readonly output: string;
  readonly errors: string;
}

/** A command of scenarios/ as a user starts it, with a directory of its own for temporary files. */
class Command {
  readonly temporary: string;
  readonly #child: ChildProcess;
  readonly ended: Promise<Ended>;
  errors = '';

  constructor(test: TestContext, name: string, ...options: string[]) {
    this.temporary = mkdtempSync(join(tmpdir(), 'weightcast-command-'));
    const script = fileURLToPath(new URL(`../../scenarios/${name}.ts`, import.meta.url));
    this.#child = spawn(process.execPath, [...process.execArgv, script, ...options], {
      env: { ...process.env, TMPDIR: this.temporary },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let output = '';
    this.#child.stdout!.setEncoding('utf8').on('data', (text) => {
      output += text;
    });
    this.#child.stderr!.setEncoding('utf8').on('data', (text) => {
      this.errors += text;
    });
    this.ended = new Promise((resolve) =>
      this.#child.once('close', (code) => resolve({ code, output, errors: this.errors })),
    );
    test.after(() => {
      this.#child.kill('SIGKILL');
      rmSync(this.temporary, { recursive: true, force: true });
    });
  }

  /** As Ctrl-C does. */
  interrupt(): void {
    this.#child.kill('SIGINT');
  }
}

test('every scenario says what it does and which options it has', async (t) => {
  const names = ['late-join', 'join-storm', 'source-dies'];
  for (const { code, output } of await Promise.all(
    names.map((name) => new Command(t, name, '--help').ended),
  )) {
    assert.equal(code, 0);
    for (const word of ['--size', '--json', 'WEIGHTCAST_FABRIC']) assert.ok(output.includes(word), output);
  }
});

test('a wrong option ends a scenario in one line that names it', async (t) => {
  const wrong: [name: string, option: string, value: string][] = [
    ['late-join', '--size', 'large'],
    ['late-join', '--ranks', '0'],
    ['source-dies', '--size', '5'],
    ['join-storm', '--joiners', '1000'],
    ['join-storm', '--link', 'fast'],
  ];
  for (const [name, option, value] of wrong) {
    const { code, errors, output } = await new Command(t, name, option, value).ended;
    assert.equal(code, 2, errors);
    assert.equal(output, '');
    const lines = errors.trim().split('\n');
    assert.match(
      lines.at(-1)!,
      option === '--size' && value === '5' ? /too small/ : new RegExp(`${option} is`),
    );
  }
});

test('Ctrl-C ends a scenario with everything that it started', async (t) => {
  const command = new Command(t, 'late-join', '--size', '8MiB', '--ranks', '1');
  await eventually('requests run', () => command.errors.includes('updating both'), 60_000);
  const [scratch] = readdirSync(command.temporary).filter((name) => name.startsWith('weightcast-late-join-'));
  command.interrupt();
  const { code, errors } = await command.ended;
  assert.equal(code, 130, errors);
  assert.match(errors, /AbortedError: interrupted by SIGINT\n$/);
  assert.ok(!readdirSync(command.temporary).includes(scratch!));
  assert.deepEqual(
    readdirSync('/dev/shm').filter((name) => name.includes(scratch!)),
    [],
  );
});
