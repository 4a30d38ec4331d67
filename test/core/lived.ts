/** A core under a test's control whose requests' lives are remembered, and told. */
import type { Life } from '../../src/core/life.js';
import { Lives } from '../../src/core/lives.js';
import { tellStory } from '../../src/core/story.js';
import type { Effect, Event } from '../../src/core/types.js';
import { whyWaiting } from '../../src/core/waiting.js';
import { Bench, type BenchOptions } from './bench.js';

export class LivedBench extends Bench {
  readonly lives: Lives;

  constructor(options: BenchOptions = {}, endedMax?: number) {
    super(options);
    this.lives = new Lives(endedMax);
  }

  override send(event: Event): Effect[] {
    const effects = super.send(event);
    this.lives.apply({ ...event, at: this.at }, effects, this.state);
    return effects;
  }

  life(name: number | string): Life {
    const found = this.lives.find(name);
    if (found.length !== 1) throw new Error(`${found.length} requests are called ${name}`);
    return found[0] as Life;
  }

  story(name: number | string): string[] {
    const { policy, mechanism } = this.state.limits;
    const life = this.life(name);
    return tellStory(life, { now: this.at, policy, mechanism, waitingFor: whyWaiting(this.state, life.id) });
  }
}
