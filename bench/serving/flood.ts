/**
 * Tenants that flood, on a thread of their own: so that reading their streams does not make whoever is measured beside them
 * read its own later. Cores are shared all the same.
 */
import type { ClientRequest } from 'node:http';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { agent, chat, type Tenant } from './chat.js';

interface Flood {
  readonly url: string;
  readonly tenants: readonly Tenant[];
  /** Chats of each at a time, and tokens of each chat. */
  readonly chats: number;
  readonly tokens: number;
}

/** Keeps so many chats of each tenant going until the answer is called; it resolves when they have ended. */
export function flood(how: Flood): () => Promise<void> {
  const worker = new Worker(new URL(import.meta.url), { workerData: how });
  return async () => {
    const ended = new Promise((resolve) => worker.once('exit', resolve));
    worker.postMessage('end');
    await ended;
  };
}

if (!isMainThread && parentPort !== null) {
  const { url, tenants, chats, tokens } = workerData as Flood;
  const port = parentPort;
  const open = new Set<ClientRequest>();
  let over = false;
  const client = async (tenant: Tenant, index: number) => {
    for (let turn = 0; !over; turn += 1) {
      await chat(url, tenant, `Hi, I am ${tenant.name} ${index}. Tell me story ${turn} about a fox.`, tokens, open);
    }
  };
  for (const tenant of tenants) for (let index = 0; index < chats; index += 1) void client(tenant, index);
  port.once('message', () => {
    over = true;
    for (const call of open) call.destroy();
    agent.destroy();
    port.close();
  });
}
