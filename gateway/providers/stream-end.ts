// What follows the last word of an upstream's stream. Owns that it is read, since only a connection whose answer was read to its end
// is used again, and for how long.
import { within } from '../stream/within.ts'

/** An upstream ends its answer with its last word or a moment later; one that does not is let go of like any other. */
const END_WAIT_MS = 1_000
/** Nothing but the end is to come. */
const BYTES_MAX = 16 * 1024

/** Reads to the end, for so long and so much, and lets go. Never rejects; nobody needs to wait for it but `waitUntil`. */
export async function readToEnd(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<void> {
  try {
    if ((await within(rest(reader), END_WAIT_MS)) === 'ended') return
  } catch {
    // It broke off after its last word: nothing is missing.
  }
  await reader.cancel().catch(() => {})
}

async function rest(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<'ended' | 'more'> {
  let left = BYTES_MAX
  while (left > 0) {
    const { done, value } = await reader.read()
    if (done) return 'ended'
    left -= value.byteLength
  }
  return 'more'
}
