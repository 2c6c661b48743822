// Sampling of the likeliest token at each step. Owns the fields of a sequence that say so; the wire has all of them for every one. ○
import type { SequenceParameters } from './client.ts'

export const GREEDY = {
  temperature: 0,
  topP: 1,
  topK: 0,
  minP: 0,
  repetitionPenalty: 1,
  presencePenalty: 0,
  frequencyPenalty: 0,
  seed: 0n,
  stopIds: [],
  bias: [],
} satisfies Partial<SequenceParameters>
