// Test suites: `unit` runs in Node, `simulation` lives through random histories of money in Node, `worker` runs inside workerd
// with the real migrations in a real Postgres, `e2e` starts the whole system and talks to it from outside, `browser` looks at its dashboard in Chromium,
// `sdk` runs the published SDK in several runtimes, `net` does the whole over several hosts in network namespaces.
import { cloudflareTest } from '@cloudflare/vitest-plugin'
import { defineConfig } from 'vitest/config'

/** Signs dispatches in tests only. */
const TEST_SIGNING_KEY =
  '{"kty":"OKP","crv":"Ed25519","x":"AI_A0QZN9nvJcwjNKS3quA4MOqSZ7JojZFK6a8Lzxd4","d":"7I_KW7ApXDpadVos08VDtXh8d_yvoV8oYnkrdSoj87s","kid":"test-key"}'

/** What has to come about is waited for this long: longer than a busy machine takes, and no test is slower for it. */
const PATIENCE = { setupFiles: ['test/support/patience.ts'], expect: { poll: { timeout: 10_000 } } }

/** On two cores one worker would leave a core idle. */
const WORKERS = 2

/** They end their objects in the middle of their work, which other files in the same runtime would feel. */
const ALONE = ['test/worker/responses-background.test.ts', 'test/worker/run-*.test.ts']

/** Inside workerd. Loading the whole gateway anew for each file takes longer than its tests, so files share a runtime where they can. */
const worker = (name: string, files: { include: string[]; exclude?: string[]; isolate?: boolean }) => ({
  plugins: [
    cloudflareTest(({ inject }) => ({
      wrangler: { configPath: './wrangler.toml' },
      miniflare: {
        bindings: {
          DATABASE_URL: inject('databaseUrl'),
          ADMIN_TOKEN: 'test-admin-token-of-more-than-32-characters',
          SIGNING_KEY_JWK: TEST_SIGNING_KEY,
          SECRETS_KEK: 'AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=',
        },
      },
    })),
  ],
  test: {
    name,
    ...files,
    ...PATIENCE,
    globalSetup: ['test/support/database.ts'],
    testTimeout: 30_000,
    // Each runtime opens connections of its own, and a gateway that waits two seconds for one says that Postgres is away. Parts
    // of the suite beside each other have a Postgres each.
    maxWorkers: 1,
  },
})

export default defineConfig({
  test: {
    // Each part of the Worker suite loads the whole gateway anew.
    fsModuleCache: true,
    projects: [
      {
        test: {
          name: 'unit',
          ...PATIENCE,
          include: ['test/unit/**/*.test.ts', 'test/contract/**/*.test.ts', 'test/*.test.ts'],
          testTimeout: 30_000,
          maxWorkers: WORKERS,
        },
      },
      {
        test: {
          name: 'simulation',
          include: ['test/simulation/*.test.ts'],
          // Threads of its own, at the lowest priority beside other suites.
          testTimeout: 1_800_000,
          hookTimeout: 1_800_000,
        },
      },
      worker('worker', { include: ['test/worker/**/*.test.ts'], exclude: ALONE, isolate: false }),
      worker('worker-alone', { include: ALONE }),
      ...[
        // The published SDK in the runtimes that it promises; `runtimes` has those besides that are large to install.
        { name: 'sdk', include: ['test/runtimes/runtimes.test.ts'] },
        { name: 'runtimes', include: ['test/runtimes/*.test.ts'] },
      ].map((files) => ({
        // A first run installs what it needs.
        test: { ...files, hookTimeout: 120_000, testTimeout: 300_000, maxWorkers: 1 },
      })),
      {
        test: {
          name: 'net',
          // In network namespaces that only root can make: run by `npm run test:net`.
          include: ['test/net/**/*.test.ts'],
          hookTimeout: 600_000,
          testTimeout: 120_000,
          maxWorkers: 1,
        },
      },
      {
        test: {
          name: 'browser',
          // The dashboard in a real Chromium, against a whole system with weeks of usage.
          include: ['test/browser/*.test.ts'],
          hookTimeout: 600_000,
          testTimeout: 120_000,
          maxWorkers: 1,
        },
      },
      {
        test: {
          name: 'e2e',
          ...PATIENCE,
          include: ['test/e2e/**/*.test.ts'],
          // A first start compiles the engine and downloads the model.
          hookTimeout: 600_000,
          testTimeout: 60_000,
          // Much of it is waiting: two systems at once keep two cores busy, more would starve each other.
          maxWorkers: WORKERS,
        },
      },
    ],
  },
})
