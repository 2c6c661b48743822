// Usage as Google's Gemini API reports it in `usageMetadata`: cached tokens inside the prompt, thoughts and tool-use
// prompts beside the sums, details by modality, and in streams a running total with every chunk. Owns that reading. Pure.
import { CountReader, isJson, type Json, type Normalised } from '../meter/normalise.ts'
import { normaliseOpenAi } from './openai-usage.ts'

/** Every chunk carries the total so far; a field that a chunk leaves out keeps its value. */
export function mergeGeminiUsage(before: Json, next: Json): Json {
  const merged: Json = { ...before }
  for (const [name, value] of Object.entries(next)) {
    if (value !== undefined && value !== null) merged[name] = value
  }
  return merged
}

/**
 * The parts of a `usageMetadata` object, or of the `usage` of the OpenAI-compatible route, where thinking is only in the
 * total; `undefined` where it holds no count at all.
 */
export function normaliseGemini(raw: unknown): Normalised | undefined {
  if (!isJson(raw)) return undefined
  if (!COUNTS.some((name) => name in raw)) return normaliseOpenAi(raw)
  const reader = new CountReader()
  if (COUNTS.every((name) => reader.count(raw[name]) === undefined)) return undefined
  const prompt = reader.countOrZero(raw.promptTokenCount)
  const toolUse = reader.countOrZero(raw.toolUsePromptTokenCount)
  const candidates = reader.countOrZero(raw.candidatesTokenCount ?? raw.responseTokenCount)
  const thoughts = reader.countOrZero(raw.thoughtsTokenCount)
  const total = reader.count(raw.totalTokenCount)
  // A total above the sums is tokens that were computed and stand nowhere else; below them it is wrong.
  const gap = total === undefined ? 0 : total - prompt - toolUse - candidates - thoughts
  if (gap !== 0) reader.inconsistent = true

  const input = reader.take(prompt, [reader.countOrZero(raw.cachedContentTokenCount)])
  const heard = modalities(reader, raw.promptTokensDetails, prompt)
  const heardCached = modalities(reader, raw.cacheTokensDetails, input.taken[0] ?? 0)
  const audio = Math.min(Math.max(0, heard.audio - heardCached.audio), input.rest)
  const image = Math.min(Math.max(0, heard.image - heardCached.image), input.rest - audio)
  const spoken = modalities(reader, raw.candidatesTokensDetails ?? raw.responseTokensDetails, candidates)
  return {
    usage: reader.usage({
      inputUncached: input.rest - audio - image + toolUse,
      inputCacheRead: input.taken[0] ?? 0,
      inputAudio: audio,
      inputImage: image,
      outputText: candidates - spoken.audio - spoken.image,
      outputReasoning: thoughts + Math.max(0, gap),
      outputAudio: spoken.audio,
      outputImage: spoken.image,
    }),
    inconsistent: reader.inconsistent,
  }
}

const COUNTS = [
  'promptTokenCount',
  'candidatesTokenCount',
  'responseTokenCount',
  'thoughtsTokenCount',
  'toolUsePromptTokenCount',
  'totalTokenCount',
]

/** Modalities that a request names: more are a broken upstream. */
const DETAILS_MAX = 32

/** Sound and pictures of a sum, never more than it. Pictures are films too: both are billed as tokens of pictures. */
function modalities(reader: CountReader, details: unknown, sum: number): { audio: number; image: number } {
  let audio = 0
  let image = 0
  let all = 0
  for (const detail of Array.isArray(details) ? details.slice(0, DETAILS_MAX).filter(isJson) : []) {
    const tokens = reader.countOrZero(detail.tokenCount)
    all += tokens
    if (detail.modality === 'AUDIO') audio += tokens
    if (detail.modality === 'IMAGE' || detail.modality === 'VIDEO') image += tokens
  }
  if (all > sum) reader.inconsistent = true
  audio = Math.min(audio, sum)
  return { audio, image: Math.min(image, sum - audio) }
}
