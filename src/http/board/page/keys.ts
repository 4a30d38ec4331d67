/** Keys that act wherever the focus is, except where one types. They can be turned off, for who speaks to the machine. */
import { Source } from './feed.js';

export interface KeyHelp {
  readonly keys: string;
  readonly words: string;
}

export const KEYS: readonly KeyHelp[] = [
  { keys: 'c', words: 'to the chart; Tab goes from state to state, Enter shows its requests' },
  { keys: 'r', words: 'to the table of requests; arrows move, Enter opens one' },
  { keys: '/', words: 'to the search above the table' },
  { keys: 'm', words: 'to the memory maps; arrows go from group to group, Enter opens its request' },
  { keys: 'x', words: 'all filters off' },
  { keys: 'Esc', words: 'closes what is open' },
  { keys: 'Space', words: 'recordings: play and pause' },
  { keys: '.', words: 'recordings: one event on' },
  { keys: '?', words: 'this help' },
];

const KEY = 'fastswitch-board-keys';

export const singleKeys = new Source(wanted());
singleKeys.subscribe(() => {
  try {
    localStorage.setItem(KEY, singleKeys.get() ? 'on' : 'off');
  } catch {
    // Not allowed to remember.
  }
});

function wanted(): boolean {
  try {
    return localStorage.getItem(KEY) !== 'off';
  } catch {
    return true;
  }
}

/** Answers how to stop. An action that answers false did nothing: the key keeps its own meaning. */
export function listen(actions: Readonly<Record<string, () => unknown>>): () => void {
  const onKey = (event: KeyboardEvent) => {
    if (event.ctrlKey || event.altKey || event.metaKey || document.querySelector('dialog[open]')) return;
    const typing = (event.target as Element).closest('input, select, textarea') !== null;
    const pressing = event.key === ' ' && (event.target as Element).closest('button, [role=button], summary, a') !== null;
    if (pressing || (event.key !== 'Escape' && (typing || !singleKeys.get()))) return;
    const action = actions[event.key];
    if (action !== undefined && action() !== false) event.preventDefault();
  };
  document.addEventListener('keydown', onKey);
  return () => document.removeEventListener('keydown', onKey);
}
