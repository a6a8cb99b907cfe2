import type { Manifest } from '../checkpoint/manifest.ts';
import { UsageError } from '../errors.ts';

/** Names of modules, each the last part of its path. */
export type FusedModules = readonly string[];

/**
 * Modules of one parent that SGLang fuses within one `load_weights` call: it keeps the first half in a table of that
 * call and writes the parameter when the other half comes, so a half that comes in another call is lost, silently.
 */
const KNOWN: readonly FusedModules[] = [
  // DeepSeek V2 and V3, Kimi K2, GLM-5
  ['q_a_proj', 'kv_a_proj_with_mqa'],
  // DeepSeek V4
  ['wq_a', 'wkv'],
  // its compressors
  ['wkv', 'wgate'],
  // the indexer of sparse attention
  ['wk', 'weights_proj'],
];

/** Tensors that have to be in one bucket. */
export interface FusedUnits {
  /** Of each row of the manifest, the index of its unit; -1 for a tensor that stands alone. */
  readonly unitOf: Int32Array;
  /** The rows of each unit, ascending. */
  readonly units: readonly (readonly number[])[];
}

/**
 * Finds the tensors that a model fuses: weights, scales and all else of modules that {@link KNOWN} or `others` list
 * together and that have the same parent. Throws a UsageError for a list of fewer than two modules, and for a module of
 * `others` that no tensor has.
 */
export function fusedUnits({ names }: Pick<Manifest, 'names'>, others: readonly FusedModules[]): FusedUnits {
  const alone = others.find((list) => list.length < 2);
  if (alone !== undefined)
    throw new UsageError(`fusedModules: "${alone.join(',')}" is not two modules or more that are fused`);
  const groupOf = groupsOf([...KNOWN, ...others]);
  const members = [...groupOf.keys()].map((member) => member.replace(/[^\w]/g, '\\$&'));
  const pattern = new RegExp(`(?:^|\\.)(${members.join('|')})(?:\\.|$)`);
  const unitOf = new Int32Array(names.length).fill(-1);
  const units: number[][] = [];
  const unitAt = new Map<string, number>();
  const found = new Set<string>();
  for (let row = 0; row < names.length; row += 1) {
    const name = names[row]!;
    const match = pattern.exec(name);
    if (match === null) continue;
    found.add(match[1]!);
    const key = `${groupOf.get(match[1]!)} ${name.slice(0, match.index)}`;
    let unit = unitAt.get(key);
    if (unit === undefined) {
      unit = units.push([]) - 1;
      unitAt.set(key, unit);
    }
    unitOf[row] = unit;
    units[unit]!.push(row);
  }
  const unknown = others.flat().find((member) => !found.has(member));
  if (unknown !== undefined) throw new UsageError(`fusedModules: no tensor is of a module "${unknown}"`);
  return { unitOf, units };
}

/** Each module with the number of its group; groups that share a module are one. */
function groupsOf(lists: readonly FusedModules[]): Map<string, number> {
  const groupOf = new Map<string, number>();
  for (const [group, list] of lists.entries()) {
    const joined = new Set(list.flatMap((member) => groupOf.get(member) ?? []));
    for (const [member, earlier] of groupOf) if (joined.has(earlier)) groupOf.set(member, group);
    for (const member of list) groupOf.set(member, group);
  }
  return groupOf;
}

/**
 * Whether a tensor belongs to the same gated MLP as the tensor before it: its gate or up projection. Models take these
 * in any number of calls, but a layer is whole sooner when they come together.
 */
export function isSameGatedProjection(before: string, name: string): boolean {
  const end = gatedEnd(name);
  return end > 0 && gatedEnd(before) === end && before.startsWith(name.slice(0, end));
}

/** Length of the parent's path; -1 for other tensors. */
function gatedEnd(name: string): number {
  const suffix = name.lastIndexOf('_proj.');
  if (name.startsWith('.gate', suffix - 5)) return suffix - 5;
  return name.startsWith('.up', suffix - 3) ? suffix - 3 : -1;
}
