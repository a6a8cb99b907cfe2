import { pino } from 'pino';
import type { Logger } from '../ports.ts';

/**
 * The log of one process, on standard error so that standard output stays for results. `WEIGHTCAST_LOG` sets the
 * level (debug, info, warn, error, silent); the default says nothing while all is well.
 */
export function createLog(role: string): Logger {
  const level = process.env.WEIGHTCAST_LOG ?? 'error';
  return pino({ level, base: { role, pid: process.pid } }, pino.destination({ dest: 2, sync: true }));
}
