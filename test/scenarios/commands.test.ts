import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { eventually } from '../cluster/harness.ts';

interface Ended {
  readonly code: number | null;
  readonly output: string;
  readonly errors: string;
}

/** A command of scenarios/ as a user starts it. */
class Command {
  readonly #child: ChildProcess;
  readonly ended: Promise<Ended>;
  errors = '';

  constructor(test: TestContext, name: string, ...options: string[]) {
    const script = fileURLToPath(new URL(`../../scenarios/${name}.js`, import.meta.url));
    this.#child = spawn(process.execPath, [script, ...options], {
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
    test.after(() => this.#child.kill('SIGKILL'));
  }

  /** As Ctrl-C does. */
  interrupt(): void {
    this.#child.kill('SIGINT');
  }
}

/** Where runs of late-join keep their files; no other test has any. */
function scratches(): string[] {
  return readdirSync(tmpdir()).filter((name) => name.startsWith('weightcast-late-join-'));
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
  const before = scratches();
  const command = new Command(t, 'late-join', '--size', '8MiB', '--ranks', '1');
  await eventually('requests run', () => command.errors.includes('updating both'));
  const [scratch] = scratches().filter((name) => !before.includes(name));
  command.interrupt();
  const { code, errors } = await command.ended;
  assert.equal(code, 130, errors);
  assert.match(errors, /AbortedError: interrupted by SIGINT\n$/);
  assert.ok(scratch !== undefined && !scratches().includes(scratch));
  assert.deepEqual(
    readdirSync('/dev/shm').filter((name) => name.includes(scratch)),
    [],
  );
});
