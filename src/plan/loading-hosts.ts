import { decodeIdentity, sharedKey } from '../checkpoint/file-identity.ts';
import { escapeControls } from '../checkpoint/printable.ts';
import type { ExaminedFile } from '../checkpoint/segment-store.ts';
import { CheckpointError } from '../errors.ts';

/** A host's view of the files of a checkpoint, in their order. */
export interface HostView {
  readonly host: string;
  readonly files: readonly ExaminedFile[];
}

export interface LoadingHosts {
  /** With the identities that the files have there. */
  readonly hosts: readonly { readonly host: string; readonly identities: string[] }[];
  /** Hosts that do not load, and the first file that keeps each from it. */
  readonly others: readonly { readonly host: string; readonly reason: string }[];
}

/**
 * The hosts that load a checkpoint: those that see the very files whose headers were read, as on a shared file system.
 * If no host with ranks does, it is the first host that has files with the same headers and sizes, and all that see the
 * same as it does. So parts of different files never become one checkpoint.
 *
 * Throws a `CheckpointError` that names host and file if no host can load.
 */
export function chooseLoadingHosts(
  files: readonly { readonly path: string; readonly identity: string }[],
  views: readonly HostView[],
): LoadingHosts {
  if (views.length === 0) return { hosts: [], others: [] };
  const keysOf = new Map(views.map(({ host, files: seen }) => [host, keys(seen)]));
  const opened = files.map(({ identity }) => sharedKey(decodeIdentity(identity)));
  const isFrom = (keysOfOne: readonly (string | null)[], host: string) =>
    keysOf.get(host)!.every((key, file) => key === keysOfOne[file]);
  const fallback = () => views.find((view) => differing(files, view) === null);
  const first = views.find(({ host }) => isFrom(opened, host)) ?? fallback();
  if (first === undefined) throw new CheckpointError(`no host can load it: ${reasonOf(files, views[0]!)}`);
  const chosen = keysOf.get(first.host)!;
  const loading = views.filter(({ host }) => isFrom(chosen, host));
  return {
    hosts: loading.map(({ host, files: seen }) => ({
      host,
      identities: seen.map(({ identity }) => identity!),
    })),
    others: views
      .filter((view) => !loading.includes(view))
      .map((view) => ({ host: view.host, reason: reasonOf(files, view, chosen) })),
  };
}

function keys(files: readonly ExaminedFile[]): (string | null)[] {
  return files.map(({ identity }) => (identity === null ? null : sharedKey(decodeIdentity(identity))));
}

/** The first file that is missing on a host, or has another header or size there; null if there is none. */
function differing(
  files: readonly { readonly identity: string }[],
  { files: seen }: HostView,
): number | null {
  const at = seen.findIndex(({ identity }, file) => {
    if (identity === null) return true;
    const [found, opened] = [decodeIdentity(identity), decodeIdentity(files[file]!.identity)];
    return found.header !== opened.header || found.bytes !== opened.bytes;
  });
  return at < 0 ? null : at;
}

function reasonOf(
  files: readonly { readonly path: string; readonly identity: string }[],
  view: HostView,
  chosen: readonly (string | null)[] = [],
): string {
  const file = differing(files, view) ?? keys(view.files).findIndex((key, at) => key !== chosen[at]);
  const { problem } = view.files[file]!;
  if (problem !== null) return `${problem} on host ${view.host}`;
  return `host ${view.host} has another file under ${escapeControls(files[file]!.path)}`;
}
