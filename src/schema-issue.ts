import type * as z from 'zod';

type RawIssue = z.core.$ZodIssue;

/** What is wrong with a value, for a message: where, and in a few words. */
export interface SchemaIssue {
  readonly path: readonly PropertyKey[];
  readonly message: string;
}

/** The first thing that a schema does not allow. A key that it does not know is named by the path. */
export function issueOf(error: { readonly issues: readonly RawIssue[] }): SchemaIssue {
  return issueIn(error.issues[0]!);
}

function issueIn(issue: RawIssue): SchemaIssue {
  const { path, message } = issue;
  if (issue.code === 'unrecognized_keys')
    return { path: [...path, issue.keys[0]!], message: 'there is no such option' };
  if (issue.code !== 'invalid_union' || issue.errors.length === 0) return { path, message };
  // The alternative that is meant is the one whose fault lies deepest.
  const [deepest] = issue.errors
    .flatMap(([first]) => (first === undefined ? [] : [issueIn(first)]))
    .sort((one, other) => other.path.length - one.path.length);
  if (deepest !== undefined && deepest.path.length > 0)
    return { path: [...path, ...deepest.path], message: deepest.message };
  // What has the type of an alternative is meant to be that one.
  const fitting = issue.errors.find(([first]) => first !== undefined && first.code !== 'invalid_type')?.[0];
  if (fitting !== undefined) return { path, message: issueIn(fitting).message };
  const expected = issue.errors.flatMap(([first]) =>
    first?.code === 'invalid_type' ? [first.expected as string] : [],
  );
  const isBare = message === 'Invalid input' && expected.length > 0;
  return { path, message: isBare ? `Invalid input: expected ${expected.join(' or ')}` : message };
}
