import { setTimeout as sleep } from 'node:timers/promises';
import { asFailure, NativeError, type WeightcastError } from '../errors.ts';
import type { NativePoint } from '../native-bridge/native-faults.ts';
import type { Faults } from './faults.ts';

type Failure = (message: string, isRefusal: boolean) => WeightcastError;
// biome-ignore lint/suspicious/noExplicitAny: what a method takes and gives is passed on as it is
type Method = (...parameters: any[]) => any;

/** What happens at a call of one method of a port. */
export interface PointAt {
  readonly point: string;
  /** Within its native work. */
  readonly native?: NativePoint;
  /** Default: `NativeError`. */
  readonly failure?: Failure;
  /** Fails as the call itself would: by throwing, or with what it returns. Default: it rejects. */
  readonly fail?: (error: WeightcastError) => unknown;
  /** What becomes of the result of a call that succeeded; `isCorrupt` if it is to be wrong. */
  readonly result?: (result: never, isCorrupt: boolean) => unknown;
}

/** How a method fails that returns no promise. */
export function throwing(error: WeightcastError): never {
  throw error;
}

/** The same port, whose methods named in `points` reach these first. In the order of their calls, but for delayed ones. */
export function intercept<T extends object>(
  target: T,
  faults: Faults,
  points: Partial<Record<keyof T, PointAt>>,
): T {
  const methods = new Map(
    Object.entries(points).map(([name, at]) => [name, around(target, name, faults, at as PointAt)]),
  );
  return new Proxy(target, {
    get(_, name) {
      const value = methods.get(name as string) ?? Reflect.get(target, name, target);
      return typeof value === 'function' && !methods.has(name as string) ? value.bind(target) : value;
    },
  });
}

function around(target: object, name: string, faults: Faults, at: PointAt): Method {
  const method = Reflect.get(target, name, target) as Method;
  const {
    point,
    native,
    failure = (message: string) => new NativeError(message),
    result = (same) => same,
  } = at;
  const fail = at.fail ?? ((error: WeightcastError) => Promise.reject(error));
  return (...parameters) => {
    let isCorrupt = false;
    const call = () => {
      const given = method.apply(target, parameters);
      const finish = result as (value: unknown, isCorrupt: boolean) => unknown;
      return given instanceof Promise
        ? given.then((value) => finish(value, isCorrupt))
        : finish(given, isCorrupt);
    };
    try {
      if (native !== undefined) faults.arm(native);
      const order = faults.strike(point, failure);
      isCorrupt = order?.action === 'corrupt';
      if (order?.action === 'delay') return sleep(order.milliseconds).then(call);
    } catch (error) {
      return fail(asFailure(error));
    }
    return call();
  };
}
