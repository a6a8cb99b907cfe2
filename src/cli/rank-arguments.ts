import { UsageError } from '../errors.ts';

/** No engine has more; a range that is a slip of the keyboard would fill memory. */
const mostRanks = 1_024;

/** `0-3` or `0,1,4`. Throws `UsageError` naming the option. */
export function ranksOf(text: string): number[] {
  const ranks = text.split(',').flatMap((part) => {
    const [, from, to = from] = /^\s*(\d{1,6})(?:-(\d{1,6}))?\s*$/.exec(part) ?? [];
    const [first, last] = [Number(from), Number(to)];
    if (from === undefined || last < first || last - first >= mostRanks) throw refused(text);
    return Array.from({ length: last - first + 1 }, (_, index) => first + index);
  });
  if (ranks.length > mostRanks) throw refused(text);
  return ranks;
}

function refused(text: string): UsageError {
  return new UsageError(`--ranks is "${text}"; give ranks such as 0-3 or 0,1, at most ${mostRanks}`);
}
