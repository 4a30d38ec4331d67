/** Light or dark, as the system has it or as the viewer wants it. */
import { Source } from './feed.js';

export type Theme = 'auto' | 'light' | 'dark';

const KEY = 'fastswitch-board-theme';
const ORDER: readonly Theme[] = ['auto', 'light', 'dark'];
const dark = matchMedia('(prefers-color-scheme: dark)');

export const theme = new Source<Theme>(remembered());
/** Changes whenever colours do: what is painted and not styled has to be painted again. */
export const shade = new Source<'light' | 'dark'>(shadeNow());

export function nextTheme(): void {
  const next = ORDER[(ORDER.indexOf(theme.get()) + 1) % ORDER.length] as Theme;
  try {
    localStorage.setItem(KEY, next);
  } catch {
    // Not allowed to remember: then it is for this page only.
  }
  theme.set(next);
  apply();
}

export function startTheme(): void {
  dark.addEventListener('change', apply);
  apply();
}

function apply(): void {
  const chosen = theme.get();
  if (chosen === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
  shade.set(shadeNow());
}

function shadeNow(): 'light' | 'dark' {
  const chosen = theme.get();
  return chosen === 'auto' ? (dark.matches ? 'dark' : 'light') : chosen;
}

function remembered(): Theme {
  try {
    const value = localStorage.getItem(KEY);
    return ORDER.find((known) => known === value) ?? 'auto';
  } catch {
    return 'auto';
  }
}

/** The value of a colour of the theme, for what is painted. */
export function colour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}
