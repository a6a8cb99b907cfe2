import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { inheritedEnvironment, inheritedOptions } from '../../src/processes/inherited-options.ts';
import { temporaryDirectory } from '../checkpoint/safetensors-files.ts';

test('what changes memory, how modules are found, or whom TLS trusts, goes on to children', () => {
  const options = [
    ...['-C', 'development', '--conditions=browser', '--max-old-space-size=8192', '--enable-source-maps'],
    ...['--use-openssl-ca', '--require', '/app/.pnp.cjs', '--loader=/app/.pnp.loader.mjs'],
  ];
  assert.deepEqual(inheritedOptions(options, false), options);
});

test('modules that are loaded first go on to children only where these are written in TypeScript', () => {
  const preloads = ['--import', 'tsx', '--require=./before.cjs', '-r', 'other', '--loader', 'old'];
  assert.deepEqual(inheritedOptions(preloads, true), preloads);
  assert.deepEqual(inheritedOptions(preloads, false), []);
});

test('what is for one process alone stays with it, with its value', () => {
  const own = [
    ...['-e', 'code', '-p', 'code', '--eval=code', '--print', 'code', '--check', '--interactive'],
    ...['--inspect', '--inspect-brk=9230', '--inspect-port', '0', '--watch', '--watch-path=src'],
    ...['--test', '--test-reporter', 'spec', '--test-only', '--cpu-prof', '--input-type=module'],
  ];
  assert.deepEqual(inheritedOptions([...own, '--import', 'tsx', ...own], true), ['--import', 'tsx']);
});

test('NODE_OPTIONS goes on by the same rules, and what node --watch tells its child does not', () => {
  const given = '--inspect-brk=0 --max-old-space-size=8192 --import ./app.mjs -C "with \\"quotes\\" in it"';
  const environment = { HOME: '/root', NODE_OPTIONS: given, WATCH_REPORT_DEPENDENCIES: '1' };
  assert.deepEqual(inheritedEnvironment(environment, false), {
    HOME: '/root',
    NODE_OPTIONS: '--max-old-space-size=8192 -C "with \\"quotes\\" in it"',
  });
  assert.deepEqual(inheritedEnvironment({ NODE_OPTIONS: '--inspect-brk' }, false), {});
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
