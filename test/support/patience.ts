// How long a test waits for what has to come about. Owns that bound for `vi.waitFor`, which takes none from the configuration as
// `expect.poll` does; its own is one second, which a busy machine takes now and then for what else takes milliseconds.
import { vi } from 'vitest'

const PATIENCE_MS = 10_000
const { waitFor } = vi

vi.waitFor = (callback, options) =>
  waitFor(callback, typeof options === 'number' ? options : { timeout: PATIENCE_MS, ...options })
