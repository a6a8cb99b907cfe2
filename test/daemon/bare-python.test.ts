import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { packageRoot } from '../../src/package-root.ts';
import { runPython, withoutPython } from './python.ts';

test('without torch every program of the Python package says what its options are, or what it needs', {
  skip: withoutPython(),
}, async () => {
  const { code, said } = await runPython('test/daemon/bare_python_cases.py', null);
  assert.equal(code, 0, said);
});

test('a client does all of it with a daemon of the version of the API before', {
  skip: withoutPython(),
}, async () => {
  const recorded = fileURLToPath(new URL('test/daemon/fixtures/api-1.json', packageRoot));
  const argument = { case: 'older_daemon', recorded };
  const { code, said } = await runPython('test/daemon/older_api_cases.py', argument);
  assert.equal(code, 0, said);
});
