import { defineConfig, type Plugin } from 'vite';
import { pictures } from './tools/charts/pictures.js';

/** Draws the statecharts from their machines into the page. */
const charts: Plugin = {
  name: 'statecharts',
  async buildStart() {
    for (const [name, source] of await pictures()) this.emitFile({ type: 'asset', fileName: `charts/${name}.svg`, source });
  },
};

/** The page of the board, built beside the compiled server that serves it. */
export default defineConfig({
  root: 'src/http/board/page',
  base: '/board/',
  plugins: [charts],
  oxc: { jsx: { runtime: 'automatic', importSource: 'preact' } },
  logLevel: 'warn',
  build: {
    outDir: '../../../../dist/src/http/board/page',
    emptyOutDir: true,
    target: 'es2022',
    // The server allows scripts and styles from files only.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
});
