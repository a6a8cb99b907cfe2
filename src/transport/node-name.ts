import { randomInt } from 'node:crypto';
import { UsageError } from '../errors.ts';

const form = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}~[a-z0-9]{1,32}$/;
const letters = 6;

/**
 * Names one run of one process: its role and, after a tilde, its incarnation, as in `rank-3~k3f9a1`. A process that
 * restarts takes a new name, so it gets no message meant for the old one. The incarnation is random unless given:
 * lower-case letters and digits.
 */
export function nodeName(role: string, incarnation: string = randomIncarnation()): string {
  const name = `${role}~${incarnation}`;
  checkNodeName(name);
  return name;
}

export function isNodeName(name: string): boolean {
  return form.test(name);
}

/** Throws `UsageError` unless {@link nodeName} could have made the name. */
export function checkNodeName(name: string): void {
  if (!isNodeName(name))
    throw new UsageError(`"${name}" is not a node name; expected role~incarnation, as in rank-3~k3f9a1`);
}

function randomIncarnation(): string {
  return randomInt(36 ** letters)
    .toString(36)
    .padStart(letters, '0');
}
