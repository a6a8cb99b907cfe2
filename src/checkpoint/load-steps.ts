/** What of one file goes where: three numbers a range, file offset, offset in the segment, bytes. */
export interface FileRanges {
  readonly path: string;
  readonly ranges: Float64Array;
}

/** What is loaded when the pages of a step are there. */
export interface LoadStep {
  /** From 0. */
  readonly step: number;
  readonly files: readonly FileRanges[];
  /** Two numbers each, offset in the segment and bytes. */
  readonly tensors: readonly number[];
}

interface Run {
  readonly file: number;
  readonly from: number;
  readonly to: number;
  readonly bytes: number;
}

/**
 * Cuts a load at tensors, so that each part of it can begin when the segment has its first steps of `stepBytes`. A tensor that
 * goes beyond a step belongs to that in which it ends. `tensors`: two numbers each, offset and bytes, which is not 0, in the
 * order of offsets; the ranges bring them and nothing else.
 */
export function loadSteps(
  files: readonly FileRanges[],
  tensors: readonly number[],
  stepBytes: number,
): LoadStep[] {
  const runs = runsOf(files);
  let next = 0;
  return tensorsByStep(tensors, stepBytes).map(({ step, end, ...group }) => {
    const rangesOf = new Map<number, number[]>();
    while (next < runs.length && runs[next]!.to < end) {
      const { file, from, to, bytes } = runs[next]!;
      const part = Math.min(bytes, end - to);
      const ranges = rangesOf.get(file) ?? [];
      rangesOf.set(file, ranges);
      ranges.push(from, to, part);
      if (part === bytes) next += 1;
      else runs[next] = { file, from: from + part, to: end, bytes: bytes - part };
    }
    const parts = [...rangesOf].map(([file, ranges]) => {
      return { path: files[file]!.path, ranges: Float64Array.from(ranges) };
    });
    return { step, files: parts, tensors: group.tensors };
  });
}

/** The ranges of all files in the order of the segment. */
function runsOf(files: readonly FileRanges[]): Run[] {
  const runs: Run[] = [];
  for (const [file, { ranges }] of files.entries()) {
    for (let at = 0; at < ranges.length; at += 3) {
      runs.push({ file, from: ranges[at]!, to: ranges[at + 1]!, bytes: ranges[at + 2]! });
    }
  }
  return runs.sort((one, other) => one.to - other.to);
}

/** With where the last tensor of each step ends. */
function tensorsByStep(tensors: readonly number[], stepBytes: number) {
  const groups: { readonly step: number; end: number; readonly tensors: number[] }[] = [];
  for (let at = 0; at < tensors.length; at += 2) {
    const [offset, bytes] = [tensors[at]!, tensors[at + 1]!];
    const end = offset + bytes;
    const step = Math.ceil(end / stepBytes) - 1;
    let group = groups.at(-1);
    if (group?.step !== step) {
      group = { step, end, tensors: [] };
      groups.push(group);
    }
    group.end = end;
    group.tensors.push(offset, bytes);
  }
  return groups;
}
