// Checks imports, effects and sizes (see the rules in CONTRIBUTING.md): `npm run check:imports`, or with another root as its argument.
import { faultsIn } from './checks/faults.ts';

const faults = faultsIn(process.argv[2] ?? '.');
for (const fault of faults) console.error(fault);
if (faults.length > 0) process.exit(1);
