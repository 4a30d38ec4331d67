/**
 * What can be asked of the server besides completions: models, health, metrics, tokens, version.
 */
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import type { FastifyInstance } from 'fastify';
import type { System } from '../actors/system.js';
import { FastswitchError } from '../errors.js';
import type { ChoiceCounts } from './choice-counts.js';
import { histogram, type Metric, MetricsPage } from './metrics-page.js';
import type { ModelInfo } from './model.js';
import { chatMessages, requireToken, templateOptions } from './parameters.js';
import { DetokenizeRequest, TokenizeRequest } from './schema.js';
import { tenantMetrics } from './tenant-metrics.js';
import type { Tenants } from './tenants.js';
import type { Tokenizer } from './tokenizer.js';
import { vllmMetrics } from './vllm-metrics.js';
import { within } from './within.js';

/** Texts to be counted may be longer than the context, in order to learn by how much; but not without end. */
const TOKENIZE_CONTEXTS_MAX = 8;

export type Health = 'serving' | 'draining' | 'failed';

export interface StatusParts {
  readonly system: System;
  readonly tokenizer: Tokenizer;
  readonly model: ModelInfo;
  readonly version: string;
  readonly tenants: Tenants;
  readonly choiceCounts: ChoiceCounts;
  health(): Health;
}

/** An engine that takes longer than this to say anything is not ready for more. */
const READY_MILLIS_MAX = 2_000;

export function registerStatus(server: FastifyInstance, parts: StatusParts): void {
  registerModels(server, parts);
  registerTokens(server, parts);
  const { system, model, version, tenants, choiceCounts } = parts;
  const vllm = vllmMetrics(model.name, system.info, choiceCounts);
  const page = new MetricsPage(system, model, version, [choicesMetric(choiceCounts), ...tenantMetrics(tenants), ...vllm]);
  server.get('/metrics', async (_request, reply) => reply.type(page.contentType).send(await page.render()));
  server.get('/version', async () => ({ version: parts.version }));
  server.get('/health', async (_request, reply) => {
    const status = parts.health();
    return reply.code(status === 'serving' ? 200 : 503).send({ status });
  });
  server.get('/ready', async (_request, reply) => {
    const status = await readiness(parts);
    return reply.code(status === 'ready' ? 200 : 503).send({ status });
  });
}

function choicesMetric(counts: ChoiceCounts): Metric {
  const name = 'fastswitch_request_choices';
  const help = 'Choices that a prompt asked for (n).';
  return { type: 'histogram', name, help, read: () => histogram(name, counts.histogram()) };
}

/** Whether a request that comes now would be served: asked of the engine's own thread, too. */
async function readiness({ system, health }: StatusParts): Promise<string> {
  const status = health();
  if (status !== 'serving') return status;
  const answered = await within(READY_MILLIS_MAX, system.places([])).catch(() => null);
  return answered === null ? 'busy' : 'ready';
}

function registerModels(server: FastifyInstance, { model, system }: StatusParts): void {
  const card = {
    id: model.name,
    object: 'model',
    created: model.created,
    owned_by: 'fastswitch',
    root: model.name,
    parent: null,
    max_model_len: system.info.contextTokensMax,
  };
  server.get('/v1/models', async () => ({ object: 'list', data: [card] }));
  // A wildcard, because names may contain a slash.
  server.get<{ Params: { '*': string } }>('/v1/models/*', async (request) => {
    const name = request.params['*'];
    if (model.isCalled(name)) return card;
    throw new FastswitchError(
      'model_not_found',
      `There is no model '${name.slice(0, 100)}' here. This server serves '${model.name}'.`,
      'model',
    );
  });
}

function registerTokens(server: FastifyInstance, { model, system, tokenizer }: StatusParts): void {
  const requireModel = (name: string | undefined): void => {
    if (name === undefined || model.isCalled(name)) return;
    throw new FastswitchError(
      'model_not_found',
      `There is no model '${name.slice(0, 100)}' here. This server serves '${model.name}'.`,
      'model',
    );
  };
  const tokensMax = system.info.contextTokensMax * TOKENIZE_CONTEXTS_MAX;
  const typed = server.withTypeProvider<TypeBoxTypeProvider>();
  typed.post('/tokenize', { schema: { body: TokenizeRequest } }, async ({ body }) => {
    requireModel(body.model);
    if ((body.prompt === undefined) === (body.messages === undefined)) {
      throw new FastswitchError('invalid_request', "Give either 'prompt' or 'messages'.", 'prompt');
    }
    const tokens =
      body.prompt !== undefined
        ? await tokenizer.encodePrompt(body.prompt, body.add_special_tokens ?? true, tokensMax, 'prompt')
        : await tokenizer.encodeChat(
            chatMessages(body.messages ?? []),
            templateOptions(body.chat_template_kwargs, body.add_generation_prompt ?? true),
            tokensMax,
          );
    return {
      count: tokens.length,
      max_model_len: system.info.contextTokensMax,
      tokens: Array.from(tokens),
      token_strs: body.return_token_strs === true ? Array.from(tokens, (token) => tokenizer.piece(token)) : null,
    };
  });
  typed.post('/detokenize', { schema: { body: DetokenizeRequest } }, async ({ body }) => {
    requireModel(body.model);
    for (const token of body.tokens) requireToken(token, system.info.vocabularySize, 'tokens');
    return { prompt: tokenizer.decode(body.tokens) };
  });
}
