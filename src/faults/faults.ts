import { closeSync, openSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import type { WeightcastError } from '../errors.ts';
import { NativeError, UsageError } from '../errors.ts';
import { armNativeFault, type NativePoint } from '../native-bridge/native-faults.ts';
import { type FaultOrder, parseOrders } from './order.ts';
import type { ProcessKind } from './points.ts';

export type FaultEnvironment = Readonly<Record<string, string | undefined>>;

/** What faults of a process are about. */
interface Self {
  readonly kind: ProcessKind;
  readonly rank: number | null;
}

/**
 * Faults that happen on purpose, for tests of what becomes of them. `WEIGHTCAST_FAULTS` has orders, or `@FILE`, a file of them,
 * which may change at any time: what happens is taken out of it first, so that it happens once, and is named in `FILE.fired`.
 */
export class Faults {
  readonly #self: Self;
  readonly #file: string | null;
  #orders: readonly FaultOrder[] = [];
  #state = '';
  /** How often points were reached, by order. */
  #reached = new Map<FaultOrder, number>();

  private constructor(self: Self, text: string) {
    this.#self = self;
    this.#file = text.startsWith('@') ? text.slice(1) : null;
    if (this.#file === null) this.#take(parseOrders(text));
  }

  /** Null unless the environment asks for faults. Throws a `UsageError` for those that there are not. */
  static of(environment: FaultEnvironment, kind: ProcessKind, rank: number | null = null): Faults | null {
    const text = environment.WEIGHTCAST_FAULTS;
    if (text === undefined || text === '') return null;
    const faults = new Faults({ kind, rank }, text);
    process.on('SIGUSR2', () => faults.strike('signal'));
    faults.strike('start');
    return faults;
  }

  /**
   * A point is reached. Does what concerns the whole process; throws what `failure` makes of a message if the call is to fail.
   * Returns what is left to the caller: a delay, or what becomes of a message.
   */
  strike(
    point: string,
    failure: (message: string, isRefusal: boolean) => WeightcastError = (message) => new NativeError(message),
  ): FaultOrder | null {
    const order = this.#due(point);
    if (order === null) return null;
    switch (order.action) {
      case 'crash':
      case 'stop':
        process.kill(process.pid, order.action === 'crash' ? 'SIGKILL' : 'SIGSTOP');
        return null;
      case 'exit':
        process.exit(1);
        break;
      case 'descriptors':
        exhaust(order.milliseconds);
        return null;
      case 'throw':
      case 'refuse':
        throw failure(`${order.text}, on purpose`, order.action === 'refuse');
      default:
        return order;
    }
  }

  /** A call begins whose native work reaches the point a moment later: what is due happens there. */
  arm(point: NativePoint): void {
    const order = this.#due(point);
    if (order !== null) armNativeFault(point, order.action, order.milliseconds);
  }

  #due(point: string): FaultOrder | null {
    this.#read();
    for (const order of this.#orders) {
      if (order.point !== point) continue;
      const reached = (this.#reached.get(order) ?? 0) + 1;
      this.#reached.set(order, reached);
      if (order.time !== null && order.time !== reached) continue;
      if (this.#file === null || this.#claim(this.#file, order)) return order;
    }
    return null;
  }

  #take(orders: readonly FaultOrder[]): void {
    const { kind, rank } = this.#self;
    this.#reached.clear();
    this.#orders = orders.filter((one) => one.kind === kind && (one.rank === null || one.rank === rank));
  }

  #read(): void {
    if (this.#file === null) return;
    const stat = statSync(this.#file, { throwIfNoEntry: false });
    const state = stat === undefined ? '' : `${stat.ino} ${stat.mtimeMs} ${stat.size}`;
    if (state === this.#state) return;
    this.#state = state;
    this.#take(stat === undefined ? [] : parseOrders(textOf(this.#file)));
  }

  /** False if another process was first. */
  #claim(file: string, order: FaultOrder): boolean {
    const fired = `${file}.fired`;
    const mine = `${file}.${process.pid}`;
    try {
      renameSync(file, mine);
    } catch {
      return false;
    }
    const others = textOf(mine).replace(order.text, '').trim();
    writeFileSync(mine, `${order.text} ${process.pid}\n`);
    if (others !== '') {
      writeFileSync(`${mine}.others`, others);
      renameSync(`${mine}.others`, file);
    }
    renameSync(mine, fired);
    return true;
  }
}

function exhaust(milliseconds: number): void {
  const descriptors: number[] = [];
  try {
    for (;;) descriptors.push(openSync('/dev/null', 'r'));
  } catch {
    // As many as there are.
  }
  setTimeout(() => {
    for (const descriptor of descriptors) closeSync(descriptor);
  }, milliseconds);
}

/** Throws a `UsageError` for what the processes of a cluster would end of. */
export function checkFaults(environment: FaultEnvironment): void {
  const text = environment.WEIGHTCAST_FAULTS ?? '';
  if (text === '@') throw new UsageError('WEIGHTCAST_FAULTS is "@": the name of a file follows');
  if (!text.startsWith('@')) parseOrders(text);
}

function textOf(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}
