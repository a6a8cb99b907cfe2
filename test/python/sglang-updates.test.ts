import { test } from 'node:test';
import { skip } from './exchanges.ts';
import { runUnitTests } from './unit-tests.ts';

test(
  'updates of SGLang’s models: layers, what is held, coverage, what is refused, and whose errors come out',
  {
    skip,
  },
  () => runUnitTests('sglang_update_cases.py'),
);
