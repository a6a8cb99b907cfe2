import { test } from 'node:test';
import { skip } from './exchanges.ts';
import { runUnitTests } from './unit-tests.ts';

test('versions in the memory of a device have all the memory that they take', { skip }, () =>
  runUnitTests('device_memory_cases.py'),
);
