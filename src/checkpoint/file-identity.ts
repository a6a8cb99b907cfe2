/**
 * What makes a file the file that it was: a path alone does not, since writers replace files under their paths. Whole
 * numbers are decimal text, because inodes and nanoseconds exceed what a double holds exactly.
 */
export interface FileIdentity {
  readonly device: string;
  readonly inode: string;
  readonly bytes: number;
  /** Nanoseconds since the epoch: the last change of the content. */
  readonly modified: string;
  /** Nanoseconds since the epoch: the last change of the content, the names, the owner or the mode. */
  readonly changed: string;
  /** SHA-256 of the safetensors header, in hex. */
  readonly header: string;
}

/** Of `fs.Stats` with big integers. */
interface Stats {
  readonly dev: bigint;
  readonly ino: bigint;
  readonly size: bigint;
  readonly mtimeNs: bigint;
  readonly ctimeNs: bigint;
}

export function identityOf({ dev, ino, size, mtimeNs, ctimeNs }: Stats, header: string): FileIdentity {
  const [device, inode, modified, changed] = [dev, ino, mtimeNs, ctimeNs].map(String) as [
    string,
    string,
    string,
    string,
  ];
  return { device, inode, bytes: Number(size), modified, changed, header };
}

/** One word, equal for equal identities. */
export function encodeIdentity(identity: FileIdentity): string {
  const { device, inode, bytes, modified, changed, header } = identity;
  return [device, inode, bytes, modified, changed, header].join(':');
}

export function decodeIdentity(encoded: string): FileIdentity {
  const [device = '', inode = '', bytes = '', modified = '', changed = '', header = ''] = encoded.split(':');
  return { device, inode, bytes: Number(bytes), modified, changed, header };
}

/** Whether a file is the same and was not touched at all since; both as one host sees them. */
export function isUntouched(file: FileIdentity, registered: FileIdentity): boolean {
  return isUnwritten(file, registered) && file.changed === registered.changed;
}

/**
 * Whether a file is the same and its content was not written since; both as one host sees them. It may have another
 * name or mode.
 */
export function isUnwritten(file: FileIdentity, registered: FileIdentity): boolean {
  return (
    file.device === registered.device &&
    file.inode === registered.inode &&
    file.bytes === registered.bytes &&
    file.modified === registered.modified
  );
}

/**
 * What two hosts agree about if both see one file of a shared file system. Devices differ among hosts; an inode of a
 * file that was copied differs too, or its time of modification does.
 */
export function sharedKey({ inode, bytes, modified, header }: FileIdentity): string {
  return [inode, bytes, modified, header].join(':');
}

/** Paths contain no NUL. */
const separator = '\0';

/**
 * The name of a segment that is a user's file, used in place: its path and its identity, so that files that stood at one
 * path one after the other are different segments. A segment that weightcast created is named by its path alone.
 */
export function adoptedSegment(path: string, identity: string): string {
  return path + separator + identity;
}

/**
 * Files that a publisher writes again, one version after the other, in a directory of weightcast's own. Their names say so:
 * docs/daemon.md.
 */
const reused = /^\/dev\/shm\/weightcast-[^/]+\/session-[^/]+$/;

/**
 * Such a file of a publisher whose tensors are in the memory of a device: it has their header alone, whose metadata says where
 * they are. The memory is as the file would be, with the header's room in front of the tensors.
 */
const onDevice = /^\/dev\/shm\/weightcast-[^/]+\/session-[^/]+\.device$/;

/** Whether a file, or a segment, has its tensors in the memory of a device: only ranks on it can read them. */
export function isOnDevice(segment: string): boolean {
  return onDevice.test(segmentFile(segment));
}

/** Two writes leave different times, however close: their writer sets them itself, in nanoseconds. */
export function isStampedByWriter(path: string): boolean {
  return reused.test(path);
}

/** What stays the same of a file that is written again: null for a segment that is none. */
export function reusedFile(segment: string): string | null {
  const file = adoptedFile(segment);
  if (file === null || !reused.test(file.path)) return null;
  const { device, inode, bytes } = file.identity;
  return [device, inode, bytes].join(':');
}

/** A segment's name without what changes when its file is written again. */
export function lastingName(segment: string): string {
  const file = reusedFile(segment);
  if (file === null) return segment;
  return [segmentFile(segment), file, adoptedFile(segment)!.identity.header].join(separator);
}

/** The file of a segment, for errors. */
export function segmentFile(segment: string): string {
  return segment.split(separator, 1)[0]!;
}

/** The file that a segment's name stands for; null for a segment that weightcast created. */
export function adoptedFile(
  segment: string,
): { readonly path: string; readonly identity: FileIdentity } | null {
  const at = segment.indexOf(separator);
  if (at < 0) return null;
  return { path: segment.slice(0, at), identity: decodeIdentity(segment.slice(at + 1)) };
}
