import { test } from 'node:test';
import { skip } from './exchanges.ts';
import { runUnitTests } from './unit-tests.ts';

test('FP8 by blocks is what the reference says, bit for bit', { skip }, () =>
  runUnitTests('quantize_cases.py'),
);
