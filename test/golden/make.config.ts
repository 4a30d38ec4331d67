/** Makes golden journals, by hand: see README.md. */
import { defineConfig } from 'vitest/config';

export default defineConfig({ test: { include: ['test/golden/make.ts'], testTimeout: 120_000 } });
