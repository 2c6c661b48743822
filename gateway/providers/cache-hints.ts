// What a request's cache hints ask for as a whole. Owns that reading; where hints are written is each encoder's. Pure.
import type { CacheHint, InferenceRequest } from '../../protocol/request.ts'

/** How long the caller wants the prompt kept; undefined where no hint says so, or hints differ. */
export function askedCacheTtl({ input, tools = [] }: InferenceRequest): CacheHint['ttl'] | undefined {
  if (input.kind !== 'chat') return undefined
  const asked = new Set<CacheHint['ttl']>()
  for (const { cache } of tools) if (cache !== undefined) asked.add(cache.ttl)
  for (const { content } of input.messages) {
    for (const { cache } of content) if (cache !== undefined) asked.add(cache.ttl)
  }
  const [ttl] = asked
  return asked.size === 1 ? ttl : undefined
}
