import type { Clock } from '../src/ports.ts';

/** A flow with less than half a byte left is done, because rates are not whole numbers. */
const nothingLeft = 0.5;
/** Links whose shares differ by rounding errors only are filled in the same round. */
const rounding = 1 + 1e-9;

interface Link {
  isSilent: boolean;
  readonly flows: Set<Flow>;
  /** While rates are computed: the rate left for flows that have none yet, and how many of those there are. */
  rateLeft: number;
  unrated: number;
}

interface Flow {
  readonly links: readonly Link[];
  left: number;
  rate: number;
  isRated: boolean;
  readonly onDone: () => void;
}

/**
 * Links of limited bandwidth, which concurrent transfers share max-min fairly, as long-lived TCP streams do in a network
 * without other bottlenecks. Links are identified by name and created on first use.
 */
export class SharedLinks {
  readonly #clock: Clock;
  readonly #rate: number;
  readonly #links = new Map<string, Link>();
  readonly #flows = new Set<Flow>();
  readonly #waiting = new Set<{ readonly links: readonly Link[]; readonly then: () => void }>();
  /** When the progress of all flows was last updated. */
  #updatedAt = 0;
  #cancelNext = () => {};
  #isStale = false;

  /** `rate`: bytes per millisecond of every link. */
  constructor(clock: Clock, rate: number) {
    this.#clock = clock;
    this.#rate = rate;
  }

  /** Number of flows in flight. */
  get flows(): number {
    return this.#flows.size;
  }

  /** Sends bytes over several links; calls `onDone` when the last byte arrives. The returned function ends the flow. */
  send(names: readonly string[], bytes: number, onDone: () => void): () => void {
    const links = names.map((name) => this.#link(name));
    const flow: Flow = { links, left: bytes, rate: 0, isRated: false, onDone };
    this.#flows.add(flow);
    for (const link of links) link.flows.add(flow);
    this.#changed();
    return () => {
      if (this.#remove(flow)) this.#changed();
    };
  }

  /** Calls `then` as soon as none of the links is silent. The returned function ends the wait. */
  whenOpen(names: readonly string[], then: () => void): () => void {
    const links = names.map((name) => this.#link(name));
    if (links.every(({ isSilent }) => !isSilent)) {
      then();
      return () => {};
    }
    const wait = { links, then };
    this.#waiting.add(wait);
    return () => this.#waiting.delete(wait);
  }

  /** Stops all flows over a link without notice. */
  silence(name: string): void {
    this.#link(name).isSilent = true;
    this.#changed();
  }

  restore(name: string): void {
    this.#link(name).isSilent = false;
    this.#changed();
    for (const wait of this.#waiting) {
      if (wait.links.some(({ isSilent }) => isSilent)) continue;
      this.#waiting.delete(wait);
      wait.then();
    }
  }

  restoreAll(): void {
    for (const [name, { isSilent }] of this.#links) if (isSilent) this.restore(name);
  }

  #link(name: string): Link {
    let link = this.#links.get(name);
    if (link === undefined) {
      link = { isSilent: false, flows: new Set(), rateLeft: 0, unrated: 0 };
      this.#links.set(name, link);
    }
    return link;
  }

  #remove(flow: Flow): boolean {
    for (const link of flow.links) link.flows.delete(flow);
    return this.#flows.delete(flow);
  }

  /** Recomputes all rates once, after all changes of the current moment. */
  #changed(): void {
    if (this.#isStale) return;
    this.#isStale = true;
    this.#clock.after(0, () => {
      this.#isStale = false;
      this.#updateProgress();
      this.#computeRates();
      this.#awaitNext();
    });
  }

  #updateProgress(): void {
    const now = this.#clock.now();
    for (const flow of this.#flows) flow.left -= flow.rate * (now - this.#updatedAt);
    this.#updatedAt = now;
  }

  /** Progressive filling: the tightest links are divided first, then what their flows leave of the other links. */
  #computeRates(): void {
    const links: Link[] = [];
    for (const link of this.#links.values()) {
      if (link.flows.size === 0) continue;
      link.rateLeft = link.isSilent ? 0 : this.#rate;
      link.unrated = link.flows.size;
      links.push(link);
    }
    for (const flow of this.#flows) flow.isRated = false;
    for (;;) {
      let share = Number.POSITIVE_INFINITY;
      for (const { rateLeft, unrated } of links) if (unrated > 0) share = Math.min(share, rateLeft / unrated);
      if (share === Number.POSITIVE_INFINITY) return;
      for (const link of links) {
        if (link.unrated > 0 && link.rateLeft / link.unrated <= share * rounding) fill(link, share);
      }
    }
  }

  #awaitNext(): void {
    this.#cancelNext();
    let soonest = Number.POSITIVE_INFINITY;
    for (const { left, rate } of this.#flows) {
      if (left <= nothingLeft) soonest = 0;
      else if (rate > 0) soonest = Math.min(soonest, left / rate);
    }
    this.#cancelNext =
      soonest === Number.POSITIVE_INFINITY ? () => {} : this.#clock.after(soonest, () => this.#endDone());
  }

  #endDone(): void {
    this.#updateProgress();
    const done = [...this.#flows].filter(({ left }) => left <= nothingLeft);
    for (const flow of done) this.#remove(flow);
    this.#changed();
    for (const { onDone } of done) onDone();
  }
}

function fill(link: Link, share: number): void {
  for (const flow of link.flows) {
    if (flow.isRated) continue;
    flow.isRated = true;
    flow.rate = share;
    for (const other of flow.links) {
      other.rateLeft = Math.max(0, other.rateLeft - share);
      other.unrated -= 1;
    }
  }
}
