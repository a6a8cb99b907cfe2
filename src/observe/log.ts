import { pino } from 'pino';
import type { Logger } from '../ports.ts';

/**
 * The log of one process, on standard error, because standard output is for results. `WEIGHTCAST_LOG` sets the level
 * (debug, info, warn, error, silent); the default, `error`, logs nothing in normal operation.
 */
export function createLog(role: string): Logger {
  const level = process.env.WEIGHTCAST_LOG ?? 'error';
  return pino({ level, base: { role, pid: process.pid } }, pino.destination({ dest: 2, sync: true }));
}
