import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as z from 'zod';
import { startTimeOf } from './is-running.ts';
import { replaceFileIfRoom } from './replace-file.ts';

const child = z.object({
  rank: z.int().min(0),
  /** Its node name. */
  node: z.string(),
  /** For reports: `rank 3 on host node-2 (process 4711)`. */
  name: z.string(),
  pid: z.int().positive(),
  startTime: z.string(),
  /** What must be the same for it to go on as that rank. */
  role: z.string(),
});
export type Child = z.infer<typeof child>;

/** The processes that a supervisor or an agent has started for ranks, in a file that outlives it. */
export class ChildList {
  readonly #path: string;
  readonly #children = new Map<number, Child>();

  /** `directory`: that of the cluster in shared memory. */
  constructor(directory: string) {
    this.#path = join(directory, 'children');
    for (const one of ChildList.read(directory)) this.#children.set(one.pid, one);
  }

  /** Those that still run. */
  static read(directory: string): Child[] {
    let text: string;
    try {
      text = readFileSync(join(directory, 'children'), 'utf8');
    } catch {
      return [];
    }
    return z
      .array(child)
      .parse(JSON.parse(text))
      .filter(({ pid, startTime }) => startTimeOf(pid) === startTime);
  }

  add(one: Omit<Child, 'startTime'>): void {
    const startTime = startTimeOf(one.pid);
    if (startTime === null) return;
    this.#children.set(one.pid, { ...one, startTime });
    this.#write();
  }

  remove(pid: number): void {
    if (this.#children.delete(pid)) this.#write();
  }

  /** With shared memory full it stays as it was: a process that it lacks is not adopted, and ends when nobody asks for it. */
  #write(): void {
    replaceFileIfRoom(this.#path, JSON.stringify([...this.#children.values()]));
  }
}
