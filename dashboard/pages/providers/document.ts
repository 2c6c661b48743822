// A document of the catalog as somebody edits it. Owns reading the text, and which secrets it asks for by name. ○ Pure.

export type ReadDocument = { ok: true; document: unknown } | { ok: false; message: string }

export function readDocument(text: string): ReadDocument {
  try {
    return { ok: true, document: JSON.parse(text) as unknown }
  } catch (error) {
    return { ok: false, message: error instanceof Error ? error.message : String(error) }
  }
}

export type AskedSecret = { provider: string; key: string; source: string }

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** Keys whose secret is `env:NAME`: their value is sent beside the document, or they keep what they have. */
export function secretsAsked(document: unknown): AskedSecret[] {
  const providers = isRecord(document) && isRecord(document.providers) ? document.providers : {}
  return Object.entries(providers).flatMap(([provider, fields]) => {
    const keys = isRecord(fields) && isRecord(fields.keys) ? fields.keys : {}
    return Object.entries(keys).flatMap(([key, value]) => {
      const source = isRecord(value) ? value.secret : undefined
      return typeof source === 'string' && source.startsWith('env:') ? [{ provider, key, source }] : []
    })
  })
}

/** By provider and key, as the API takes them; empty ones are left out. */
export function secretsBody(
  asked: readonly AskedSecret[],
  given: ReadonlyMap<string, string>,
): Record<string, Record<string, string>> {
  const body: Record<string, Record<string, string>> = {}
  for (const { provider, key } of asked) {
    const value = given.get(`${provider}/${key}`)
    if (value === undefined || value === '') continue
    body[provider] = { ...body[provider], [key]: value }
  }
  return body
}
