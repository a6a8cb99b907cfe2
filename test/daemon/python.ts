import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { packageRoot } from '../../src/package-root.ts';
import { type Ended, runToEnd, type Variables } from '../program.ts';

/** The client needs nothing but the standard library. */
const python = process.env.WEIGHTCAST_PYTHON ?? 'python3';

/** Why tests that need Python 3.10 cannot run here, or false. */
export function withoutPython(): string | false {
  const { status } = spawnSync(python, ['-c', 'import sys; sys.exit(sys.version_info < (3, 10))']);
  return status === 0 ? false : `${python} is not there, or older than 3.10`;
}

/** Runs a program of this repository with an argument of JSON. */
export function runPython(program: string, argument: unknown, variables: Variables = {}): Promise<Ended> {
  const path = fileURLToPath(new URL(program, packageRoot));
  const PYTHONPATH = fileURLToPath(new URL('python', packageRoot));
  return runToEnd([python, '-W', 'error', path, JSON.stringify(argument)], { ...variables, PYTHONPATH });
}
