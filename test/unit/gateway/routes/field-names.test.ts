import { expect, test } from 'vitest'
import {
  CHAT_NAMES,
  COMPLETION_NAMES,
  EMBEDDING_NAMES,
  inCallersWords,
  MESSAGES_NAMES,
  RESPONSE_NAMES,
} from '../../../../gateway/routes/field-names.ts'
import { CountTokensRequest, MessagesRequest } from '../../../../protocol/dialects/messages.ts'
import { ChatCompletionRequest, CompletionRequest, EmbeddingRequest } from '../../../../protocol/dialects/openai.ts'
import { ResponseRequest } from '../../../../protocol/dialects/responses.ts'

const failure = { code: 'invalid_request' as const, message: 'no', kind: 'refused' as const }

test('a refused field has the name it has in the dialect of the caller', () => {
  expect(inCallersWords({ ...failure, param: 'parallelToolCalls' }, CHAT_NAMES).param).toBe('parallel_tool_calls')
  expect(inCallersWords({ ...failure, param: 'stop' }, MESSAGES_NAMES).param).toBe('stop_sequences')
  expect(inCallersWords({ ...failure, param: 'outputFormat' }, RESPONSE_NAMES).param).toBe('text.format')
  expect(inCallersWords({ ...failure, param: 'stop' }, CHAT_NAMES).param).toBe('stop')
  expect(inCallersWords({ ...failure, param: 'constructor' }, CHAT_NAMES).param).toBe('constructor')
  expect(inCallersWords({ ...failure, param: 'topK' }, undefined).param).toBe('topK')
  expect(inCallersWords(failure, CHAT_NAMES)).toBe(failure)
})

test.each([
  [CHAT_NAMES, { ...ChatCompletionRequest.shape, prompt: 0 }],
  [COMPLETION_NAMES, CompletionRequest.shape],
  [RESPONSE_NAMES, ResponseRequest.shape],
  [EMBEDDING_NAMES, EmbeddingRequest.shape],
  [MESSAGES_NAMES, { ...MessagesRequest.shape, ...CountTokensRequest.shape }],
] as const)('every name is one of a field that the dialect has', (names, shape) => {
  for (const name of Object.values(names)) expect(Object.keys(shape)).toContain(name.split('.')[0])
})
