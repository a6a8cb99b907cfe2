import { documentDigest, packDocument } from '../../checkpoint/document-codec.ts';
import type { HostDocument } from '../../checkpoint/host-documents.ts';
import type { Plan } from '../../plan/plan.ts';
import { encodePlan } from '../../plan/plan-codec.ts';
import { ask } from '../protocol/ask.ts';
import type { Segment } from '../protocol/checkpoint-values.ts';
import { deadlines } from '../protocol/deadlines.ts';
import { toRank } from '../protocol/rank.ts';
import type { ReadyRank } from '../protocol/supervisor.ts';
import type { UpdateContext } from './context.ts';

/** A piece waits for the answer to the one before, so this is all that is on its way to a host. */
const pieceBytes = 2 ** 20;
/** Hosts that are written to at once: what is on its way to all of them stays far below the supervisor's memory. */
const hostsAtOnce = 8;

/** A rank, with the manifests, by layout, and the plans, by digest, that it has cached. */
interface Reader {
  readonly ready: ReadyRank;
  readonly layouts: readonly string[];
  readonly planDigests: readonly string[];
}

type Content = Omit<HostDocument, 'path'>;

/** What one epoch sends to hosts once and not to each of their ranks: plans and manifests, which grow with the tensors. */
export class EpochDocuments {
  readonly #update: UpdateContext;
  readonly #epoch: number;
  readonly #contents = new Map<string, Uint8Array>();
  readonly #written: Segment[] = [];
  /** What was packed of what groups have in common, and the writing of a document by its path. */
  readonly #packed = new Map<Uint8Array, Content>();
  readonly #bringing = new Map<string, Promise<void>>();
  #writing = 0;
  readonly #waiting: (() => void)[] = [];

  constructor(update: UpdateContext, epoch: number) {
    this.#update = update;
    this.#epoch = epoch;
  }

  /** Brings what ranks have not cached to their hosts. The returned function says what of it a rank has to read. */
  async bringMissing(plan: Plan, manifest: Uint8Array, ranks: readonly Reader[]) {
    const lacksPlan = ({ planDigests }: Reader) => !planDigests.includes(plan.digest);
    const lacksManifest = ({ layouts }: Reader) => !layouts.includes(plan.layout);
    const added = {
      plan: ranks.some(lacksPlan) ? this.#add(encodePlan(plan)) : null,
      manifest: ranks.some(lacksManifest) ? this.#add(manifest) : null,
    };
    const missing = (rank: Reader) => {
      const at = (content: Content | null) => content && this.#inDirectory(content, rank.ready.directory);
      return {
        plan: lacksPlan(rank) ? at(added.plan) : null,
        manifest: lacksManifest(rank) ? at(added.manifest) : null,
      };
    };
    const hosts = new Set(ranks.map(({ ready }) => ready.host));
    await Promise.all(
      [...hosts].map((host) => {
        const members = ranks.filter(({ ready }) => ready.host === host);
        const documents = [
          members.some(lacksPlan) ? added.plan : null,
          members.some(lacksManifest) ? added.manifest : null,
        ];
        return this.#bring(
          documents.filter((one) => one !== null),
          members.filter((member) => lacksPlan(member) || lacksManifest(member)).map(({ ready }) => ready),
        );
      }),
    );
    return missing;
  }

  #add(plain: Uint8Array): Content {
    const known = this.#packed.get(plain);
    if (known !== undefined) return known;
    const content = packDocument(plain);
    const digest = documentDigest(content);
    this.#contents.set(digest, content);
    const added = { digest, bytes: content.byteLength };
    this.#packed.set(plain, added);
    return added;
  }

  /** Has the first of `readers`, which are of one host, write documents into its directory, where all find them. */
  async #bring(documents: readonly Content[], readers: readonly ReadyRank[]): Promise<void> {
    const [writer] = readers;
    if (documents.length === 0 || writer === undefined) return;
    await this.#turn();
    try {
      for (const document of documents) {
        const { path } = this.#inDirectory(document, writer.directory);
        const key = `${writer.host} ${path}`;
        const bringing = this.#bringing.get(key) ?? this.#write(document, writer);
        this.#bringing.set(key, bringing);
        await bringing;
      }
    } finally {
      this.#writing -= 1;
      this.#waiting.shift()?.();
    }
  }

  /** They were read, or nobody will. */
  release(): void {
    this.#update.spec.onUnneeded(this.#written);
    this.#contents.clear();
    this.#packed.clear();
  }

  /** Of this epoch: another one may need the same, and release it earlier. */
  #inDirectory({ digest, bytes }: Content, directory: string): HostDocument {
    return { path: `${directory}/document-${this.#epoch}-${digest}`, digest, bytes };
  }

  async #turn(): Promise<void> {
    while (this.#writing >= hostsAtOnce) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    this.#writing += 1;
  }

  async #write(added: Content, { rank, ref, host, directory }: ReadyRank): Promise<void> {
    const document = this.#inDirectory(added, directory);
    this.#written.push({ path: document.path, host });
    const content = this.#contents.get(document.digest)!;
    for (let offset = 0; offset < content.byteLength; offset += pieceBytes) {
      const question = { document, offset, piece: content.subarray(offset, offset + pieceBytes) };
      const within = this.#update.within(deadlines.control);
      const written = ask(this.#update.context, ref, toRank.writeDocument, question, within);
      await this.#update.answerOf(rank, written);
    }
  }
}
