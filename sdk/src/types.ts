// The shapes of requests and answers in the OpenAI and the messages dialect, as far as they are common. Owns types alone: what is not
// named here passes through, in both directions.

/**
 * Fields of a newer API that this package does not name are sent as they are.
 *
 * @example
 * ```ts
 * const request: ChatRequest = { model: 'small', messages, a_field_of_tomorrow: true }
 * ```
 */
export type Open = { [field: string]: unknown }

/**
 * A piece of a message.
 *
 * @example
 * ```ts
 * const part: ContentPart = { type: 'image_url', image_url: { url: 'https://example.com/river.png' } }
 * ```
 */
export type ContentPart =
  | { type: 'text'; text: string }
  | { type: 'image_url'; image_url: { url: string; detail?: 'auto' | 'low' | 'high' } }

/**
 * A function that the model wants called; its arguments are JSON in text.
 *
 * @example
 * ```ts
 * const wanted = (call: ChatToolCall) => `${call.function.name}(${call.function.arguments})`
 * ```
 */
export type ChatToolCall = { id: string; type: 'function'; function: { name: string; arguments: string } }

/**
 * One turn of a chat.
 *
 * @example
 * ```ts
 * const said: ChatMessage = { role: 'user', content: 'Name three rivers.' }
 * ```
 */
export type ChatMessage =
  | { role: 'system' | 'developer' | 'user'; content: string | ContentPart[]; name?: string }
  | { role: 'assistant'; content?: string | null; tool_calls?: ChatToolCall[]; refusal?: string | null }
  | { role: 'tool'; content: string; tool_call_id: string }

/**
 * The body of `POST /v1/chat/completions`.
 *
 * @example
 * ```ts
 * const request: ChatRequest = { model: 'small', messages: [{ role: 'user', content: 'Hi' }], max_tokens: 50 }
 * ```
 */
export type ChatRequest = Open & {
  model: string
  messages: ChatMessage[]
  stream?: boolean
  temperature?: number
  max_tokens?: number
  max_completion_tokens?: number
  tools?: {
    type: 'function'
    function: { name: string; description?: string; parameters?: object; strict?: boolean }
  }[]
}

/**
 * Why an answer ended.
 *
 * @example
 * ```ts
 * const isCutOff = (reason: FinishReason) => reason === 'length'
 * ```
 */
export type FinishReason = 'stop' | 'length' | 'tool_calls' | 'content_filter'

/**
 * Tokens as the chat dialect tells them: the details are parts of the sums.
 *
 * @example
 * ```ts
 * const usage: ChatUsage = { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5 }
 * ```
 */
export type ChatUsage = {
  prompt_tokens: number
  completion_tokens: number
  total_tokens: number
  prompt_tokens_details?: { cached_tokens?: number }
  completion_tokens_details?: { reasoning_tokens?: number }
}

/**
 * A whole chat answer.
 *
 * @example
 * ```ts
 * const answer: ChatCompletion = await penstock.chat.completions.create({ model: 'small', messages })
 * show(answer.choices[0]?.message.content ?? '')
 * ```
 */
export type ChatCompletion = Open & {
  id: string
  object: 'chat.completion'
  created: number
  model: string
  choices: {
    index: number
    message: { role: 'assistant'; content: string | null; tool_calls?: ChatToolCall[]; refusal?: string | null }
    finish_reason: FinishReason | null
  }[]
  usage?: ChatUsage
}

/**
 * A piece of a streamed chat answer.
 *
 * @example
 * ```ts
 * const textOf = (chunk: ChatChunk) => chunk.choices[0]?.delta.content ?? ''
 * ```
 */
export type ChatChunk = Open & {
  id: string
  object: 'chat.completion.chunk'
  created: number
  model: string
  choices: {
    index: number
    delta: {
      role?: 'assistant'
      content?: string | null
      refusal?: string | null
      tool_calls?: { index: number; id?: string; type?: 'function'; function?: { name?: string; arguments?: string } }[]
    }
    finish_reason?: FinishReason | null
  }[]
  usage?: ChatUsage | null
}

/**
 * The body of `POST /v1/embeddings`.
 *
 * @example
 * ```ts
 * const request: EmbeddingRequest = { model: 'small', input: ['one text', 'another'] }
 * ```
 */
export type EmbeddingRequest = Open & {
  model: string
  input: string | string[] | number[] | number[][]
  dimensions?: number
}

/**
 * One vector per input, in their order.
 *
 * @example
 * ```ts
 * const { data }: EmbeddingList = await penstock.embeddings.create({ model: 'small', input: 'a text' })
 * const vector = data[0]?.embedding
 * ```
 */
export type EmbeddingList = Open & {
  object: 'list'
  model: string
  data: { object: 'embedding'; index: number; embedding: number[] }[]
  usage: { prompt_tokens: number; total_tokens: number }
}

/**
 * The body of `POST /v1/responses`.
 *
 * @example
 * ```ts
 * const request: ResponsesRequest = { model: 'small', input: 'Write a long report.', background: true }
 * ```
 */
export type ResponsesRequest = Open & {
  model: string
  input: string | object[]
  stream?: boolean
  background?: boolean
  previous_response_id?: string
  instructions?: string
  max_output_tokens?: number
}

/**
 * A response, as far as it has come.
 *
 * @example
 * ```ts
 * const { status }: ResponseObject = await penstock.responses.retrieve('resp_1')
 * ```
 */
export type ResponseObject = Open & {
  id: string
  object: 'response'
  status: 'queued' | 'in_progress' | 'completed' | 'incomplete' | 'failed' | 'cancelled'
  model: string
  output: (Open & { type: string })[]
}

/**
 * One event of a streamed response.
 *
 * @example
 * ```ts
 * const isDone = ({ type }: ResponseEvent) => type === 'response.completed'
 * ```
 */
export type ResponseEvent = Open & { type: string; sequence_number?: number }

/**
 * The body of `POST /v1/messages`.
 *
 * @example
 * ```ts
 * const request: MessagesRequest = { model: 'small', max_tokens: 50, messages: [{ role: 'user', content: 'Hi' }] }
 * ```
 */
export type MessagesRequest = Open & {
  model: string
  max_tokens: number
  messages: { role: 'user' | 'assistant'; content: string | object[] }[]
  system?: string | object[]
  stream?: boolean
}

/**
 * A whole answer of the messages dialect.
 *
 * @example
 * ```ts
 * const isWhole = ({ stop_reason: reason }: MessageObject) => reason === 'end_turn'
 * ```
 */
export type MessageObject = Open & {
  id: string
  type: 'message'
  role: 'assistant'
  model: string
  content: (Open & { type: string })[]
  stop_reason: string | null
  usage: Open & { input_tokens: number; output_tokens: number }
}

/**
 * One event of a streamed answer of the messages dialect.
 *
 * @example
 * ```ts
 * const isDone = ({ type }: MessageEvent) => type === 'message_stop'
 * ```
 */
export type MessageEvent = Open & { type: string }

/**
 * A model that the key may use.
 *
 * @example
 * ```ts
 * const nameOf = (model: Model) => model.id
 * ```
 */
export type Model = Open & { id: string; object: 'model' }
/**
 * The models that the key may use.
 *
 * @example
 * ```ts
 * const { data }: ModelList = await penstock.models.list()
 * ```
 */
export type ModelList = { object: 'list'; data: Model[] }
