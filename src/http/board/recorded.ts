/** A server that has nothing but the board of a recording. */
import type { FastifyInstance } from 'fastify';
import type { System } from '../../actors/system.js';
import type { BoardAbout, BoardOrder } from '../../core/board.js';
import type { Config } from '../../core/config.js';
import { bareServer } from '../server.js';
import { registerNames } from '../visitors.js';
import { type BoardSource, Feed } from './feed.js';
import { registerBoard } from './routes.js';

/** A recording that is played. */
export interface RecordedSource extends BoardSource, Pick<System, 'explain'> {
  order(order: BoardOrder): void;
  onMoved(listener: () => void): void;
}

export interface RecordedParts {
  readonly about: BoardAbout;
  readonly player: RecordedSource;
  readonly host: string;
  readonly logLevel: Config['logLevel'];
  readonly pageFolder?: string;
}

const BODY_BYTES_MAX = 65_536;
const STALL_SECONDS = 60;
/** What is being answered at the end has so long to go out. */
const LAST_WORDS_MILLIS = 500;

/** Ready to `listen` or to be injected. */
export function createBoardServer({ about, player, host, logLevel, pageFolder }: RecordedParts): FastifyInstance {
  const server = bareServer({ bodyLimitBytes: BODY_BYTES_MAX, logLevel }, () => 'serving');
  registerNames(server, { host, allowedHosts: '', all: true, keyed: false });
  const report = (error: unknown) => server.log.error(error, 'the board cannot be drawn');
  // Whoever steps through a recording wants to see the memories at each step.
  const feed = new Feed(player, { mapsMillis: 0, report });
  player.onMoved(() => feed.moved());
  registerBoard(server, {
    about: () => about,
    feed,
    requests: player,
    control: null,
    player: (order) => player.order(order),
    stallSeconds: STALL_SECONDS,
    ...(pageFolder !== undefined && { pageFolder }),
  });
  server.addHook('preClose', async () => {
    feed.close();
    setTimeout(() => server.server.closeAllConnections(), LAST_WORDS_MILLIS).unref();
  });
  return server;
}
