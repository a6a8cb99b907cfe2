import { missingPython } from '../test/python/python-interpreter.ts';

/** Ends the process with a line that says so where WEIGHTCAST_PYTHON names no interpreter that has these modules. */
export function needPython(benchmark: string, ...modules: string[]): void {
  const missing = missingPython(...modules);
  if (missing === false) return;
  console.error(`npm run ${benchmark}: ${missing}`);
  process.exit(2);
}
