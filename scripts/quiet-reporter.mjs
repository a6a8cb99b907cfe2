// A node:test reporter that says nothing of tests that pass: failures, skips with their reasons, and the counts.
import { relative } from 'node:path';

const counted = new Set(['tests', 'pass', 'fail', 'cancelled', 'skipped', 'duration_ms']);

/** The failure itself, and not the report that a file or a suite has one. */
function isOwnFailure({ details, type }) {
  return type !== 'suite' && details.error?.failureType !== 'subtestsFailed';
}

export default async function* quietReporter(source) {
  for await (const { type, data } of source) {
    const where = data?.file === undefined ? '' : `${relative(process.cwd(), data.file)}:${data.line ?? 1} `;
    if (type === 'test:fail' && isOwnFailure({ details: data.details, type: data.details.type })) {
      const { cause, message } = data.details.error;
      yield `FAIL ${where}${data.name}\n${cause?.stack ?? cause ?? message}\n\n`;
    } else if (type === 'test:pass' && typeof data.skip === 'string') {
      yield `SKIP ${where}${data.name}: ${data.skip}\n`;
    } else if (type === 'test:stderr') {
      yield data.message;
    } else if (type === 'test:diagnostic' && counted.has(data.message.split(' ')[0])) {
      yield `# ${data.message}\n`;
    }
  }
}
