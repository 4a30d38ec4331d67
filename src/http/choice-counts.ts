/** How many choices prompts ask for (`n`): counted at the edge, because to the system each choice is a request of its own. */
import type { Histogram } from '../core/metrics.js';
import { CHOICES_MAX } from './schema.js';

const BOUNDS = [1, 2, 5, 10, 20, 50, CHOICES_MAX] as const;

export class ChoiceCounts {
  readonly #counts: number[] = [...BOUNDS.map(() => 0), 0];
  #sum = 0;
  #count = 0;

  /** One request with so many prompts, and so many choices for each. */
  asked(prompts: number, choices: number): void {
    const place = BOUNDS.findIndex((bound) => choices <= bound);
    const at = place < 0 ? BOUNDS.length : place;
    this.#counts[at] = (this.#counts[at] ?? 0) + prompts;
    this.#sum += prompts * choices;
    this.#count += prompts;
  }

  histogram(): Histogram {
    return { bounds: BOUNDS, counts: [...this.#counts], sum: this.#sum, count: this.#count };
  }
}
