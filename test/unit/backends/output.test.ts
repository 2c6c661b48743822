import fc from 'fast-check'
import { expect, test } from 'vitest'
import { ChoiceOutput } from '../../../backends/output.ts'
import { createVocabulary } from '../../../backends/vocabulary.ts'
import { idOf, testModelFile } from './support/test-model.ts'

const file = testModelFile()
const vocabulary = createVocabulary(file)
const sampled = (token: number) => ({ id: 1n, token, logprob: -1, top: [{ token, logprob: -1 }] })

function run(ids: readonly number[], stops: readonly string[]) {
  const output = new ChoiceOutput(vocabulary, stops, true)
  const parts = ids.map((id) => output.push(sampled(id)))
  parts.push(output.flush())
  return { parts, text: parts.map((part) => part.text).join(''), entries: parts.flatMap((part) => part.logprobs) }
}

const bytes = (text: string) => [...new TextEncoder().encode(text)]

test('entries leave with the text of their tokens: held text holds its entry', () => {
  const { parts } = run([...bytes('a#'), ...bytes('#b')], ['##!'])
  expect(parts.map((part) => [part.text, part.logprobs.map((entry) => entry.text).join('')])).toEqual([
    ['a', 'a'],
    ['', ''],
    ['', ''],
    ['##b', '##b'],
    ['', ''],
  ])
})

test('a token that is half a character shows its bytes and leaves at once with its count', () => {
  const { entries, text } = run(bytes('é'), [])
  expect(text).toBe('é')
  expect(entries.map((entry) => entry.bytes)).toEqual([[0xc3], [0xa9]])
})

test('after a stop string only entries of kept text remain', () => {
  const { text, entries } = run([idOf(file, 'hello'), idOf(file, 'Ġworld'), idOf(file, 'hello')], ['rld'])
  expect(text).toBe('hello wo')
  expect(entries.map((entry) => entry.text)).toEqual(['hello', ' world'])
})

test('control tokens show in logprobs and not in the text', () => {
  const { text, entries } = run([idOf(file, 'hello'), idOf(file, '<|im_start|>')], [])
  expect(text).toBe('hello')
  expect(entries.map((entry) => entry.text)).toEqual(['hello', '<|im_start|>'])
})

test('without a stop every token has exactly one entry and the text is whole', () => {
  fc.assert(
    fc.property(
      fc.array(fc.nat(255), { maxLength: 60 }),
      fc.constantFrom([], ['never here'], ['\u0000\u0000\u0000x']),
      (ids, stops) => {
        const { entries, text } = run(ids, stops)
        expect(entries).toHaveLength(ids.length)
        expect(text).toBe(new TextDecoder('utf-8', { ignoreBOM: true }).decode(Uint8Array.from(ids)))
      },
    ),
  )
})
