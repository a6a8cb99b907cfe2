import { ProtocolError } from '../errors.ts';

/** Containers within containers. Deeper input could exhaust the stack of whoever walks the decoded value. */
export const maximumDepth = 64;
/** Scalars, strings, binaries and containers in one message, map keys included. */
export const maximumValues = 1 << 20;
/** Bytes of one encoded value. */
export const maximumBytes = 64 * 1024 * 1024;

/** The layout of the value at one position: where the next one starts, and how many values it contains. */
interface Token {
  next: number;
  children: number;
  isMap: boolean;
  isString: boolean;
}

/**
 * Walks MessagePack without decoding it and throws `ProtocolError` unless it is exactly one complete value within
 * the limits above, with string keys only and without an integer that a JavaScript number cannot hold. A decoder
 * allocates what an array header claims; after this check every claim is backed by bytes.
 */
export function checkMessagePack(bytes: Uint8Array): void {
  if (bytes.byteLength > maximumBytes) {
    throw new ProtocolError(`a value of ${bytes.byteLength} bytes exceeds ${maximumBytes} bytes`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const token: Token = { next: 0, children: 0, isMap: false, isString: false };
  /** Values still to come in each open container; a map counts keys and values. */
  const pending: number[] = [1];
  const isMap: boolean[] = [false];
  let values = 0;
  while (pending.length > 0) {
    const top = pending.length - 1;
    if (pending[top] === 0) {
      pending.pop();
      isMap.pop();
      continue;
    }
    const isKey = isMap[top]! && pending[top]! % 2 === 0;
    pending[top] = pending[top]! - 1;
    readToken(view, token.next, token);
    values += 1;
    if (values > maximumValues) throw new ProtocolError(`more than ${maximumValues} values in one message`);
    if (isKey && !token.isString) throw new ProtocolError('a map key that is not a string');
    if (token.children > view.byteLength - token.next) throw truncated();
    if (token.children > 0) {
      if (pending.length > maximumDepth) throw new ProtocolError(`nested deeper than ${maximumDepth} levels`);
      pending.push(token.children);
      isMap.push(token.isMap);
    }
  }
  if (token.next !== view.byteLength) {
    throw new ProtocolError(`${view.byteLength - token.next} bytes after the end of the value`);
  }
}

function readToken(view: DataView, position: number, token: Token): void {
  if (position >= view.byteLength) throw truncated();
  const head = view.getUint8(position);
  token.children = 0;
  token.isMap = false;
  token.isString = false;
  if (head < 0x80 || head >= 0xe0) token.next = position + 1;
  else if (head < 0x90) openMap(token, position + 1, head - 0x80);
  else if (head < 0xa0) openArray(token, position + 1, head - 0x90);
  else if (head < 0xc0) {
    token.isString = true;
    token.next = position + 1 + (head - 0xa0);
  } else readLongToken(view, position, head, token);
  if (token.next > view.byteLength) throw truncated();
}

function readLongToken(view: DataView, position: number, head: number, token: Token): void {
  const body = position + 1;
  switch (head) {
    case 0xc0: // nil, false, true
    case 0xc2:
    case 0xc3:
      token.next = body;
      return;
    case 0xc4: // bin 8, 16, 32
    case 0xc5:
    case 0xc6:
      token.next = body + (1 << (head - 0xc4)) + readLength(view, body, head - 0xc4);
      return;
    case 0xc7: // ext 8, 16, 32: one more byte for its type
    case 0xc8:
    case 0xc9:
      token.next = body + (1 << (head - 0xc7)) + 1 + readLength(view, body, head - 0xc7);
      return;
    case 0xca: // float 32, 64
      checkWhole(need(view, body, 4).getFloat32(body));
      token.next = body + 4;
      return;
    case 0xcb:
      checkWhole(need(view, body, 8).getFloat64(body));
      token.next = body + 8;
      return;
    case 0xcc: // uint 8, 16, 32
    case 0xcd:
    case 0xce:
      token.next = body + (1 << (head - 0xcc));
      return;
    case 0xcf: // uint 64
      checkWhole(Number(need(view, body, 8).getBigUint64(body)));
      token.next = body + 8;
      return;
    case 0xd0: // int 8, 16, 32
    case 0xd1:
    case 0xd2:
      token.next = body + (1 << (head - 0xd0));
      return;
    case 0xd3: // int 64
      checkWhole(Number(need(view, body, 8).getBigInt64(body)));
      token.next = body + 8;
      return;
    case 0xd4: // fixext 1, 2, 4, 8, 16
    case 0xd5:
    case 0xd6:
    case 0xd7:
    case 0xd8:
      token.next = body + 1 + (1 << (head - 0xd4));
      return;
    case 0xd9: // str 8, 16, 32
    case 0xda:
    case 0xdb:
      token.isString = true;
      token.next = body + (1 << (head - 0xd9)) + readLength(view, body, head - 0xd9);
      return;
    case 0xdc: // array 16, 32
    case 0xdd:
      openArray(token, body + (2 << (head - 0xdc)), readLength(view, body, head - 0xdb));
      return;
    case 0xde: // map 16, 32
    case 0xdf:
      openMap(token, body + (2 << (head - 0xde)), readLength(view, body, head - 0xdd));
      return;
    default:
      throw new ProtocolError(`0x${head.toString(16)} starts no MessagePack value`);
  }
}

function openArray(token: Token, next: number, size: number): void {
  token.next = next;
  token.children = size;
}

function openMap(token: Token, next: number, size: number): void {
  token.next = next;
  token.children = 2 * size;
  token.isMap = true;
}

/** A length field of 2^`power` bytes. */
function readLength(view: DataView, position: number, power: number): number {
  need(view, position, 1 << power);
  if (power === 0) return view.getUint8(position);
  return power === 1 ? view.getUint16(position) : view.getUint32(position);
}

function need(view: DataView, position: number, bytes: number): DataView {
  if (position + bytes > view.byteLength) throw truncated();
  return view;
}

function checkWhole(value: number): void {
  if (Number.isInteger(value) && !Number.isSafeInteger(value)) {
    throw new ProtocolError(`${value} is beyond 2^53 and not exact as a number; send a bigint`);
  }
}

function truncated(): ProtocolError {
  return new ProtocolError('a value that ends before it is complete');
}
