import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatBytes, formatExactBytes, parseBytes, parseCount } from '../src/units.ts';

test('sizes are read with binary and decimal units, and without', () => {
  assert.equal(parseBytes('4096', '--size'), 4096);
  assert.equal(parseBytes('256MiB', '--size'), 256 * 2 ** 20);
  assert.equal(parseBytes('1.5GiB', '--size'), 1.5 * 2 ** 30);
  assert.equal(parseBytes('2GB', '--size'), 2e9);
});

test('a size or count that is none names the option and what it was given', () => {
  for (const text of ['', 'lots', '-1MiB', '3 parsecs', '1e400']) {
    assert.throws(() => parseBytes(text, '--size'), { name: 'UsageError', message: /--size/ });
  }
  for (const text of ['', '0', '-1', '1.5', 'two']) {
    assert.throws(() => parseCount(text, '--ranks'), { name: 'UsageError', message: /--ranks/ });
  }
  assert.equal(parseCount('0', '--port', 0), 0);
});

test('sizes are written for people', () => {
  const sizes = [0, 1, 1023, 1024, 1.5 * 2 ** 30, 2 ** 30 - 2 ** 18, 123.4 * 2 ** 20];
  assert.deepEqual(sizes.map(formatBytes), ['0 B', '1 B', '1023 B', '1 KiB', '1.5 GiB', '1 GiB', '123 MiB']);
  assert.equal(formatExactBytes(2_348_810_240), '2.19 GiB (2348810240 bytes)');
  assert.equal(formatExactBytes(512), '512 bytes');
});
