// The bytes of a request body. Owns the limits while reading and the checks before parsing; schemas are elsewhere.
import type { Failure } from '../../protocol/errors.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import { Appointment, Appointments } from '../stream/appointments.ts'

/** Deeper than any body of a known shape; a parser's recursion and a validator's stay small. */
const MAX_JSON_DEPTH = 32
/** Each object or array costs far more memory than its two bytes of text; this many fit an isolate easily. */
const MAX_JSON_CONTAINERS = 50_000
/**
 * Values of any kind. The largest sensible body of most routes is thousands of messages of a few fields each; only token
 * ids come in millions, and their route says so.
 */
export const MAX_JSON_VALUES = 100_000
export const MAX_JSON_TOKEN_VALUES = 2_500_000

/**
 * A refused body is still read this far and dropped: an answer while the client is sending resets the connection, and the
 * client then sees a broken pipe instead of the refusal.
 */
const DISCARD_BYTES_MAX = 64 * 1024 * 1024

/** A body that trickles holds a connection and up to the limit in memory; a slow line sends 8 MiB in this. */
const BODY_TIMEOUT_MS = 60_000

const OPEN_BRACE = 0x7b
const OPEN_BRACKET = 0x5b
const CLOSE_BRACE = 0x7d
const CLOSE_BRACKET = 0x5d
const QUOTE = 0x22
const BACKSLASH = 0x5c
const COMMA = 0x2c

const invalid = (message: string): Failure => ({ code: 'invalid_request', message })

/**
 * Reads the whole body, giving up as soon as it is over the limit: a length that is missing or lies costs nothing.
 * @param bytesMax Largest body accepted.
 * @param timeoutMs Time for the whole body; at most, and by default, BODY_TIMEOUT_MS.
 * @param appointments Of the request. Default: for its body alone.
 */
export async function readBody(
  request: Request,
  bytesMax: number,
  timeoutMs = BODY_TIMEOUT_MS,
  appointments = new Appointments(),
): Promise<Result<Uint8Array, Failure>> {
  if (request.body === null) return ok(new Uint8Array(0))
  const reader = request.body.getReader()
  let isLate = false
  const late = new Appointment(() => {
    isLate = true
    reader.cancel().catch(() => {})
  })
  appointments.set(late, Math.min(timeoutMs, BODY_TIMEOUT_MS))
  try {
    const read = await readAll(request.headers, reader, bytesMax)
    if (!isLate) return read
    return err({ code: 'deadline_exceeded', message: 'The request body did not arrive in time.' })
  } finally {
    appointments.drop(late)
  }
}

async function readAll(
  headers: Headers,
  reader: ReadableStreamDefaultReader<Uint8Array>,
  bytesMax: number,
): Promise<Result<Uint8Array, Failure>> {
  const tooLarge: Failure = {
    code: 'request_too_large',
    message: `The request body is over the limit of ${bytesMax} bytes.`,
  }
  const declared = headers.get('content-length')
  const length = declared === null ? undefined : Number(declared)
  const chunks: Uint8Array[] = []
  let total = 0
  if (length !== undefined && length > bytesMax) {
    await discard(reader)
    return err(tooLarge)
  }
  try {
    for (;;) {
      const { done, value } = await reader.read()
      if (done) break
      total += value.byteLength
      if (total > bytesMax) {
        chunks.length = 0
        await discard(reader)
        return err(tooLarge)
      }
      chunks.push(value)
      // Nothing can follow, and being told so takes another turn of the event loop.
      if (total === length) break
    }
  } catch {
    return err(invalid('The request body broke off before its end.'))
  }
  const only = chunks[0]
  if (chunks.length === 1 && only !== undefined) return ok(only)
  const bytes = new Uint8Array(total)
  let at = 0
  for (const chunk of chunks) {
    bytes.set(chunk, at)
    at += chunk.byteLength
  }
  return ok(bytes)
}

/** Takes what the client still sends, up to the bound, and keeps none of it. */
async function discard(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<void> {
  let dropped = 0
  try {
    while (dropped <= DISCARD_BYTES_MAX) {
      const { done, value } = await reader.read()
      if (done) return
      dropped += value.byteLength
    }
    await reader.cancel()
  } catch {
    // The client gave up first; there is nobody left to tell.
  }
}

/** Whether the text is within the bounds on nesting and on counts. Strings are skipped, nothing is validated. */
export function withinJsonBounds(bytes: Uint8Array, valuesMax = MAX_JSON_VALUES): boolean {
  let depth = 0
  let containers = 0
  let commas = 0
  let inString = false
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i]
    if (inString) {
      if (byte === BACKSLASH) i++
      else if (byte === QUOTE) inString = false
    } else if (byte === QUOTE) inString = true
    else if (byte === COMMA) {
      commas++
      if (commas >= valuesMax) return false
    } else if (byte === OPEN_BRACE || byte === OPEN_BRACKET) {
      depth++
      containers++
      if (depth > MAX_JSON_DEPTH || containers > MAX_JSON_CONTAINERS) return false
    } else if (byte === CLOSE_BRACE || byte === CLOSE_BRACKET) depth--
  }
  return true
}

/**
 * JSON of a request body: UTF-8 checked, bounded, and any syntax error as the caller's fault.
 * @param valuesMax Most values of any kind.
 */
export function parseJson(bytes: Uint8Array, valuesMax = MAX_JSON_VALUES): Result<unknown, Failure> {
  if (bytes.length === 0) return err(invalid('The request body is empty; a JSON object was expected.'))
  if (!withinJsonBounds(bytes, valuesMax))
    return err(invalid('The request body is nested too deeply or has too many parts.'))
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: false }).decode(bytes)
  } catch {
    return err(invalid('The request body is not valid UTF-8.'))
  }
  try {
    return ok(JSON.parse(text) as unknown)
  } catch {
    // The engine's own message quotes the body; a prompt does not belong in an error.
    return err(invalid('The request body is not valid JSON.'))
  }
}
