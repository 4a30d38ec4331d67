/**
 * GET /v1/tenants: one's own settings and standing, an admin's key sees all. PATCH /v1/tenants/{name}: other settings from
 * the next step on, for what runs and waits too, until the file is read again. null takes a limit away.
 */
import type { FastifyInstance } from 'fastify';
import { FastswitchError } from '../errors.js';
import { callerOf, requireAdmin } from './access.js';
import type { Gate } from './gate.js';
import { settingsBody } from './tenant-settings.js';
import type { Tenant, Tenants } from './tenants.js';

/** What is sent to change something is small. */
const BODY_BYTES_MAX = 4096;

export function registerTenants(server: FastifyInstance, tenants: Tenants, gate: Gate): void {
  server.get('/v1/tenants', async (request) => {
    const { tenant, admin } = callerOf(request);
    const shown = admin ? tenants.all() : [tenant];
    return { object: 'list', data: shown.map((one) => bodyOf(one, gate)) };
  });
  server.get<{ Params: { name: string } }>('/v1/tenants/:name', async (request) => {
    const { tenant, admin } = callerOf(request);
    const found = tenants.named(request.params.name);
    // Whose name it is, or that it is nobody's, is none of another tenant's business.
    if (found === null || (found !== tenant && !admin)) throw unknown(request.params.name);
    return bodyOf(found, gate);
  });
  server.patch<{ Params: { name: string } }>('/v1/tenants/:name', { bodyLimit: BODY_BYTES_MAX }, async (request) => {
    requireAdmin(request, tenants.keyed);
    if (!tenants.keyed)
      throw new FastswitchError(
        'invalid_request',
        'There are no tenants to change here: the server was started without --tenants.',
      );
    const { body } = request;
    if (typeof body !== 'object' || body === null || Array.isArray(body) || Object.keys(body).length === 0)
      throw new FastswitchError('invalid_request', 'Send a JSON object with the settings to change, such as {"weight": 2}.');
    const tenant = tenants.change(request.params.name, body as Readonly<Record<string, unknown>>);
    gate.changed(tenant);
    request.log.info({ tenant: tenant.name, changes: body }, 'tenant changed');
    return bodyOf(tenant, gate);
  });
}

function unknown(name: string): FastswitchError {
  return new FastswitchError('not_found', `There is no tenant '${name.slice(0, 100)}'.`);
}

function bodyOf(tenant: Tenant, gate: Gate): object {
  const { service } = tenant;
  const { line, inside } = gate.counts(tenant);
  return {
    object: 'tenant',
    ...settingsBody(tenant.settings),
    usage: {
      choices: inside,
      waiting_choices: service.waiting,
      line,
      prompt_tokens: service.promptTokens,
      completion_tokens: service.generatedTokens,
    },
  };
}
