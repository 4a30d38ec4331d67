/**
 * How evenly the tenants of the file are served. By tenant and not by its users, of whom there may be any number: a name that
 * a client makes up never becomes a label.
 */
import { dispersionOf } from './ledger.js';
import type { Metric, Sample } from './metrics-page.js';
import type { Tenant, Tenants } from './tenants.js';

export function tenantMetrics(tenants: Tenants): readonly Metric[] {
  const { promptPrice, tokenPrice } = tenants.prices;
  const each = (read: (tenant: Tenant) => Readonly<Record<string, number>>, label: string): readonly Sample[] =>
    tenants
      .all()
      .flatMap((tenant) =>
        Object.entries(read(tenant)).map(([name, value]) => ({ labels: { tenant: tenant.name, [label]: name }, value })),
      );
  const ofTenant = (read: (tenant: Tenant) => number): readonly Sample[] =>
    tenants.all().map((tenant) => ({ labels: { tenant: tenant.name }, value: read(tenant) }));
  const dispersion = () =>
    dispersionOf(
      tenants.all().map(({ service }) => service),
      performance.now(),
    );
  const one = (value: number): readonly Sample[] => [{ labels: {}, value }];
  return [
    {
      type: 'gauge',
      name: 'fastswitch_tenant_weight',
      help: 'Share of the machine that a tenant has beside the others.',
      read: () => ofTenant(({ settings }) => settings.weight),
    },
    {
      type: 'gauge',
      name: 'fastswitch_tenant_choices',
      help: "Choices alive by tenant; waiting: for a first admission, after a preemption, or in the tenant's own line.",
      read: () => each(({ service: { live, waiting } }) => ({ waiting, running: live - waiting }), 'state'),
    },
    {
      type: 'counter',
      name: 'fastswitch_tenant_tokens_total',
      help: 'Tokens that a tenant was served.',
      read: () => each(({ service }) => ({ prompt: service.promptTokens, generated: service.generatedTokens }), 'kind'),
    },
    {
      type: 'counter',
      name: 'fastswitch_tenant_service_total',
      help: `Service by tenant as virtual token counters count it: ${promptPrice} for a prompt token, ${tokenPrice} for a generated one.`,
      read: () => ofTenant(({ service }) => service.served),
    },
    {
      type: 'gauge',
      name: 'fastswitch_tenant_jain_index',
      help: "Jain's index of fairness over the last minute's service by weight of tenants that wait: 1 is even, 1/n is all for one.",
      read: () => one(dispersion().jain),
    },
    {
      type: 'gauge',
      name: 'fastswitch_tenant_service_gap',
      help: 'Largest difference in service by weight between two tenants that wait, since both do.',
      read: () => one(dispersion().gap),
    },
    {
      type: 'counter',
      name: 'fastswitch_slo_choices_total',
      help: 'Choices that had an objective, by whether they met it. ttft: until the first token; tbt: mean time between tokens.',
      read: () =>
        tenants.all().flatMap(({ name, service }) =>
          (['ttft', 'tbt'] as const).flatMap((objective) =>
            (['met', 'missed'] as const).map((result) => ({
              labels: { tenant: name, objective, result },
              value: service.attained[objective][result],
            })),
          ),
        ),
    },
  ];
}
