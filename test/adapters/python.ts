import { spawn } from 'node:child_process';

/** Of one program, with the imports of its packages on a busy machine. */
const longestMilliseconds = 540_000;

/** Runs a Python program with an argument of JSON; resolves when it has ended, or was killed, with what it said last. */
export function runProgram(
  python: string,
  path: string,
  argument: unknown,
): Promise<{ status: number | null; output: string }> {
  const child = spawn(python, [path, JSON.stringify(argument)], {
    env: { ...process.env, PYTHONPATH: process.env.WEIGHTCAST_ADAPTERS_PACKAGES },
    timeout: longestMilliseconds,
    killSignal: 'SIGKILL',
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (text) => {
      output = `${output}${text}`.slice(-20_000);
    });
  return new Promise((resolve) => child.once('close', (status) => resolve({ status, output })));
}
