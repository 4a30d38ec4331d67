/** How many choices prompts ask for (`n`): counted at the edge, because to the system each choice is a request of its own. */
import { type Histogram, Tally } from '../core/histogram.js';
import { CHOICES_MAX } from './schema.js';

export class ChoiceCounts {
  readonly #tally = new Tally([1, 2, 5, 10, 20, 50, CHOICES_MAX], 1);

  /** One request with so many prompts, and so many choices for each. */
  asked(prompts: number, choices: number): void {
    this.#tally.observe(choices, prompts);
  }

  histogram(): Histogram {
    return this.#tally.histogram();
  }
}
