import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decode, encode } from '@msgpack/msgpack';
import {
  decodeReply,
  decodeRequest,
  decodeSurvey,
  encodeReply,
  encodeRequest,
  encodeSurvey,
  type LinkRequest,
} from '../../src/engines/worker-link/messages.ts';
import type { LiveDigests } from '../../src/engines/worker-link/worker-link.ts';

const requests: LinkRequest[] = [
  {
    type: 'open',
    protocol: 1,
    device: 'GPU-1',
    epoch: 2 ** 40,
    version: 'qwen@00ff',
    handle: Uint8Array.of(0, 255, 7),
    bytes: 2 ** 52,
    report: true,
  },
  {
    type: 'open',
    protocol: 2,
    device: 'GPU-1',
    epoch: 1,
    version: 'a@b',
    handle: Uint8Array.of(),
    bytes: 0,
    report: false,
    installed: true,
    acceptUnproven: true,
    exchanges: 2,
    silenceSeconds: 3_660,
    parts: true,
    kept: 'record 7',
  },
  {
    type: 'load',
    tensors: [
      { name: 'modèle.weight', dtype: 'F4', shape: [2, 0, 2 ** 40], offset: 2 ** 45 },
      { name: '', dtype: 'BOOL', shape: [], offset: 0 },
      { name: 'o_proj', dtype: 'BF16', shape: [8, 16], offset: 0, part: [1, 8, 8] },
    ],
  },
  { type: 'release' },
  { type: 'finish' },
  { type: 'finish', layouts: [Uint8Array.of(1, 2), Uint8Array.of()] },
  { type: 'abort', reason: 'rank 3 died' },
];

test('requests survive encoding and decoding', () => {
  for (const request of requests) assert.deepEqual(decodeRequest(encodeRequest(request)), request);
});

test('a report survives encoding and decoding, at any offset in a network buffer', () => {
  const report = {
    digests: BigUint64Array.of(0n, 2n ** 64n - 1n, 0x0123456789abcdefn),
    part: Uint16Array.of(0, 1, 65_535),
    parts: Uint16Array.of(0, 2, 65_535),
  };
  const frame = encodeReply({ ok: true, report });
  for (let shift = 0; shift < 8; shift += 1) {
    const buffer = Buffer.alloc(frame.byteLength + 16);
    buffer.set(frame, shift);
    assert.deepEqual(decodeReply(buffer.subarray(shift, shift + frame.byteLength)), { ok: true, report });
  }
  assert.deepEqual(decodeReply(encodeReply({ ok: true, report: null })), { ok: true, report: null });
  const dims = Uint8Array.of(255, 0, 1);
  const kept = {
    token: 'record 7',
    cuts: { dims, starts: Uint32Array.of(0, 0, 2 ** 31), lengths: Uint32Array.of(1, 0, 2 ** 31) },
  };
  for (const reply of [
    { ok: true, report: null, kept },
    { ok: true, readsAhead: true, parts: true },
  ] as const)
    assert.deepEqual(decodeReply(encodeReply(reply)), reply);
  const short = encode({ ok: true, kept: { token: '', dims, starts: new Uint8Array(12), lengths: dims } });
  assert.throws(() => decodeReply(short), { name: 'ProtocolError', message: /kept parts/ });
  assert.deepEqual(decodeReply(encodeReply({ ok: true })), { ok: true });
});

test('on the wire a report is three byte strings of little-endian words, also if its columns are views of longer arrays', () => {
  const longer = BigUint64Array.of(9n, 0x0102030405060708n, 9n);
  const report = {
    digests: longer.subarray(1, 2),
    part: Uint16Array.of(0x0a0b),
    parts: Uint16Array.of(0x0c0d),
  };
  const bytes = (...values: number[]) => Uint8Array.from(values);
  assert.deepEqual(decode(encodeReply({ ok: true, report })), {
    ok: true,
    report: {
      digests: bytes(8, 7, 6, 5, 4, 3, 2, 1),
      part: bytes(0x0b, 0x0a),
      parts: bytes(0x0d, 0x0c),
    },
  });
});

const live: LiveDigests = {
  place: { engine: 'vllm', tp: '0 of 2', graphs: 1 },
  coverage: 'unknown',
  layout: '00ff',
  digests: BigUint64Array.of(0n, 2n ** 64n - 1n),
  names: ['a.weight bfloat16[2](1)', 'a:cpu_linear.packed int8[4](1)'],
};

test('what a worker holds survives encoding and decoding, with the names and without', () => {
  for (const installed of [live, { ...live, names: null }]) {
    assert.deepEqual(decodeReply(encodeReply({ ok: true, report: null, installed })), {
      ok: true,
      report: null,
      installed,
    });
  }
  assert.deepEqual(decodeSurvey(encodeSurvey('GPU-1', [live, live])), [live, live]);
  const short = { ...live, names: ['a.weight'] };
  assert.throws(() => decodeReply(encodeReply({ ok: true, installed: short })), {
    name: 'ProtocolError',
    message: /16 bytes of digests for 1 tensors/,
  });
});

test('unknown keys are ignored', () => {
  const request = { type: 'abort', reason: 'stop', since: 5 } as LinkRequest;
  assert.deepEqual(decodeRequest(encodeRequest(request)), { type: 'abort', reason: 'stop' });
});
