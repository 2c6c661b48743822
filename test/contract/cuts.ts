// A recorded stream under every cut of the network. Owns looking for the cut that changes what a stream says, and for the beginning
// of a stream that is taken for all of it; answers.test.ts runs them over each recording, and over decoders that must be caught.
import type { ProviderEvent } from '../../gateway/providers/event.ts'
import type { AnswerDecoder } from '../../gateway/providers/vendor.ts'
import { type CollectedChoice, Collector } from '../../gateway/stream/collect.ts'
import type { Answer } from './promise.ts'
import { read } from './provider.ts'
import type { Recording } from './recording.ts'

export type Case = {
  name: string
  answer: Answer
  recording: Recording
  isStream: boolean
  /** A new one each time. */
  decoder: () => AnswerDecoder
}

/** Bytes after which a line may be whole: nothing that ends with another one can be JSON or an end mark. */
const MAY_END = new Set(Array.from('}]\n\r \t', (character) => character.charCodeAt(0)))

/** All that an answer says, in one piece or many; bodies in one piece as http.ts reads them. */
export function events({ decoder: create, isStream, recording }: Case, bytes = recording.bytes, cuts: number[] = []) {
  const decoder = create()
  const list = isStream ? read(decoder, bytes, cuts) : decoder.whole(new TextDecoder().decode(bytes).trim())
  return { list, decoder, failed: list.some(({ type }) => type === 'error') }
}

export const choiceCount = ({ answer }: Case): number => answer.choices?.length ?? 1

export function collected(list: readonly ProviderEvent[], count: number): CollectedChoice[] | undefined {
  const collector = new Collector()
  for (const event of list) collector.see(event)
  return collector.complete(count)
}

/** For a quick comparison: amounts of money are of a type that JSON lacks. */
export const written = (list: readonly ProviderEvent[]): string =>
  JSON.stringify(list, (_, value: unknown) => (typeof value === 'bigint' ? `${value}n` : value))

/**
 * The first cuts under which the stream says something else. Every byte is cut once, and in the last round all of them at once.
 * @param atOnce Cuts in one round, far apart.
 */
export function differingCuts(one: Case, atOnce: number): number[] | undefined {
  const { length } = one.recording.bytes
  const whole = written(events(one).list)
  const differs = (cuts: number[]) => written(events(one, one.recording.bytes, cuts).list) !== whole
  const apart = Math.ceil(length / atOnce)
  for (let first = 1; first <= apart; first++) {
    const cuts: number[] = []
    for (let cut = first; cut < length; cut += apart) cuts.push(cut)
    if (differs(cuts)) return cuts
  }
  const each = Array.from({ length: length - 1 }, (_, at) => at + 1)
  return differs(each) ? each : undefined
}

/**
 * The length of the first beginning that is taken for a whole answer and is none: what a broken connection leaves is an answer
 * only where nothing of it is missing.
 */
export function falseWhole(one: Case): number | undefined {
  const { bytes, isFramed } = one.recording
  const whole = events(one)
  const choices = JSON.stringify(collected(whole.list, choiceCount(one)))
  for (let length = 0; length < bytes.length; length++) {
    if (length > 0 && !isFramed && !MAY_END.has(bytes[length - 1] ?? 0)) continue
    const { list, decoder, failed } = events(one, bytes.subarray(0, length))
    if (failed || !decoder.isComplete) continue
    if (whole.failed || JSON.stringify(collected(list, choiceCount(one))) !== choices) return length
  }
  return undefined
}
