/**
 * Priorities that change while requests run: computed offline, before and apart from what the scheduler does, after the
 * two patterns that the FastSwitch paper takes from Yin et al. (arXiv 2403.11805). How they are drawn in detail is ours,
 * because the paper does not say.
 *
 * A priority belongs to a conversation. Each draws from a generator of its own, so that its n-th update says the same
 * under every preset.
 */
import { Random } from '../core/random.js';

export type Pattern =
  /** Nobody goes before anybody: all priorities are equal for ever. */
  | { readonly type: 'none' }
  /** At an update a conversation draws anew, uniformly from [0, 1), with probability `phi`. */
  | { readonly type: 'random'; readonly phi: number; readonly frequency: number }
  /**
   * A conversation is hot (uniform in [.5, 1)) or cold ([0, .5)). At an update, with probability `phi`, the chain takes a
   * step (a hot one stays hot with probability `stay`) and the urgency is drawn anew in its half. `hotShare` of the
   * conversations are hot in the long run: about as many as fit the device, so that who was served lately mostly goes on.
   */
  | {
      readonly type: 'markov';
      readonly phi: number;
      readonly stay: number;
      readonly hotShare: number;
      readonly frequency: number;
    };

export type PatternName = Pattern['type'];
export const PATTERN_NAMES: readonly PatternName[] = ['random', 'markov', 'none'];

/** Steps between two updates of a pattern with this many updates a step; 0: never. */
export function updatePeriod(pattern: Pattern): number {
  return pattern.type === 'none' ? 0 : Math.max(1, Math.round(1 / pattern.frequency));
}

/** The priority of one conversation as time goes by. */
export class PriorityTrace {
  readonly #pattern: Pattern;
  readonly #random: Random;
  #hot = false;
  #urgency = 0;

  constructor(pattern: Pattern, random: Random) {
    this.#pattern = pattern;
    this.#random = random;
    if (pattern.type === 'markov') this.#hot = random.next() < pattern.hotShare;
    if (pattern.type !== 'none') this.#draw();
  }

  /** As the core has it: lower is served first. From 0 to 1. */
  get priority(): number {
    return this.#pattern.type === 'none' ? 0 : 1 - this.#urgency;
  }

  get hot(): boolean {
    return this.#hot;
  }

  /** Takes part in an update; says whether it drew anew. */
  update(): boolean {
    const pattern = this.#pattern;
    if (pattern.type === 'none' || this.#random.next() >= pattern.phi) return false;
    if (pattern.type === 'markov') {
      const { stay, hotShare } = pattern;
      // What leaves the hot side in the long run is what comes to it.
      const warms = hotShare === 1 ? 1 : (hotShare * (1 - stay)) / (1 - hotShare);
      this.#hot = this.#random.next() < (this.#hot ? stay : warms);
    }
    this.#draw();
    return true;
  }

  #draw(): void {
    const drawn = this.#random.next();
    this.#urgency = this.#pattern.type === 'markov' ? (this.#hot ? 0.5 + drawn / 2 : drawn / 2) : drawn;
  }
}

/** Everybody's priorities of one run. */
export class Priorities {
  readonly #pattern: Pattern;
  readonly #random: Random;
  readonly #traces = new Map<number, PriorityTrace>();

  constructor(pattern: Pattern, seed: number) {
    this.#pattern = pattern;
    this.#random = new Random(seed).fork('priorities');
  }

  /** The conversation exists from now on and takes part in updates. */
  open(conversation: number): void {
    this.#traces.set(conversation, new PriorityTrace(this.#pattern, this.#random.fork(`conversation ${conversation}`)));
  }

  close(conversation: number): void {
    this.#traces.delete(conversation);
  }

  /** Of an open conversation. */
  of(conversation: number): number {
    const trace = this.#traces.get(conversation);
    if (trace === undefined) throw new Error(`priorities: conversation ${conversation} is not open`);
    return trace.priority;
  }

  /** One update of all open conversations; names those whose priority changed, in order of their opening. */
  update(): readonly number[] {
    const changed: number[] = [];
    for (const [conversation, trace] of this.#traces) if (trace.update()) changed.push(conversation);
    return changed;
  }
}
