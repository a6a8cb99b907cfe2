import { lstatSync, readdirSync, readFileSync, renameSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as z from 'zod';
import { SharedDirectory } from '../native-bridge/memory.ts';
import { leftRecord, sharedDirectories } from '../processes/sweep.ts';

/** What a daemon notes of complete versions in its shared memory, for the next one on its socket if it is killed. */
const record = z.object({
  socket: z.string(),
  versions: z.array(
    z.object({
      name: z.string(),
      version: z.string().optional(),
      /** Null while no rank has held it. */
      digest: z.string().nullable(),
      files: z.array(z.string().regex(/^[^/]+$/)),
    }),
  ),
});

export type LeftVersion = z.infer<typeof record>['versions'][number];

/** `until`: in milliseconds since the epoch; until then no start of a cluster removes the directory. */
export function noteVersions(
  directory: string,
  socket: string,
  versions: readonly LeftVersion[],
  until: number,
): void {
  const path = join(directory, leftRecord);
  writeFileSync(`${path}.new`, JSON.stringify({ socket, versions }), { mode: 0o600 });
  setUntil(`${path}.new`, until);
  renameSync(`${path}.new`, path);
}

/** There is nothing for the next daemon. */
export function dropNote(directory: string): void {
  rmSync(join(directory, leftRecord), { force: true });
}

/** The daemon lives: the time begins anew. */
export function keepUntil(directory: string, until: number): void {
  setUntil(join(directory, leftRecord), until);
}

function setUntil(path: string, until: number): void {
  utimesSync(path, Date.now() / 1_000, until / 1_000);
}

/** Moves what a killed daemon of this socket has left to `directory`; the rest of it goes. Call it as the only daemon of the socket. */
export function adoptVersions(socket: string, directory: string): LeftVersion[] {
  return sharedDirectories().flatMap((other) => {
    if (other === directory || !isOwn(other)) return [];
    try {
      return adoptFrom(other, socket, directory);
    } catch {
      // It was removed meanwhile, or is no directory of a daemon.
      return [];
    }
  });
}

/** Whoever may write to /dev/shm may put anything there under such a name. */
function isOwn(directory: string): boolean {
  const options = { throwIfNoEntry: false } as const;
  const [folder, note] = [lstatSync(directory, options), lstatSync(join(directory, leftRecord), options)];
  const uid = process.getuid!();
  return folder?.isDirectory() === true && folder.uid === uid && note?.isFile() === true && note.uid === uid;
}

function adoptFrom(other: string, socket: string, directory: string): LeftVersion[] {
  const left = read(other);
  if (left?.socket !== socket) return [];
  // Joined, it is not swept meanwhile.
  const held = new SharedDirectory(other);
  try {
    const there = new Set(readdirSync(other));
    const whole = left.versions.filter(({ files }) => files.every((file) => there.has(file)));
    for (const file of new Set(whole.flatMap(({ files }) => files)))
      renameSync(join(other, file), join(directory, file));
    return whole;
  } finally {
    held.close();
  }
}

function read(directory: string): z.infer<typeof record> | null {
  try {
    return record.parse(JSON.parse(readFileSync(join(directory, leftRecord), 'utf8')));
  } catch {
    return null;
  }
}
