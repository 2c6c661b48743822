// The shapes of requests and answers in the OpenAI and the messages dialect, as far as they are common. Owns types alone: what is not
// named here passes through, in both directions.

/** Fields of a newer API that this package does not name are sent as they are. */
export type Open = { [field: string]: unknown }

export type ContentPart =
  | { type: 'text'; text: string }
  | { type: 'image_url'; image_url: { url: string; detail?: 'auto' | 'low' | 'high' } }

export type ChatToolCall = { id: string; type: 'function'; function: { name: string; arguments: string } }

export type ChatMessage =
  | { role: 'system' | 'developer' | 'user'; content: string | ContentPart[]; name?: string }
  | { role: 'assistant'; content?: string | null; tool_calls?: ChatToolCall[]; refusal?: string | null }
  | { role: 'tool'; content: string; tool_call_id: string }

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

export type FinishReason = 'stop' | 'length' | 'tool_calls' | 'content_filter'

export type ChatUsage = {
  prompt_tokens: number
  completion_tokens: number
  total_tokens: number
  prompt_tokens_details?: { cached_tokens?: number }
  completion_tokens_details?: { reasoning_tokens?: number }
}

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

export type EmbeddingRequest = Open & {
  model: string
  input: string | string[] | number[] | number[][]
  dimensions?: number
}

export type EmbeddingList = Open & {
  object: 'list'
  model: string
  data: { object: 'embedding'; index: number; embedding: number[] }[]
  usage: { prompt_tokens: number; total_tokens: number }
}

export type ResponsesRequest = Open & {
  model: string
  input: string | object[]
  stream?: boolean
  background?: boolean
  previous_response_id?: string
  instructions?: string
  max_output_tokens?: number
}

export type ResponseObject = Open & {
  id: string
  object: 'response'
  status: 'queued' | 'in_progress' | 'completed' | 'incomplete' | 'failed' | 'cancelled'
  model: string
  output: (Open & { type: string })[]
}

export type ResponseEvent = Open & { type: string; sequence_number?: number }

export type MessagesRequest = Open & {
  model: string
  max_tokens: number
  messages: { role: 'user' | 'assistant'; content: string | object[] }[]
  system?: string | object[]
  stream?: boolean
}

export type MessageObject = Open & {
  id: string
  type: 'message'
  role: 'assistant'
  model: string
  content: (Open & { type: string })[]
  stop_reason: string | null
  usage: Open & { input_tokens: number; output_tokens: number }
}

export type MessageEvent = Open & { type: string }

export type Model = Open & { id: string; object: 'model' }
export type ModelList = { object: 'list'; data: Model[] }
