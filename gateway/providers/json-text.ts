// Text of a peer as JSON. Owns that what is none is an absence and no exception. Pure.

/** The value, or `undefined` where the text is no JSON. */
export function jsonOrUndefined(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
