// One process with tests in it, run to its end.
import { spawn } from 'node:child_process';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { availableParallelism, loadavg } from 'node:os';

const reporter = new URL('./record-reporter.mjs', import.meta.url).href;

/** What the process had to say of its tests; the last line is cut off where it was killed. */
function recordsIn(path) {
  if (!existsSync(path)) return [];
  const lines = readFileSync(path, 'utf8').split('\n');
  return lines.slice(0, -1).map((line) => JSON.parse(line));
}

/** Why the process failed as a whole, whatever its tests say; null if it did not. */
function failureOf({ code, signal, isLate, timeoutMilliseconds, records }) {
  const last = records.findLast(({ is }) => is === 'begun');
  const during = last === undefined ? 'before its first test' : `in or after "${last.name}"`;
  if (isLate) return `hangs: nothing happened for ${timeoutMilliseconds / 1_000} s or more, ${during}`;
  if (signal !== null) return `ended by ${signal}, ${during}`;
  if (code === 0 || records.some(({ is }) => is === 'fail')) return null;
  const notes = records.filter(({ is, text }) => is === 'note' && text.startsWith('Error'));
  return [`ended with exit code ${code}, ${during}`, ...notes.map(({ text }) => text)].join('\n');
}

const running = new Set();

/** A runner that is ended leaves no tests behind that run on. */
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.once(signal, () => {
    for (const child of running) child.kill('SIGKILL');
    process.exit(1);
  });
}

/** By how much longer things take than on an idle machine: the processes that want a processor, for each processor. */
function slowness() {
  return Math.max(1, loadavg()[0] / availableParallelism());
}

/** Calls back when a process has reported nothing for that long, or for longer where others use the machine. */
function whenIdle(path, milliseconds, callback) {
  let size = 0;
  let since = performance.now();
  const timer = setInterval(() => {
    const now = statSync(path, { throwIfNoEntry: false })?.size ?? 0;
    if (now !== size) since = performance.now();
    else if (performance.now() - since > milliseconds * slowness()) callback();
    size = now;
  }, 500);
  return () => clearInterval(timer);
}

/**
 * Runs a compiled file of tests. Resolves with what became of its tests (record-reporter.mjs), the seconds it took, and
 * why it failed as a whole, if it did.
 */
export function runProgram(program, { options, timeoutMilliseconds, records: path }) {
  const begun = performance.now();
  const { NODE_TEST_CONTEXT, ...env } = process.env;
  env.WEIGHTCAST_TEST_RUNNER = String(process.pid);
  const words = [`--test-reporter=${reporter}`, ...options, program];
  const child = spawn(process.execPath, words, {
    stdio: ['ignore', 'ignore', 'inherit'],
    env: { ...env, WEIGHTCAST_TEST_RECORDS: path },
  });
  running.add(child);
  let isLate = false;
  const stopWatching = whenIdle(path, timeoutMilliseconds, () => {
    isLate = true;
    child.kill('SIGKILL');
  });
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code, signal) => {
      running.delete(child);
      stopWatching();
      const records = recordsIn(path);
      const failure = failureOf({ code, signal, isLate, timeoutMilliseconds, records });
      const tests = records.filter(({ is }) => is !== 'begun' && is !== 'note');
      resolve({ tests, failure, seconds: (performance.now() - begun) / 1_000 });
    });
  });
}
