// The caller's sampling parameters in the internal form, whatever the dialect. Owns that only what the caller said is set: the
// defaults are the target's. Pure.
import type { Sampling } from '../../protocol/request.ts'

/** `top_p` 0 keeps only the likeliest token; the internal form excludes 0, and this keeps one token just the same. */
const TOP_P_MIN = 1e-6

const NAMES = [
  'temperature',
  'topP',
  'topK',
  'minP',
  'presencePenalty',
  'frequencyPenalty',
  'repetitionPenalty',
  'seed',
] as const

type Said = { [name in (typeof NAMES)[number]]?: number | null | undefined }

/** @param said Checked by the dialect's schema; null is as good as absent. */
export function samplingOf(said: Said, logitBias: Sampling['logitBias'] = []): Sampling {
  const sampling: Sampling = { logitBias }
  for (const name of NAMES) {
    const value = said[name]
    if (typeof value === 'number') sampling[name] = value
  }
  if (sampling.topP !== undefined) sampling.topP = Math.max(sampling.topP, TOP_P_MIN)
  // -1 is a word for "off" too.
  if (sampling.topK !== undefined) sampling.topK = Math.max(sampling.topK, 0)
  return sampling
}
