import { original, skipOriginal, skip as skipPython } from '../python/exchanges.ts';
import { buildFaultLibrary } from './fault-library.ts';
import { skip } from './harness.ts';
import { testUpdates } from './update-suite.ts';

testUpdates({
  device: 'cuda:0',
  skip: skip || skipPython,
  original,
  skipOriginal: skip || skipOriginal,
  faultLibrary: buildFaultLibrary,
});
