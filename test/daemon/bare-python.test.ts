import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runPython, withoutPython } from './python.ts';

test('without torch every program of the Python package says what its options are, or what it needs', {
  skip: withoutPython(),
}, async () => {
  const { code, said } = await runPython('test/daemon/bare_python_cases.py', null);
  assert.equal(code, 0, said);
});
