// Recordings as a newer version of their vendor would send them: with fields and events that nobody knows yet. Owns where
// such things may stand: anywhere but inside what a model wrote.
import type { Recording } from './recording.ts'

/** Objects whose fields are a model's or a token's words, or that go back to the vendor as they came. */
const WORDS = new Set(['args', 'input', 'arguments', 'top_logprobs', 'reasoning_details'])

/** A field more in each object of each JSON text. */
export function withUnknownFields(recording: Recording): Uint8Array {
  const lines = recording.text.split('\n')
  const isBody = recording.contentType.startsWith('application/json')
  const strange = isBody ? strangeJson(recording.text) : lines.map(strangeLine).join('\n')
  return recording.encode(strange)
}

/** Events between the others; undefined where the recording is one body. */
export function withUnknownEvents(recording: Recording, strangers: readonly string[]): Uint8Array | undefined {
  if (recording.contentType.startsWith('application/json')) return undefined
  const separator = recording.isFramed ? '\n' : '\n\n'
  const events = recording.text.split(separator).filter((event) => event.trim() !== '')
  const text = events.map((event) => `${strangers.join(separator)}${separator}${event}${separator}`).join('')
  return recording.encode(text)
}

function strangeLine(line: string): string {
  const start = line.indexOf('{')
  return start < 0 ? line : line.slice(0, start) + strangeJson(line.slice(start))
}

function strangeJson(text: string): string {
  try {
    return JSON.stringify(withField(JSON.parse(text)))
  } catch {
    return text
  }
}

function withField(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withField)
  if (typeof value !== 'object' || value === null) return value
  const entries = Object.entries(value).map(([name, inner]) => [name, WORDS.has(name) ? inner : withField(inner)])
  return { aFieldOfTomorrow: { of: ['tomorrow', null] }, ...Object.fromEntries(entries), another_field: null }
}
