// The length of a prompt as vendors tell it that count on request: a body with one number. Owns the reading. Pure.
import { isJson } from '../meter/normalise.ts'

/** @param name Of the number. @returns `undefined` where the body has no such count. */
export function countOf(text: string, name: string): number | undefined {
  try {
    const json: unknown = JSON.parse(text)
    const count = isJson(json) ? json[name] : undefined
    return typeof count === 'number' && Number.isSafeInteger(count) && count >= 0 ? count : undefined
  } catch {
    return undefined
  }
}
