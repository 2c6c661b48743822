// What the form of a key says in words, and what the API takes. Owns spans and lists. ○ Pure.

export const NEVER = 'never'
export const SPANS = [
  { value: NEVER, label: 'Never' },
  { value: '7', label: 'In 7 days' },
  { value: '30', label: 'In 30 days' },
  { value: '90', label: 'In 90 days' },
  { value: '365', label: 'In a year' },
] as const
export type SpanWord = (typeof SPANS)[number]['value']

const DAY_MS = 86_400_000

/** Null: never. */
export const spanEnd = (word: SpanWord, nowMs: number): string | null =>
  word === NEVER ? null : new Date(nowMs + Number(word) * DAY_MS).toISOString()

/** By lines or commas, each once; null where there is none, which means no restriction. */
export function linesOf(text: string): string[] | null {
  const all = [...new Set(text.split(/[\n,]/).map((one) => one.trim()))].filter((one) => one !== '')
  return all.length === 0 ? null : all
}
