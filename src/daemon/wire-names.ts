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

function renamed(value: unknown, rename: (key: string) => string): unknown {
  if (Array.isArray(value)) return value.map((one) => renamed(one, rename));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [rename(key), renamed(one, rename)]));
}
