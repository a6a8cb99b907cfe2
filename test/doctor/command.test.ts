import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Finding } from '../../src/doctor/finding.ts';

const main = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));

function doctor(...options: string[]) {
  return spawnSync(process.execPath, [main, 'doctor', ...options], { encoding: 'utf8' });
}

test('doctor prints the same findings as text and as JSON, and exits with 1 if something needed is missing', () => {
  const plain = doctor();
  const json = doctor('--json');
  assert.equal(plain.stderr, '');
  const findings = JSON.parse(json.stdout) as Finding[];
  assert(findings.some(({ subject }) => subject === '/dev/shm'));
  assert.equal(plain.stdout.trimEnd().split('\n').length, findings.length);
  for (const { subject, verdict } of findings) {
    assert.match(plain.stdout, new RegExp(`^${verdict} +${subject} `, 'm'));
  }
  const isMissing = findings.some(({ needed, verdict }) => needed && verdict === 'missing');
  assert.equal(plain.status, isMissing ? 1 : 0);
  assert.equal(json.status, plain.status);
});
