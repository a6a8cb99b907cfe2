/**
 * Writes Python pickles of protocol 4, with only the types that checkpoint-engine's workers receive. Opcodes: see
 * CPython's `Lib/pickletools.py`. There is deliberately no reader: unpickling runs code.
 */
export class PickleWriter {
  #bytes = Buffer.alloc(1 << 10);
  #length = 0;

  constructor() {
    this.#opcode(0x80, 4);
  }

  none(): this {
    return this.#opcode(0x4e);
  }

  false(): this {
    return this.#opcode(0x89);
  }

  /** A whole number from 0 to 2^53 - 1. */
  count(value: number): this {
    if (value < 2 ** 8) return this.#opcode(0x4b, value);
    if (value < 2 ** 16) return this.#opcode(0x4d, value & 0xff, value >> 8);
    const digits: number[] = [];
    for (let rest = value; rest > 0; rest = Math.floor(rest / 256)) digits.push(rest % 256);
    // Integers are signed: the top bit is the sign.
    if (digits.at(-1)! >= 0x80) digits.push(0);
    return this.#opcode(0x8a, digits.length, ...digits);
  }

  text(value: string): this {
    const data = Buffer.from(value, 'utf8');
    return this.#opcode(0x58).#length32(data.length).#append(data);
  }

  bytes(value: Uint8Array): this {
    if (value.length < 2 ** 8) return this.#opcode(0x43, value.length).#append(value);
    return this.#opcode(0x42).#length32(value.length).#append(value);
  }

  /** The object `module.name`. */
  global(module: string, name: string): this {
    return this.#opcode(0x63).#append(Buffer.from(`${module}\n${name}\n`, 'utf8'));
  }

  /** Starts the items of {@link tuple}, {@link items} and {@link appends}. */
  mark(): this {
    return this.#opcode(0x28);
  }

  /** Turns the values since the mark into a tuple. */
  tuple(): this {
    return this.#opcode(0x74);
  }

  /** Turns the last value into a tuple of one. */
  tuple1(): this {
    return this.#opcode(0x85);
  }

  /** Turns the last two values into a tuple. */
  tuple2(): this {
    return this.#opcode(0x86);
  }

  list(): this {
    return this.#opcode(0x5d);
  }

  /** Appends the values since the mark to the list before it. */
  appends(): this {
    return this.#opcode(0x65);
  }

  dict(): this {
    return this.#opcode(0x7d);
  }

  /** Adds the keys and values since the mark, alternating, to the dict before it. */
  items(): this {
    return this.#opcode(0x75);
  }

  /** Calls the last value but one with the last, a tuple, as its arguments. */
  reduce(): this {
    return this.#opcode(0x52);
  }

  /** Ends the pickle, whose value is the one left on the stack. The writer must not be used again. */
  end(): Uint8Array {
    this.#opcode(0x2e);
    return this.#bytes.subarray(0, this.#length);
  }

  #opcode(...bytes: number[]): this {
    this.#reserve(bytes.length);
    for (const byte of bytes) this.#bytes[this.#length++] = byte;
    return this;
  }

  #length32(value: number): this {
    this.#reserve(4);
    this.#length = this.#bytes.writeUInt32LE(value, this.#length);
    return this;
  }

  #append(data: Uint8Array): this {
    this.#reserve(data.length);
    this.#bytes.set(data, this.#length);
    this.#length += data.length;
    return this;
  }

  #reserve(more: number): void {
    if (this.#length + more <= this.#bytes.length) return;
    const larger = Buffer.alloc(2 * (this.#length + more));
    larger.set(this.#bytes);
    this.#bytes = larger;
  }
}
