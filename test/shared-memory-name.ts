import { randomBytes } from 'node:crypto';

/**
 * A prefix that no other test uses, for what a test keeps in /dev/shm. It names the runner, which removes what an
 * earlier runner's killed tests left there (scripts/sweep-tests.mjs).
 */
export function sharedMemoryName(): string {
  const runner = process.env.WEIGHTCAST_TEST_RUNNER ?? process.pid;
  return `test-${runner}-${randomBytes(6).toString('hex')}`;
}
