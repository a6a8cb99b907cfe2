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

/** `1.5 GiB`: at most three digits before the unit. */
export function formatBytes(bytes: number): string {
  // What rounds up to 1024 of a unit is one of the next.
  const power = bytes < 1 ? 0 : Math.min(Math.floor(Math.log2(bytes * 1.0005) / 10), binaryUnits.length - 1);
  const value = bytes / 2 ** (10 * power);
  const digits = power === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return `${Number(value.toFixed(digits))} ${binaryUnits[power]}`;
}

/** For a reader who also calculates: `2.19 GiB (2348810240 bytes)`. */
export function formatExactBytes(bytes: number): string {
  return bytes < 1024 ? `${bytes} bytes` : `${formatBytes(bytes)} (${bytes} bytes)`;
}

/** Bytes from `1GiB`, `512MiB`, `1.5g` or a plain number. Throws `UsageError` naming the option. */
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

/** A whole number from `minimum` on. Throws `UsageError` naming the option. */
export function parseCount(text: string, option: string, minimum = 1): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value) || value < minimum) {
    throw new UsageError(`${option} is "${text}"; give a whole number, at least ${minimum}`);
  }
  return value;
}
