import { readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { SupervisorMemory } from '../actors/supervisor/ports.ts';
import { describe } from '../errors.ts';
import type { Logger } from '../ports.ts';
import { decode, encode } from '../transport/codec.ts';

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
  return {
    incarnation,
    recall: () =>
      new Map(readdirSync(directory).flatMap((file) => (file.startsWith(prefix) ? read(file) : []))),
    write: (name, document) => {
      // A name of its own, so that one that a supervisor died in is never taken for a document.
      const path = join(directory, `new-${prefix}${name}`);
      try {
        writeFileSync(path, encode(document), { mode: 0o600 });
        renameSync(path, pathOf(name));
      } catch (error) {
        rmSync(path, { force: true });
        throw error;
      }
    },
    remove: (name) => rmSync(pathOf(name), { force: true }),
  };
}
