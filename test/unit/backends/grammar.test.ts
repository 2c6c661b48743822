// Grammars on their way through the agent: what the engine is given of the vocabulary and of a request, and what its
// refusals become.
import { describe, expect, test } from 'vitest'
import { outcomeOf } from '../../../backends/sequence-end.ts'
import { createVocabulary, grammarVocabulary } from '../../../backends/vocabulary.ts'
import { testModelFile } from './support/test-model.ts'

test('the engine is given every id with its bytes, which are control tokens, and where a text may end', () => {
  const { tokens, endIds } = grammarVocabulary(createVocabulary(testModelFile()))
  const { size, isControl, nameBytes, endIds: ends } = createVocabulary(testModelFile())
  expect(tokens).toHaveLength(size)
  expect(endIds).toEqual([...ends])
  for (const id of endIds) expect(tokens[id]?.control).toBe(true)
  expect(tokens).toEqual(Array.from(tokens, (_, id) => ({ control: isControl(id), bytes: nameBytes(id) })))
  expect(tokens.some(({ control }) => !control)).toBe(true)
})

describe('what the engine refuses', () => {
  const refused = (message: string) => ({ kind: 'rejected', code: 'invalid', message }) as const

  test('is the fault of the field the grammar came in, in the words of its compiler', () => {
    expect(outcomeOf(refused('grammar: it has no end'), 5, 'response_format')).toEqual({
      failure: {
        code: 'invalid_request',
        message: 'the format of the answer cannot be used: it has no end',
        param: 'response_format',
      },
    })
  })

  test('names no field where another one is at fault', () => {
    expect(outcomeOf(refused('top_p must be above 0'), 5, 'response_format').failure).not.toHaveProperty('param')
  })
})
