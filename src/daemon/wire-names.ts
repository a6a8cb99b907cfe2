/** Names in JSON are in snake_case, as in the HTTP APIs of the engines; in TypeScript they are in camelCase. */

/** A value for an answer: the fields of all its objects renamed. */
export function toWireNames(value: unknown): unknown {
  return renamed(value, (key) => key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`));
}

/** The reverse. */
export function fromWireNames(value: unknown): unknown {
  return renamed(value, fromWireName);
}

export function fromWireName(name: string): string {
  return name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
}

/** Times are in seconds there, and in milliseconds in TypeScript: the fields of an object whose names say so. */
export function withSeconds(fields: object): Record<string, unknown> {
  return timesRenamed(fields, 'Milliseconds', 'Seconds', 1 / 1_000);
}

/** The reverse. */
export function withMilliseconds(fields: object): Record<string, unknown> {
  return timesRenamed(fields, 'Seconds', 'Milliseconds', 1_000);
}

function timesRenamed(fields: object, from: string, to: string, factor: number): Record<string, unknown> {
  const entries = Object.entries(fields).map(([key, value]) => {
    if (!key.endsWith(from) || typeof value !== 'number') return [key, value];
    return [key.slice(0, -from.length) + to, value * factor];
  });
  return Object.fromEntries(entries);
}

function renamed(value: unknown, rename: (key: string) => string): unknown {
  if (Array.isArray(value)) return value.map((one) => renamed(one, rename));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [rename(key), renamed(one, rename)]));
}
