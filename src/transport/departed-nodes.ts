const remembered = 1_024;

/** Names of nodes that were declared down and must not come back; the oldest are forgotten. */
export class DepartedNodes {
  readonly #names = new Set<string>();

  add(node: string): void {
    this.#names.delete(node);
    this.#names.add(node);
    if (this.#names.size <= remembered) return;
    const [oldest] = this.#names;
    this.#names.delete(oldest!);
  }

  has(node: string): boolean {
    return this.#names.has(node);
  }
}
