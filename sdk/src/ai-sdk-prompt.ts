// A prompt of the `ai` package as a chat request ○. Owns what has a counterpart there; what has none becomes a warning, or an error
// where leaving it out would change the meaning.
import type { LanguageModelV4CallOptions, LanguageModelV4Message, SharedV4Warning } from '@ai-sdk/provider'
import { PenstockError } from './errors.ts'
import type { ChatMessage, ChatRequest, ContentPart } from './types.ts'

type Asked = { request: ChatRequest; warnings: SharedV4Warning[] }

/** @throws PenstockError `invalid_request` for parts that a chat cannot carry. */
export function chatRequestOf(model: string, options: LanguageModelV4CallOptions): Asked {
  const warnings: SharedV4Warning[] = []
  const request: ChatRequest = { model, messages: options.prompt.flatMap(messagesOf) }
  const set = (name: string, value: unknown) => {
    if (value !== undefined) request[name] = value
  }
  set('max_completion_tokens', options.maxOutputTokens)
  set('temperature', options.temperature)
  set('top_p', options.topP)
  set('top_k', options.topK)
  set('presence_penalty', options.presencePenalty)
  set('frequency_penalty', options.frequencyPenalty)
  set('seed', options.seed)
  if (options.stopSequences !== undefined && options.stopSequences.length > 0) set('stop', options.stopSequences)
  if (options.reasoning !== undefined && options.reasoning !== 'provider-default')
    set('reasoning_effort', options.reasoning)
  const { responseFormat, tools, toolChoice } = options
  if (responseFormat?.type === 'json') {
    const { schema, name = 'answer', description } = responseFormat
    const named = { name, schema, strict: true, ...(description === undefined ? {} : { description }) }
    set('response_format', schema === undefined ? { type: 'json_object' } : { type: 'json_schema', json_schema: named })
  }
  const offered = (tools ?? []).flatMap((tool) => {
    if (tool.type !== 'function') {
      warnings.push({ type: 'unsupported', feature: `the provider's own tool ${tool.id}` })
      return []
    }
    const { name, description, inputSchema } = tool
    return [
      {
        type: 'function' as const,
        function: { name, ...(description === undefined ? {} : { description }), parameters: inputSchema as object },
      },
    ]
  })
  if (offered.length > 0) {
    request.tools = offered
    if (toolChoice?.type === 'tool') set('tool_choice', { type: 'function', function: { name: toolChoice.toolName } })
    else set('tool_choice', toolChoice?.type)
  }
  const own = options.providerOptions?.penstock
  // The gateway's further fields, by their own names.
  if (own !== undefined) Object.assign(request, own)
  return { request, warnings }
}

function messagesOf(message: LanguageModelV4Message): ChatMessage[] {
  switch (message.role) {
    case 'system':
      return [{ role: 'system', content: message.content }]
    case 'user': {
      const parts = message.content.map(userPart)
      const isText = parts.every((part) => part.type === 'text')
      return [{ role: 'user', content: isText ? parts.map((part) => part.text).join('') : parts }]
    }
    case 'assistant': {
      let content = ''
      let thought = ''
      const calls: { id: string; type: 'function'; function: { name: string; arguments: string } }[] = []
      for (const part of message.content) {
        if (part.type === 'text') content += part.text
        else if (part.type === 'reasoning') thought += part.text
        else if (part.type === 'tool-call') {
          const text = typeof part.input === 'string' ? part.input : JSON.stringify(part.input)
          calls.push({ id: part.toolCallId, type: 'function', function: { name: part.toolName, arguments: text } })
        } else throw unsupported(`an assistant's ${part.type}`)
      }
      return [
        {
          role: 'assistant',
          content: content === '' && calls.length > 0 ? null : content,
          ...(calls.length === 0 ? {} : { tool_calls: calls }),
          ...(thought === '' ? {} : { reasoning_content: thought }),
        },
      ]
    }
    case 'tool':
      return message.content.map((part) => {
        if (part.type !== 'tool-result') throw unsupported(part.type)
        return { role: 'tool', tool_call_id: part.toolCallId, content: resultText(part.output) }
      })
    default:
      return message satisfies never
  }
}

type UserPart = Extract<LanguageModelV4Message, { role: 'user' }>['content'][number]

function userPart(part: UserPart): ContentPart {
  if (part.type === 'text') return { type: 'text', text: part.text }
  const { data, mediaType } = part
  if (data.type === 'text') return { type: 'text', text: data.text }
  if (!mediaType.startsWith('image/')) throw unsupported(`a file of type ${mediaType}`)
  if (data.type === 'url') return { type: 'image_url', image_url: { url: data.url.href } }
  if (data.type !== 'data') throw unsupported(`an image by ${data.type}`)
  const base64 = typeof data.data === 'string' ? data.data : base64Of(data.data)
  const type = mediaType === 'image/*' ? 'image/png' : mediaType
  return { type: 'image_url', image_url: { url: `data:${type};base64,${base64}` } }
}

type ToolOutput = Extract<
  Extract<LanguageModelV4Message, { role: 'tool' }>['content'][number],
  { type: 'tool-result' }
>['output']

function resultText(output: ToolOutput): string {
  switch (output.type) {
    case 'text':
    case 'error-text':
      return output.value
    case 'json':
    case 'error-json':
      return JSON.stringify(output.value)
    case 'execution-denied':
      return output.reason ?? 'The tool was not allowed to run.'
    case 'content':
      return output.value
        .map((part) => {
          if (part.type !== 'text') throw unsupported(`a tool's result with ${part.type}`)
          return part.text
        })
        .join('')
    default:
      return output satisfies never
  }
}

/** In pieces: a call takes only so many arguments. */
function base64Of(bytes: Uint8Array): string {
  let binary = ''
  for (let at = 0; at < bytes.length; at += 8192) binary += String.fromCharCode(...bytes.subarray(at, at + 8192))
  return btoa(binary)
}

const unsupported = (what: string): PenstockError =>
  new PenstockError(`a chat cannot carry ${what}`, { code: 'invalid_request', origin: 'client', retryable: false })
