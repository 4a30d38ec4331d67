import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // Two cores: engines, browsers and servers in several files at once would only disturb each other.
    maxWorkers: 2,
    testTimeout: 30_000,
    hookTimeout: 60_000,
    // The suite is of the CPU and of a stand-in, also where there is a GPU: only "npm run test:cuda" looks for that.
    env: process.env.FASTSWITCH_TEST_CUDA === '1' ? {} : { FASTSWITCH_LIBCUDA: '/dev/null' },
  },
});
