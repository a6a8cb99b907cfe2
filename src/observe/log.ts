import { pino } from 'pino';
import { UsageError } from '../errors.ts';
import type { Logger } from '../ports.ts';

const levels = ['debug', 'info', 'warn', 'error', 'silent'];

/**
 * The log of one process, on standard error, because standard output is for results. `WEIGHTCAST_LOG` sets the level
 * (debug, info, warn, error, silent); the default, `error`, logs nothing in normal operation.
 * Throws `UsageError` for any other level.
 */
export function createLog(role: string): Logger {
  const level = process.env.WEIGHTCAST_LOG ?? 'error';
  if (!levels.includes(level))
    throw new UsageError(`WEIGHTCAST_LOG is "${level}"; it is one of ${levels.join(', ')}`);
  return pino({ level, base: { role, pid: process.pid } }, pino.destination({ dest: 2, sync: true }));
}
