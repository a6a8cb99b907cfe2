import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { sweepSharedMemory } from '../../src/processes/sweep.ts';

const nobody = 65_534;

test('what belongs to another user is left alone, and harms nobody', (t) => {
  if (process.geteuid!() !== 0) return t.skip('needs root, to be two users');
  const directory = `/dev/shm/weightcast-${randomBytes(6).toString('hex')}`;
  const file = `/dev/shm/weightcast-${randomBytes(6).toString('hex')}`;
  t.after(() => {
    process.seteuid!(0);
    rmSync(directory, { recursive: true });
    rmSync(file);
  });
  mkdirSync(directory, { mode: 0o700 });
  writeFileSync(`${directory}/versions.json`, '{}');
  writeFileSync(file, 'no directory');
  process.seteuid!(nobody);
  sweepSharedMemory();
  process.seteuid!(0);
  assert(existsSync(directory));
});
