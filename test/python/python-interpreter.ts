import { spawnSync } from 'node:child_process';
import { patience } from '../patience.ts';

const python = process.env.WEIGHTCAST_PYTHON;

/** Why tests that need Python's `modules` cannot run here, or false. WEIGHTCAST_PYTHON names the interpreter. */
export function missingPython(...modules: string[]): string | false {
  if (python === undefined) return 'WEIGHTCAST_PYTHON does not name a Python interpreter';
  const { status } = spawnSync(python, ['-c', `import ${modules.join(', ')}`], { timeout: patience });
  return status === 0 ? false : `${python} cannot import ${modules.join(', ')}`;
}

/** What a Python program prints as JSON when it is given `input` as JSON. */
export function runPython(program: string, input: unknown): unknown {
  const { status, stdout, stderr } = spawnSync(python!, ['-c', program], {
    input: JSON.stringify(input),
    encoding: 'utf8',
    timeout: patience,
    maxBuffer: 2 ** 28,
  });
  if (status !== 0) throw new Error(`python ended with ${status}: ${stderr}`);
  return JSON.parse(stdout);
}
