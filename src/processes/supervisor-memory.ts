import { closeSync, openSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { SupervisorMemory } from '../actors/supervisor/ports.ts';
import { describe } from '../errors.ts';
import type { Logger } from '../ports.ts';
import { decode, encode } from '../transport/codec.ts';
import { replaceFile, replaceFileMeanwhile } from './replace-file.ts';

const prefix = 'ledger-';

/** Documents of a cluster's supervisors, as files of its directory in shared memory, which its owner keeps. */
export function supervisorMemory(directory: string, incarnation: number, log: Logger): SupervisorMemory {
  const pathOf = (name: string) => join(directory, `${prefix}${name}`);
  const read = (file: string): readonly (readonly [string, unknown])[] => {
    const name = file.slice(prefix.length);
    try {
      return [[name, decode(readFileSync(join(directory, file)))]];
    } catch (error) {
      log.error({ file, error: describe(error) }, 'what an earlier supervisor has left cannot be read');
      return [];
    }
  };
  const spare = new SpareDescriptor();
  return {
    incarnation,
    recall: () =>
      new Map(readdirSync(directory).flatMap((file) => (file.startsWith(prefix) ? read(file) : []))),
    write: (name, document) => spare.lendTo(() => replaceFile(pathOf(name), encode(document))),
    writeLarge: async (name, document) => {
      const content = encode(document);
      try {
        await replaceFileMeanwhile(pathOf(name), content);
      } catch {
        // With the descriptor that is kept, or to say why.
        spare.lendTo(() => replaceFile(pathOf(name), content));
      }
    },
    remove: (name) => rmSync(pathOf(name), { force: true }),
  };
}

/** A descriptor that is kept for the time when the process is out of them: what is written down then matters most. */
class SpareDescriptor {
  #descriptor: number | null = take();

  /** Throws what `write` throws if a descriptor more does not help. */
  lendTo(write: () => void): void {
    try {
      write();
    } catch (thrown) {
      const isOut = ['EMFILE', 'ENFILE'].includes((thrown as NodeJS.ErrnoException).code ?? '');
      if (!isOut || this.#descriptor === null) throw thrown;
      closeSync(this.#descriptor);
      this.#descriptor = null;
      write();
    } finally {
      this.#descriptor ??= take();
    }
  }
}

function take(): number | null {
  try {
    return openSync('/dev/null', 'r');
  } catch {
    return null;
  }
}
