/** The Kubernetes examples are what Kubernetes takes. */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { packageRoot } from '../../src/package-root.ts';
import { runToEnd } from '../program.ts';

const python = process.env.WEIGHTCAST_KUBERNETES_PYTHON;
const lws = process.env.WEIGHTCAST_LWS_SCHEMA ?? null;
const docs = fileURLToPath(new URL('docs', packageRoot));
const program = fileURLToPath(new URL('test/launchers/kubernetes_case.py', packageRoot));

test('the examples are valid by the schemas of Kubernetes and LeaderWorkerSet, and one with a wrong name is not', {
  skip:
    (python === undefined && 'WEIGHTCAST_KUBERNETES_PYTHON names no Python that has kubernetes-validate') ||
    (lws === null && 'WEIGHTCAST_LWS_SCHEMA names no definition of LeaderWorkerSet'),
}, async () => {
  const files = readdirSync(docs).filter((name) => name.startsWith('kubernetes-'));
  const argument = { files: files.map((name) => join(docs, name)), lws };
  const { code, said } = await runToEnd([python!, program, JSON.stringify(argument)]);
  assert.equal(code, 0, said);
  assert.match(said, /Role RoleBinding LeaderWorkerSet/);
});
