/** The board of the server that serves. */
import type { System } from '../../actors/system.js';
import type { BoardAbout } from '../../core/board.js';
import { type Config, presetOf } from '../../core/config.js';
import type { ModelInfo } from '../model.js';
import { Feed } from './feed.js';
import type { BoardControl, BoardParts } from './routes.js';

export interface LiveBoard {
  readonly config: Config;
  readonly system: System;
  readonly model: ModelInfo;
  /** Of fastswitch. */
  readonly version: string;
  /** New requests are refused from now on. */
  drain(): void;
  /** Told of a mistake of our own. */
  report(error: unknown): void;
}

export function liveBoard({ config, system, model, version, drain, report }: LiveBoard): BoardParts {
  const { preset, maxRunning, maxBatchTokens, admin } = config;
  const { blockTokens, blockBytes, contextTokensMax } = system.info;
  const about: BoardAbout = {
    version,
    source: 'live',
    model: model.name,
    preset,
    policy: presetOf(config).policy,
    ...{ blockTokens, blockBytes, maxRunning, maxBatchTokens, contextTokensMax, admin },
    recording: null,
  };
  const control: BoardControl = {
    abort: (id, reason) => system.abort(id, reason),
    reprioritize: (id, priority) => system.reprioritize(id, priority),
    drain,
    async isAlive(id) {
      const { requests } = await system.board(false);
      return requests.some((request) => request.id === id);
    },
  };
  return {
    about: () => about,
    feed: new Feed({ read: (maps) => system.board(maps), player: () => null }, { report }),
    requests: system,
    control,
    player: null,
    stallSeconds: config.stallSeconds,
  };
}
