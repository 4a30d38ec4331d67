import type { Phase } from '../../../core/types.js';
import { Mark } from './marks.js';
import { EVERYBODY, type Filter, type Sorting } from './rows.js';
import { PHASES } from './states.js';

/** Which requests are looked at, and in what order. */
export interface Looking {
  readonly filter: Filter;
  readonly sorting: Sorting;
}

interface FiltersProps {
  readonly looking: Looking;
  readonly tenants: readonly string[];
  readonly onLooking: (looking: Looking) => void;
}

const numberOrNull = (text: string): number | null => (text === '' || Number.isNaN(Number(text)) ? null : Number(text));

export function Filters({ looking, tenants, onLooking }: FiltersProps) {
  const { filter } = looking;
  const change = (part: Partial<Filter>) => onLooking({ ...looking, filter: { ...filter, ...part } });
  const toggle = (phase: Phase) => {
    const phases = new Set(filter.phases);
    if (!phases.delete(phase)) phases.add(phase);
    change({ phases });
  };
  const filtered = JSON.stringify({ ...filter, phases: [...filter.phases] }) !== JSON.stringify({ ...EVERYBODY, phases: [] });
  return (
    <search class="filters" aria-label="Filter the requests">
      <input
        id="requests-search"
        type="search"
        placeholder="number, label, tenant"
        aria-label="Number, label or tenant"
        value={filter.text}
        onInput={(event) => change({ text: event.currentTarget.value.trim() })}
      />
      <fieldset class="chips" aria-label="States">
        {PHASES.map((phase) => (
          <button
            type="button"
            class="chip"
            data-phase={phase}
            key={phase}
            aria-pressed={filter.phases.has(phase)}
            onClick={() => toggle(phase)}
          >
            <Mark phase={phase} />
            {phase}
          </button>
        ))}
      </fieldset>
      {(tenants.length > 1 || filter.tenant !== '') && (
        <select aria-label="Tenant" value={filter.tenant} onChange={(event) => change({ tenant: event.currentTarget.value })}>
          <option value="">all tenants</option>
          {tenants.map((tenant) => (
            <option key={tenant} value={tenant}>
              {tenant || '(none)'}
            </option>
          ))}
        </select>
      )}
      <label>
        rank ≤
        <input
          type="number"
          value={filter.rankMax ?? ''}
          onInput={(event) => change({ rankMax: numberOrNull(event.currentTarget.value) })}
        />
      </label>
      <label>
        waits ≥
        <input
          type="number"
          min="0"
          step="0.5"
          value={filter.waitsMin === null ? '' : filter.waitsMin / 1e6}
          onInput={(event) => {
            const seconds = numberOrNull(event.currentTarget.value);
            change({ waitsMin: seconds === null ? null : seconds * 1e6 });
          }}
        />
        s
      </label>
      {filtered && (
        <button type="button" class="quiet" onClick={() => onLooking({ ...looking, filter: EVERYBODY })}>
          all
        </button>
      )}
    </search>
  );
}
