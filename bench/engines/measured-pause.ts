import type { UpdateReport } from '../../src/index.ts';
import { type Span, union } from './spans.ts';
import type { WatchedPause } from './watched-endpoint.ts';

/** What the workers of an engine did in one update, as timed.py notes it. */
export type WorkerSpans = Record<'update' | 'load' | 'proof', readonly Span[]>;

/** An update of a real engine. All spans are of one clock. */
export interface MeasuredPause extends WorkerSpans {
  readonly report: UpdateReport;
  readonly pause: WatchedPause;
  /** In which a rank uploaded. */
  readonly link: readonly Span[];
}

/** Of a pause, in milliseconds, in which neither bytes were on their way nor the engine's own code loaded. */
export function added({ pause, link, load }: MeasuredPause, within: Span = pause.span): number {
  return within[1] - within[0] - union([...link, ...load], within);
}

/** Where that goes, from the pause to the resume. */
export function addedByPhase(one: MeasuredPause): Record<string, number> {
  const [pausedAt, resumedAt] = one.pause.span;
  const [askedAt, answeredAt] = one.pause.calls[0]!;
  const begun = Math.min(...one.update.map(([from]) => from));
  const done = Math.max(...one.update.map(([, to]) => to));
  const loadsFrom = Math.min(...one.load.map(([from]) => from));
  const loadsUntil = Math.max(...one.load.map(([, to]) => to));
  const bounds = {
    'until workers are asked': [pausedAt, askedAt],
    'then until they hear it': [askedAt, begun],
    'then until they load': [begun, loadsFrom],
    'while they load': [loadsFrom, loadsUntil],
    'then until they are done': [loadsUntil, done],
    'then until the engine has answered': [done, answeredAt],
    'then until it goes on': [answeredAt, resumedAt],
  } as const;
  return Object.fromEntries(Object.entries(bounds).map(([phase, within]) => [phase, added(one, within)]));
}
