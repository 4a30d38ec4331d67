/** A streamed chat of a tenant, timed as its client sees it. */
import { Agent, type ClientRequest, request } from 'node:http';

export interface Tenant {
  readonly name: string;
  readonly weight: number;
  readonly key: string;
}

export interface Answer {
  /** From the request to the first byte of text; null: no token came. */
  readonly ttftMillis: number | null;
  /** Of that, by the server's own account, between the scheduler's hearing of it and its first token; null: not told. */
  readonly schedulerMillis: number | null;
  readonly text: string;
}

interface Frame {
  readonly choices: readonly [{ readonly delta: { readonly content?: string } }?];
  readonly timing?: { readonly first_token_seconds: number | null };
}

export const agent = new Agent({ keepAlive: true, maxSockets: 512 });

/** `open` gets it while it lasts, so that it can be ended. */
export function chat(
  url: string,
  { key }: Tenant,
  content: string,
  maxTokens: number,
  open: Set<ClientRequest>,
): Promise<Answer> {
  const body = JSON.stringify({
    model: 'demo',
    messages: [{ role: 'user', content }],
    stream: true,
    max_tokens: maxTokens,
    ignore_eos: true,
    temperature: 0,
    return_timing: true,
  });
  return new Promise((resolve) => {
    const sent = performance.now();
    let ttftMillis: number | null = null;
    let schedulerMillis: number | null = null;
    let text = '';
    let rest = '';
    const headers = { 'content-type': 'application/json', authorization: `Bearer ${key}` };
    const call = request(`${url}/v1/chat/completions`, { method: 'POST', headers, agent }, (response) => {
      response.setEncoding('utf8');
      response.on('data', (chunk: string) => {
        const lines = (rest + chunk).split('\n');
        rest = lines.pop() ?? '';
        for (const line of lines) {
          if (!line.startsWith('data: {')) continue;
          ttftMillis ??= performance.now() - sent;
          const { choices, timing } = JSON.parse(line.slice(6)) as Frame;
          text += choices[0]?.delta.content ?? '';
          const seconds = timing?.first_token_seconds ?? null;
          if (seconds !== null) schedulerMillis = 1000 * seconds;
        }
      });
      response.on('close', () => {
        open.delete(call);
        resolve({ ttftMillis: response.statusCode === 200 ? ttftMillis : null, schedulerMillis, text });
      });
    });
    open.add(call);
    call.on('error', () => {
      open.delete(call);
      resolve({ ttftMillis: null, schedulerMillis, text });
    });
    call.end(body);
  });
}
