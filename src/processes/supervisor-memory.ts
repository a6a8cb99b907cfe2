import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { SupervisorMemory } from '../actors/supervisor/ports.ts';
import { describe } from '../errors.ts';
import type { Logger } from '../ports.ts';
import { decode, encode } from '../transport/codec.ts';
import { replaceFile } from './replace-file.ts';

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
    write: (name, document) => replaceFile(pathOf(name), encode(document)),
    remove: (name) => rmSync(pathOf(name), { force: true }),
  };
}
