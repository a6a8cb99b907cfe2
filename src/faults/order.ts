import { UsageError } from '../errors.ts';
import { type Action, type ProcessKind, pointsOf, processKinds } from './points.ts';

/** One fault that was asked for: `rank-1:link-load:crash@3`. */
export interface FaultOrder {
  readonly text: string;
  readonly kind: ProcessKind;
  /** Null: any. */
  readonly rank: number | null;
  readonly point: string;
  readonly action: Action;
  /** Of `delay` and `descriptors`. */
  readonly milliseconds: number;
  /** It happens when its process reaches the point for the so many-th time; null: every time. */
  readonly time: number | null;
}

const form = /^([a-z]+)(?:-(\d+))?:([a-z-]+):([a-z]+)(?:=(\d+))?(?:@(\d+|\*))?$/;
const example = 'such as rank-1:link-load:crash@3 or supervisor:open-swarm:delay=500';

/** Orders with spaces or commas between. Throws a `UsageError` that says what there is. */
export function parseOrders(text: string): FaultOrder[] {
  return text
    .split(/[\s,]+/)
    .filter((word) => word !== '')
    .map(parseOrder);
}

function parseOrder(text: string): FaultOrder {
  const refuse = (why: string) => new UsageError(`WEIGHTCAST_FAULTS: "${text}": ${why}`);
  const match = form.exec(text);
  if (match === null) throw refuse(`expected PROCESS:POINT:ACTION[=MILLISECONDS][@TIME], ${example}`);
  const [, process, rank, point, action, milliseconds, time = '1'] = match;
  const kind = processKinds.find((one) => one === process);
  if (kind === undefined) throw refuse(`there is no process ${process}, only ${processKinds.join(', ')}`);
  if (rank !== undefined && kind !== 'rank') throw refuse('only ranks have numbers');
  const points = pointsOf(kind);
  const actions = points.get(point!);
  if (actions === undefined)
    throw refuse(`${kind} has no point ${point}, only ${[...points.keys()].join(', ')}`);
  const known = actions.find((one) => one === action);
  if (known === undefined) throw refuse(`${kind}:${point} can only ${actions.join(', ')}`);
  if ((known === 'delay' || known === 'descriptors') !== (milliseconds !== undefined))
    throw refuse('delay and descriptors, and nothing else, have milliseconds: delay=500');
  if (time === '0') throw refuse('times are counted from 1');
  return {
    text,
    kind,
    rank: rank === undefined ? null : Number(rank),
    point: point!,
    action: known,
    milliseconds: Number(milliseconds ?? 0),
    time: time === '*' ? null : Number(time),
  };
}
