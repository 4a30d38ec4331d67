/** Each state's mark: a shape as well as a colour, the same wherever the state is named. */
import type { Phase } from '../../../core/types.js';

const SHAPES: Readonly<Record<Phase, preact.JSX.Element>> = {
  queued: <circle cx="6" cy="6" r="4" class="hollow" />,
  prefilling: (
    <>
      <circle cx="6" cy="6" r="4" class="hollow" />
      <path d="M6 2a4 4 0 0 1 0 8Z" class="full" />
    </>
  ),
  decoding: <circle cx="6" cy="6" r="4.8" class="full" />,
  'swapping-out': <path d="M2 10 9.6 2.4M4.6 2H10v5.4" class="hollow" />,
  swapped: <rect x="2" y="2" width="8" height="8" rx="1" class="full" />,
  'swapping-in': <path d="M10 2 2.4 9.6M2 4.6V10h5.4" class="hollow" />,
  done: <path d="m2 6.4 2.8 3L10 2.8" class="hollow" />,
};

export function Mark({ phase }: { readonly phase: Phase }) {
  return (
    <svg class="mark" data-phase={phase} viewBox="0 0 12 12" width="12" height="12" aria-hidden="true">
      {SHAPES[phase]}
    </svg>
  );
}

export function StateName({ phase }: { readonly phase: Phase }) {
  return (
    <span class="state-name" data-phase={phase}>
      <Mark phase={phase} />
      {phase}
    </span>
  );
}

/** Patterns for what is drawn as bars: a copy is hatched in the direction it goes. */
export function Patterns() {
  return (
    <svg class="patterns" aria-hidden="true" width="0" height="0">
      <defs>
        <pattern id="hatch-out" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
          <rect width="5" height="5" class="ground out" />
          <rect width="2" height="5" class="stripe" />
        </pattern>
        <pattern id="hatch-in" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(-45)">
          <rect width="5" height="5" class="ground in" />
          <rect width="2" height="5" class="stripe" />
        </pattern>
      </defs>
    </svg>
  );
}
