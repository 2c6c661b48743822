// Usage as OpenAI-compatible servers report it: chat completions, completions, embeddings and responses. Owns telling from
// the total whether a server counts cached and reasoning tokens inside or beside the sums: the dialect says inside, some
// servers of that dialect do not. Pure.
import { CountReader, isJson, type Json, jsonOrEmpty, type Normalised } from '../meter/normalise.ts'

/** Where a server counts its details; a total, where there is one, decides over it. */
export type Habit = { isReasoningBeside: boolean }

/**
 * The parts of a `usage` object; `undefined` where it holds no count at all.
 * @example normaliseOpenAi({ prompt_tokens: 10, completion_tokens: 2 })?.usage.outputText // 2
 */
export function normaliseOpenAi(raw: unknown, habit: Habit = { isReasoningBeside: false }): Normalised | undefined {
  if (!isJson(raw)) return undefined
  const reader = new CountReader()
  const total = reader.count(raw.total_tokens)
  const sums = sumsOf(reader, raw, total)
  if (sums === undefined) return undefined
  const { prompt, completion } = sums
  const inputDetails = jsonOrEmpty(raw.prompt_tokens_details ?? raw.input_tokens_details)
  const outputDetails = jsonOrEmpty(raw.completion_tokens_details ?? raw.output_tokens_details)
  const cached = reader.countOrZero(inputDetails.cached_tokens)
  const written = writesOf(reader, inputDetails)
  const reasoning = reader.count(outputDetails.reasoning_tokens)

  const beside = besides(reader, { prompt, completion, total, cached, reasoning }, habit)
  // Where details exceed their sum, cached tokens are believed before written ones: they are the cheaper.
  const input = reader.take(prompt ?? 0, beside.cached ? [0, written.sum] : [cached, written.sum])
  const heard = modalities(reader, inputDetails, input.rest)
  const output = reader.take(completion ?? 0, beside.reasoning ? [] : [reasoning ?? 0])
  const spoken = modalities(reader, outputDetails, output.rest)
  const [insideCached = 0, insideWritten = 0] = input.taken
  const usage = reader.usage({
    inputUncached: heard.rest,
    inputCacheRead: beside.cached ? cached : insideCached,
    inputCacheWrite5m: insideWritten - Math.min(written.long, insideWritten),
    inputCacheWrite1h: Math.min(written.long, insideWritten),
    inputAudio: heard.audio,
    inputImage: heard.image,
    outputText: spoken.rest,
    outputReasoning: beside.reasoning ? (reasoning ?? beside.unexplained) : (output.taken[0] ?? 0),
    outputAudio: spoken.audio,
    outputImage: spoken.image,
  })
  return { usage, inconsistent: reader.inconsistent }
}

/**
 * The two sums; one that is missing is what the other leaves of the total, and a total alone is the prompt, the cheaper of
 * the two. A prompt that nobody counted is noted: every answer had one.
 */
function sumsOf(
  reader: CountReader,
  raw: Json,
  total: number | undefined,
): { prompt: number | undefined; completion: number | undefined } | undefined {
  const prompt = reader.count(raw.prompt_tokens ?? raw.input_tokens)
  const completion = reader.count(raw.completion_tokens ?? raw.output_tokens)
  if (total === undefined) {
    if (prompt === undefined && completion === undefined) return undefined
    if (prompt === undefined) reader.inconsistent = true
    return { prompt, completion }
  }
  if (prompt === undefined) return { prompt: Math.max(0, total - (completion ?? 0)), completion }
  return { prompt, completion: completion ?? Math.max(0, total - prompt) }
}

/** What was written to a cache, and what of it is kept for hours: the dearer where the two have prices of their own. */
function writesOf(reader: CountReader, inputDetails: Json): { sum: number; long: number } {
  const split = jsonOrEmpty(inputDetails.cache_write_tokens_details)
  const long = reader.countOrZero(split.ttl_12h_tokens)
  const sum = reader.count(inputDetails.cache_write_tokens) ?? long + reader.countOrZero(split.ttl_30m_tokens)
  if (long > sum) reader.inconsistent = true
  return { sum, long }
}

/**
 * Sound and pictures of a sum, out of what its other details left. Cached sound is in two details at once, so what no
 * longer fits is no contradiction.
 */
function modalities(reader: CountReader, details: Json, sum: number): { audio: number; image: number; rest: number } {
  const audio = Math.min(reader.countOrZero(details.audio_tokens), sum)
  const image = Math.min(reader.countOrZero(details.image_tokens), sum - audio)
  return { audio, image, rest: sum - audio - image }
}

/** Which details stand beside the sums; `unexplained` are output tokens that only the total knows of. */
type Beside = { cached: boolean; reasoning: boolean; unexplained: number }

type Counts = {
  prompt: number | undefined
  completion: number | undefined
  total: number | undefined
  cached: number
  reasoning: number | undefined
}

function besides(reader: CountReader, counts: Counts, habit: Habit): Beside {
  const { prompt, completion, total, cached, reasoning = 0 } = counts
  const inside: Beside = { cached: false, reasoning: false, unexplained: 0 }
  if (total === undefined) return { ...inside, reasoning: habit.isReasoningBeside }
  const gap = total - (prompt ?? 0) - (completion ?? 0)
  if (gap === 0) return inside
  if (gap === reasoning) return { ...inside, reasoning: true }
  if (gap === cached) return { ...inside, cached: true }
  if (gap === cached + reasoning) return { cached: true, reasoning: true, unexplained: 0 }
  if (gap > 0 && counts.reasoning === undefined) return { ...inside, reasoning: true, unexplained: gap }
  reader.inconsistent = true
  return inside
}
