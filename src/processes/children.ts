import { type Child, ChildList } from './child-list.ts';
import type { OwnedProcess } from './child-process.ts';
import { Survivor } from './survivor.ts';

/**
 * The rank processes that this one has started, or an earlier supervisor has and which have outlived it, and those among them
 * that it had to kill.
 */
export class Children {
  readonly killed: string[] = [];
  readonly #running = new Map<OwnedProcess, string>();
  readonly #list: ChildList;
  /** Of earlier supervisors, those that nobody has asked for yet. */
  #survivors: readonly Child[];

  constructor(directory: string) {
    this.#survivors = ChildList.read(directory);
    this.#list = new ChildList(directory);
  }

  /** A process that goes on as that rank; null if none has outlived its supervisor. */
  survivor(rank: number, role: string): Child | null {
    const found = this.#survivors.find((child) => child.rank === rank && child.role === role) ?? null;
    this.#survivors = this.#survivors.filter((child) => child !== found);
    return found;
  }

  /** All ranks have been asked for: others end. */
  endOthers(graceMilliseconds: number): void {
    for (const child of this.#survivors) {
      const survivor = new Survivor(child);
      this.add(survivor, child);
      void this.stop(survivor, graceMilliseconds);
    }
    this.#survivors = [];
  }

  add(child: OwnedProcess, facts: Omit<Child, 'pid' | 'startTime'>): void {
    const { pid } = child;
    this.#running.set(child, facts.name);
    this.#list.add({ ...facts, pid });
    void child.exited.then(() => {
      this.#running.delete(child);
      this.#list.remove(pid);
    });
  }

  async stop(child: OwnedProcess, graceMilliseconds: number): Promise<void> {
    const name = this.#running.get(child);
    const { wasKilled } = await child.stop(graceMilliseconds);
    if (wasKilled && name !== undefined) this.noteKilled(name);
  }

  noteKilled(name: string): void {
    if (!this.killed.includes(name)) this.killed.push(name);
  }

  /** Whatever became of the actors, nothing that was started is left. */
  async killAll(): Promise<void> {
    await Promise.all([...this.#running.keys()].map((child) => this.stop(child, 0)));
  }
}
