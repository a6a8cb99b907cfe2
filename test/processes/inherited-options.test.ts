import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { inheritedOptions } from '../../src/processes/inherited-options.ts';
import { temporaryDirectory } from '../checkpoint/safetensors-files.ts';

test('what changes how modules are found, or how much memory there is, goes on to children', () => {
  const options = [
    ...['--import', 'tsx', '--require=./before.cjs', '-r', 'other', '--loader', 'old', '-C', 'development'],
    ...['--conditions=browser', '--max-old-space-size=8192', '--env-file=.env', '--enable-source-maps'],
  ];
  assert.deepEqual(inheritedOptions(options), options);
});

test('what is for one process alone stays with it, with its value', () => {
  const own = [
    ...['-e', 'code', '-p', 'code', '--eval=code', '--print', 'code', '--check', '--interactive'],
    ...['--inspect', '--inspect-brk=9230', '--inspect-port', '0', '--watch', '--watch-path=src'],
    ...['--test', '--test-reporter', 'spec', '--test-only', '--cpu-prof', '--input-type=module'],
  ];
  assert.deepEqual(inheritedOptions([...own, '--import', 'tsx', ...own]), ['--import', 'tsx']);
});

test('a program that is given on the command line runs once, whatever processes it starts', (t) => {
  const notes = join(temporaryDirectory(t), 'notes');
  const program = `
    const { appendFileSync, existsSync, readFileSync } = await import('node:fs');
    const notes = ${JSON.stringify(notes)};
    const linesNow = () => (existsSync(notes) ? readFileSync(notes, 'utf8').split('\\n').length - 1 : 0);
    // Where it fails it must not go on for ever.
    if (linesNow() > 2) process.exit(1);
    appendFileSync(notes, JSON.stringify({ program: process.execArgv[0] }) + '\\n');
    const { startProcess } = await import(${JSON.stringify(new URL('../../src/processes/child-process.js', import.meta.url))});
    const child = startProcess('./fixtures/started', ${JSON.stringify(import.meta.url)}, { notes });
    const timer = setInterval(async () => {
      if (linesNow() < 2) return;
      clearInterval(timer);
      await child.stop(10_000);
    }, 5);
  `;
  const { status, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
    encoding: 'utf8',
    timeout: 60_000,
  });
  assert.equal(status, 0, stderr);
  assert.ok(existsSync(notes));
  const lines = readFileSync(notes, 'utf8').trim().split('\n');
  assert.deepEqual(
    lines.map((line) => JSON.parse(line)),
    [{ program: '--input-type=module' }, { started: [] }],
  );
});
