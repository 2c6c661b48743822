// The answers of the dialects beside the types of their official clients: a field that is missing, or of another type, does not
// compile here. What the answers hold is shown beside their encoders.
import type Anthropic from '@anthropic-ai/sdk'
import type OpenAI from 'openai'
import { expect, test } from 'vitest'
import type { Message, MessagesError, ModelInfo, StreamEvent } from '../../../protocol/dialects/messages.ts'
import type {
  ChatCompletion,
  ChatCompletionChunk,
  EmbeddingList,
  ModelObject,
  TextCompletion,
} from '../../../protocol/dialects/openai.ts'

type InStream = Exclude<StreamEvent, { type: 'error' }>
/** Vectors are text only where the client asked for that, which its types do not tell apart. */
type Embeddings = Omit<EmbeddingList, 'data'> & { data: { object: 'embedding'; index: number; embedding: number[] }[] }
/** In whole answers, unlike in chunks, every choice has ended; logprobs without alternatives are null on the real wire alone. */
type Ended = Omit<TextCompletion, 'choices' | 'usage'> & {
  choices: { index: number; text: string; logprobs: null; finish_reason: 'stop' | 'length' | 'content_filter' }[]
}

const OFFICIAL = {
  chat: (answer: ChatCompletion): OpenAI.ChatCompletion => answer,
  chunk: (chunk: ChatCompletionChunk): OpenAI.ChatCompletionChunk => chunk,
  completion: (answer: Ended): OpenAI.Completion => answer,
  embeddings: (answer: Embeddings): OpenAI.CreateEmbeddingResponse => answer,
  model: (model: ModelObject): OpenAI.Model => model,
  message: (message: Message): Anthropic.Message => message,
  event: (event: InStream): Anthropic.RawMessageStreamEvent => event,
  modelInfo: (model: ModelInfo): Anthropic.ModelInfo => model,
  error: (
    error: MessagesError,
  ): { type: 'error'; error: { type: string; message: string }; request_id: string | null } => error,
}

test('every answer is one that the official clients have a type for', () => {
  const message: ChatCompletion['choices'][number]['message'] = {
    role: 'assistant',
    content: null,
    refusal: null,
    tool_calls: [{ id: 'c', type: 'function', function: { name: 'f', arguments: '{}' } }],
    reasoning_content: 'hm',
  }
  const usage = {
    prompt_tokens: 1,
    completion_tokens: 1,
    total_tokens: 2,
    prompt_tokens_details: { cached_tokens: 0 },
    completion_tokens_details: { reasoning_tokens: 0 },
  }
  const answer = OFFICIAL.chat({
    id: 'chatcmpl-1',
    object: 'chat.completion',
    created: 1,
    model: 'm',
    choices: [{ index: 0, message, logprobs: null, finish_reason: 'tool_calls' }],
    usage,
  })
  const [call] = answer.choices[0]?.message.tool_calls ?? []
  expect(call?.type === 'function' && call.function.name).toBe('f')
})
