import { UsageError } from './errors.ts';

const binaryUnits = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
const multipliers: Readonly<Record<string, number>> = {
  '': 1,
  b: 1,
  k: 1e3,
  kb: 1e3,
  kib: 2 ** 10,
  m: 1e6,
  mb: 1e6,
  mib: 2 ** 20,
  g: 1e9,
  gb: 1e9,
  gib: 2 ** 30,
  t: 1e12,
  tb: 1e12,
  tib: 2 ** 40,
};

/** `1.5 GiB`: in the largest binary unit that fits. */
export function formatBytes(bytes: number): string {
  // A value that rounds to 1024 of a unit is printed as 1 of the next.
  const power = bytes < 1 ? 0 : Math.min(Math.floor(Math.log2(bytes * 1.0005) / 10), binaryUnits.length - 1);
  const value = bytes / 2 ** (10 * power);
  const digits = power === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return `${Number(value.toFixed(digits))} ${binaryUnits[power]}`;
}

/** For a reader who also calculates: `2.19 GiB (2348810240 bytes)`. */
export function formatExactBytes(bytes: number): string {
  return bytes < 1024 ? `${bytes} bytes` : `${formatBytes(bytes)} (${bytes} bytes)`;
}

/** Parses `1GiB`, `512MiB`, `1.5g` or a plain number of bytes. Throws `UsageError` naming the option. */
export function parseBytes(text: string, option: string): number {
  const match = /^\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*$/i.exec(text);
  const multiplier = match === null ? undefined : multipliers[match[2]!.toLowerCase()];
  const bytes =
    match === null || multiplier === undefined ? Number.NaN : Math.floor(Number(match[1]) * multiplier);
  if (!Number.isSafeInteger(bytes) || bytes <= 0) {
    throw new UsageError(`${option} is "${text}"; give a size such as 512MiB, 1GiB or a number of bytes`);
  }
  return bytes;
}

/** Parses a whole number of at least `minimum`. Throws `UsageError` naming the option. */
export function parseCount(
  text: string,
  option: string,
  minimum = 1,
  most = Number.MAX_SAFE_INTEGER,
): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < minimum || value > most) {
    const limit = most === Number.MAX_SAFE_INTEGER ? '' : ` and at most ${most}`;
    throw new UsageError(`${option} is "${text}"; give a whole number, at least ${minimum}${limit}`);
  }
  return value;
}

/** A year. Longer times are mistakes. */
const mostSeconds = 31_536_000;

/** Parses whole seconds, and returns milliseconds. Throws `UsageError` naming the option. */
export function parseSeconds(text: string, option: string): number {
  return parseCount(text, option, 1, mostSeconds) * 1_000;
}
