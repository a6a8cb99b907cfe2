// The node:test reporter of one process: what run-program.mjs has to know of each test, a line of JSON each. They are
// written at once into the file that WEIGHTCAST_TEST_RECORDS names, because the process may die next.
import { openSync, writeSync } from 'node:fs';

// Open from the start: a test may have given up its rights.
const records = openSync(process.env.WEIGHTCAST_TEST_RECORDS, 'a');

// What tests fork would inherit the options of this runner.
process.execArgv.splice(0);

/** A test that holds others counts by them. */
function isOwnFailure(details) {
  return details.error?.failureType !== 'subtestsFailed';
}

function describe(error) {
  const { cause, message } = error;
  return String(cause?.stack ?? cause ?? message);
}

// biome-ignore lint/correctness/useYield: a reporter yields what is to be printed, and nothing is.
export default async function* recordReporter(source) {
  for await (const { type, data } of source) {
    const { name, file, line, nesting, details } = data ?? {};
    const of = { name, file, line };
    if (type === 'test:dequeue') record({ is: 'begun', ...of });
    else if (type === 'test:diagnostic') record({ is: 'note', text: data.message });
    else if ((type !== 'test:pass' && type !== 'test:fail') || details.type === 'suite') continue;
    else {
      const seconds = nesting === 0 ? details.duration_ms / 1_000 : 0;
      if (type === 'test:fail') {
        const report = isOwnFailure(details) ? describe(details.error) : null;
        record({ is: 'fail', ...of, seconds, report });
      } else if (data.skip === undefined) record({ is: 'pass', ...of, seconds });
      else record({ is: 'skip', ...of, seconds, reason: data.skip === true ? '' : data.skip });
    }
  }
}

function record(entry) {
  writeSync(records, `${JSON.stringify(entry)}\n`);
}
