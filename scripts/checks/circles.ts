import type { Import } from './source-text.ts';

/** Each group of files that import each other, types included, once: with a circle in it and the files beside it. */
export function circlesOf(imports: readonly Import[]): string[] {
  const targetsOf = new Map<string, string[]>();
  for (const { file, target } of imports) {
    targetsOf.set(file, [...(targetsOf.get(file) ?? []), target]);
  }
  return groupsOf(targetsOf)
    .filter((group) => group.length > 1 || targetsOf.get(group[0]!)?.includes(group[0]!))
    .map((group) => describe(group.sort(), targetsOf));
}

/** Strongly connected components, by Tarjan's algorithm. */
function groupsOf(targetsOf: ReadonlyMap<string, readonly string[]>): string[][] {
  const order = new Map<string, number>();
  const lowest = new Map<string, number>();
  const open: string[] = [];
  const groups: string[][] = [];
  const visit = (file: string) => {
    order.set(file, order.size);
    lowest.set(file, order.get(file)!);
    open.push(file);
    for (const target of targetsOf.get(file) ?? []) {
      if (!order.has(target)) visit(target);
      else if (!open.includes(target)) continue;
      lowest.set(file, Math.min(lowest.get(file)!, lowest.get(target)!));
    }
    if (lowest.get(file) === order.get(file)) groups.push(open.splice(open.indexOf(file)));
  };
  for (const file of targetsOf.keys()) if (!order.has(file)) visit(file);
  return groups;
}

function describe(group: readonly string[], targetsOf: ReadonlyMap<string, readonly string[]>): string {
  const circle = shortestCircle(group, targetsOf);
  const others = group.filter((file) => !circle.includes(file));
  const beside = others.length === 0 ? '' : ` (and with them ${others.join(', ')})`;
  return `imports go in a circle: ${circle.join(' -> ')}${beside}`;
}

/** From the first file of a group back to it. */
function shortestCircle(
  group: readonly string[],
  targetsOf: ReadonlyMap<string, readonly string[]>,
): readonly string[] {
  const [first] = group;
  const ways = [[first!]];
  const seen = new Set<string>();
  for (const way of ways) {
    for (const target of targetsOf.get(way.at(-1)!) ?? []) {
      if (target === first) return [...way, target];
      if (!group.includes(target) || seen.has(target)) continue;
      seen.add(target);
      ways.push([...way, target]);
    }
  }
  throw new Error(`${group.join(', ')} are no circle`);
}
