// What a request's cache hints ask for as a whole, and how servers of OpenAI's dialect are told of one. Owns both; where hints are
// written is each encoder's. Pure.
import type { CacheHint, InferenceRequest } from '../../protocol/request.ts'
import { openAiTraits } from './openai-models.ts'
import type { Preset } from './presets.ts'

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

/** What the server knows of marks with this model. */
export const withMarksOf = (preset: Preset, model: string): Preset =>
  preset.cacheMarks !== 'breakpoint' || openAiTraits(model).hasCacheBreakpoints
    ? preset
    : { ...preset, cacheMarks: undefined }

/** Of the request as a whole: the vendor keeps the end of a prompt, too, and charges for that, unless it is told not to. */
export const cacheModeField = (
  { promptCacheMode: mode }: InferenceRequest,
  { cacheMarks }: Preset,
): Record<string, unknown> =>
  mode !== undefined && cacheMarks === 'breakpoint' ? { prompt_cache_options: { mode } } : {}

/** Beside the last part of what is to be kept. A breakpoint is kept for half an hour at least, and its longer form is not everywhere. */
export function cacheField(cache: CacheHint | undefined, { cacheMarks }: Preset): Record<string, unknown> {
  if (cache === undefined || cacheMarks === undefined) return {}
  if (cacheMarks === 'breakpoint') return { prompt_cache_breakpoint: { mode: 'explicit' } }
  return { cache_control: cache.ttl === '1h' ? { type: 'ephemeral', ttl: '1h' } : { type: 'ephemeral' } }
}
