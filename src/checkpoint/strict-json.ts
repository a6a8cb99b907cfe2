import { CheckpointError } from '../errors.ts';
import { escapeControls, quoted } from './printable.ts';

/**
 * Parses the JSON object of a header or an index. `JSON.parse` silently keeps the last of two equal keys, which would
 * lose a tensor, so those are refused at every depth. `subject` begins the CheckpointError: the file.
 */
export function parseJsonObject(bytes: Uint8Array, subject: string): ReadonlyMap<string, unknown> {
  const text = decodeText(bytes, subject);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new CheckpointError(`${subject} is not JSON: ${escapeControls((error as Error).message)}`);
  }
  if (!isObject(value)) throw new CheckpointError(`${subject} is not a JSON object`);
  if (countKeys(value) !== countColons(text)) {
    throw new CheckpointError(`${subject} has the key ${quoted(findDuplicate(text))} twice`);
  }
  const entries = new Map<string, unknown>();
  // Of 100,000 keys this takes half as long as their list of pairs, here and below.
  for (const key in value) entries.set(key, value[key]);
  return entries;
}

/** An object of JSON: neither null nor an array. */
export function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function decodeText(bytes: Uint8Array, subject: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new CheckpointError(`${subject} is not UTF-8`);
  }
}

/** Keys of all objects within a parsed value. Iterative: the depth of hostile input is not bounded by a stack. */
function countKeys(root: unknown): number {
  let keys = 0;
  const open: unknown[] = [root];
  while (open.length > 0) {
    const value = open.pop() as readonly unknown[] | Readonly<Record<string, unknown>>;
    if (Array.isArray(value)) {
      for (const child of value) if (typeof child === 'object' && child !== null) open.push(child);
      continue;
    }
    const object = value as Readonly<Record<string, unknown>>;
    for (const key in object) {
      const child = object[key];
      keys += 1;
      if (typeof child === 'object' && child !== null) open.push(child);
    }
  }
  return keys;
}

/** Colons outside strings: in valid JSON, one for each key that was written. */
function countColons(text: string): number {
  let colons = 0;
  for (let at = 0; at < text.length; at += 1) {
    const character = text.charCodeAt(at);
    if (character === COLON) colons += 1;
    else if (character === QUOTE) at = endOfString(text, at);
  }
  return colons;
}

const QUOTE = 0x22;
const COLON = 0x3a;
const BACKSLASH = 0x5c;

/** Position of the quote that ends the string which begins at `start`. */
function endOfString(text: string, start: number): number {
  const end = text.indexOf('"', start + 1);
  // Only one behind a backslash may be another.
  if (text.charCodeAt(end - 1) !== BACKSLASH) return end;
  let at = start + 1;
  while (text.charCodeAt(at) !== QUOTE) at += text.charCodeAt(at) === BACKSLASH ? 2 : 1;
  return at;
}

/** The first key of valid JSON that its object has already. */
function findDuplicate(text: string): string {
  const open: Set<string>[] = [];
  let latest = '';
  for (let at = 0; at < text.length; at += 1) {
    const character = text[at];
    if (character === '{') open.push(new Set());
    else if (character === '}') open.pop();
    else if (character === '"') {
      const end = endOfString(text, at);
      latest = text.slice(at, end + 1);
      at = end;
    } else if (character === ':') {
      const key: string = JSON.parse(latest);
      const keys = open.at(-1)!;
      if (keys.has(key)) return key;
      keys.add(key);
    }
  }
  return latest;
}
