import type { WorkerOptions } from '../actors/protocol/instance-options.ts';
import { deviceUuid } from '../cluster/workers.ts';
import { UsageError } from '../errors.ts';
import { parseCount } from '../units.ts';

/** No engine has more; a range that is a slip of the keyboard would fill memory. */
const mostRanks = 1_024;

/** The number of ranks of an engine. Throws `UsageError` naming the option. */
export function rankCountOf(text: string): number {
  return parseCount(text, '--ranks', 1, mostRanks);
}

/** `0-3` or `0,1,4`. Throws `UsageError` naming the option. */
export function ranksOf(text: string): number[] {
  return numbersOf(
    text,
    () => new UsageError(`--ranks is "${text}"; give ranks such as 0-3 or 0,1, at most ${mostRanks}`),
  );
}

/** `0-7`, `node-2:0-7` or `node-2:GPU-…,GPU-…`. Throws `UsageError` naming the option. */
export function workersOf(text: string): WorkerOptions {
  const [, host, list] = /^(?:([^:]*):)?([^:]*)$/.exec(text) ?? [];
  const refused = () =>
    new UsageError(
      `--workers is "${text}"; give devices such as 0-7, with their host if it is another one: node-2:0-7, at most ${mostRanks}`,
    );
  if (list === undefined || host === '') throw refused();
  const uuids = list.split(',').map((part) => part.trim());
  const devices = uuids.every((uuid) => deviceUuid.test(uuid)) ? uuids : numbersOf(list, refused);
  return { ...(host !== undefined && { host }), devices };
}

function numbersOf(text: string, refused: () => UsageError): number[] {
  const ranks = text.split(',').flatMap((part) => {
    const [, from, to = from] = /^\s*(\d{1,6})(?:-(\d{1,6}))?\s*$/.exec(part) ?? [];
    const [first, last] = [Number(from), Number(to)];
    if (from === undefined || last < first || last - first >= mostRanks) throw refused();
    return Array.from({ length: last - first + 1 }, (_, index) => first + index);
  });
  if (ranks.length > mostRanks) throw refused();
  return ranks;
}
