// How a token is drawn, as the engine's frames say it: what SUBMIT and PUSH have in common. Owns these fields, and their bytes where
// they stand together; the frames are engine-frames.ts and engine-handoff.ts.
import { FrameError, type FrameReader, type FrameWriter } from './frame-bytes.ts'

export const GRAMMAR_KINDS = ['json_schema', 'regex', 'lark'] as const

/** What an output must match. */
export type Grammar = { kind: (typeof GRAMMAR_KINDS)[number]; text: string }

/** But for the seed. */
export type Sampling = {
  temperature: number
  topP: number
  topK: number
  minP: number
  repetitionPenalty: number
  presencePenalty: number
  frequencyPenalty: number
  /** Absent: off; else the number of alternatives, 0..20. */
  logprobsTop?: number
  bias: { id: number; bias: number }[]
  grammar?: Grammar
}

export function writeGrammar(w: FrameWriter, grammar: Grammar | undefined): void {
  w.u8(grammar === undefined ? 0 : GRAMMAR_KINDS.indexOf(grammar.kind) + 1)
  w.str(grammar?.text ?? '')
}

export function readGrammar(r: FrameReader): Grammar | undefined {
  const code = r.u8()
  const text = r.str()
  if (code === 0) {
    if (text !== '') throw new FrameError('a grammar without its kind')
    return undefined
  }
  const kind = GRAMMAR_KINDS[code - 1]
  if (kind === undefined) throw new FrameError(`unknown kind of grammar ${code}`)
  return { kind, text }
}

/** Temperature, filters and penalties. */
export function writeShape(w: FrameWriter, f: Sampling): void {
  w.f32(f.temperature)
  w.f32(f.topP)
  w.u32(f.topK)
  w.f32(f.minP)
  w.f32(f.repetitionPenalty)
  w.f32(f.presencePenalty)
  w.f32(f.frequencyPenalty)
}

export function readShape(r: FrameReader) {
  const filters = { temperature: r.f32(), topP: r.f32(), topK: r.u32(), minP: r.f32() }
  return { ...filters, repetitionPenalty: r.f32(), presencePenalty: r.f32(), frequencyPenalty: r.f32() }
}

export function writeLogprobs(w: FrameWriter, f: Sampling): void {
  w.u8(f.logprobsTop === undefined ? 0 : f.logprobsTop + 1)
}

export function writeBias(w: FrameWriter, f: Sampling): void {
  w.list(f.bias, (b) => {
    w.u32(b.id)
    w.f32(b.bias)
  })
}

export const readBias = (r: FrameReader): Sampling['bias'] => r.list(8, () => ({ id: r.u32(), bias: r.f32() }))

export function writeSampling(w: FrameWriter, f: Sampling): void {
  writeShape(w, f)
  writeLogprobs(w, f)
  writeBias(w, f)
  writeGrammar(w, f.grammar)
}

export function readSampling(r: FrameReader): Sampling {
  const shape = readShape(r)
  const logprobs = r.u8()
  const sampling: Sampling = { ...shape, bias: readBias(r) }
  if (logprobs > 0) sampling.logprobsTop = logprobs - 1
  const grammar = readGrammar(r)
  if (grammar !== undefined) sampling.grammar = grammar
  return sampling
}
