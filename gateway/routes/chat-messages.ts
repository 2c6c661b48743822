// Messages and tools of OpenAI's chat dialect into the internal form. Owns the mapping of each part; the fields of the body
// around them are openai-requests.ts. Pure.
import type { Message, ToolChoice as WireChoice, Tools as WireTools } from '../../protocol/dialects/openai-chat.ts'
import type { Failure } from '../../protocol/errors.ts'
import type { CacheHint, ChatMessage, ContentPart, Tool, ToolChoice } from '../../protocol/request.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import { imageUrl } from './images.ts'
import { invalid } from './schema-fault.ts'
import { readSeal } from './seals.ts'
import { type AskedChoice, offered, toolFault } from './tools.ts'
import { turnFault } from './turns.ts'

type Of<Role extends Message['role']> = Extract<Message, { role: Role }>
type Content = Of<'user'>['content'] | NonNullable<Of<'assistant'>['content']>
type WirePart = Exclude<Content, string>[number]
type Cached = Pick<Extract<WirePart, { type: 'text' }>, 'cache_control' | 'prompt_cache_breakpoint'>

function cacheHint({ cache_control: control, prompt_cache_breakpoint: breakpoint }: Cached): { cache?: CacheHint } {
  if (control !== undefined && control !== null) return { cache: { ttl: control.ttl ?? '5m' } }
  return breakpointHint(breakpoint)
}

/** A hint that is longer than the internal form's longest is that one. */
export function breakpointHint(breakpoint: Cached['prompt_cache_breakpoint']): { cache?: CacheHint } {
  if (breakpoint === undefined || breakpoint === null) return {}
  return { cache: { ttl: typeof breakpoint.ttl === 'string' ? '1h' : '5m' } }
}

function partOf(part: WirePart, path: string): Result<ContentPart, Failure> {
  switch (part.type) {
    case 'text':
      return ok({ type: 'text', text: part.text, ...cacheHint(part) })
    case 'refusal':
      return ok({ type: 'refusal', text: part.refusal })
    case 'image_url': {
      const { url, detail } = part.image_url
      const source = imageUrl(url)
      const at = `${path}.image_url.url`
      if (!source.ok) return err(invalid(`Invalid value for '${at}': ${source.error}`, at))
      return ok({ type: 'image', source: source.value, ...(detail ? { detail } : {}), ...cacheHint(part) })
    }
    default:
      return part satisfies never
  }
}

function partsOf(content: Content, path: string): Result<ContentPart[], Failure> {
  if (typeof content === 'string') return ok([{ type: 'text', text: content }])
  const parts: ContentPart[] = []
  for (const [index, one] of content.entries()) {
    const part = partOf(one, `${path}[${index}]`)
    if (!part.ok) return part
    parts.push(part.value)
  }
  return ok(parts)
}

/** The thoughts with their proofs where the message has them, else their text alone. */
function thoughtsOf(message: Of<'assistant'>): ContentPart[] {
  const parts: ContentPart[] = []
  for (const detail of message.reasoning_details ?? []) {
    const text = detail.text ?? detail.summary ?? ''
    const proof = readSeal(detail.signature ?? detail.data ?? '')
    if (text === '' && proof === undefined) continue
    parts.push({ type: 'thought', text, ...(proof === undefined ? {} : { seal: proof.seal }) })
  }
  const text = message.reasoning_content ?? message.reasoning ?? ''
  if (parts.length === 0 && text !== '') parts.push({ type: 'thought', text })
  return parts
}

function assistantParts(message: Of<'assistant'>, path: string): Result<ContentPart[], Failure> {
  const parts = thoughtsOf(message)
  if (message.content !== undefined && message.content !== null && message.content !== '') {
    const content = partsOf(message.content, `${path}.content`)
    if (!content.ok) return content
    parts.push(...content.value)
  }
  if (typeof message.refusal === 'string') parts.push({ type: 'refusal', text: message.refusal })
  const calls = message.tool_calls ?? []
  for (const { id, function: called, extra_content: extra } of calls) {
    const proof = readSeal(extra?.google?.thought_signature ?? '')
    const seal = proof === undefined ? {} : { seal: proof.seal }
    parts.push({ type: 'tool_call', id, name: called.name, arguments: called.arguments, ...seal })
  }
  if (parts.length === 0 && typeof message.content !== 'string') {
    const message = "An assistant's message has content, a refusal or tool calls."
    return err(invalid(`Invalid value for '${path}.content': ${message}`, `${path}.content`))
  }
  return ok(parts)
}

/** The messages in the internal form, whose calls and answers belong together. */
export function chatMessages(messages: readonly Message[]): Result<ChatMessage[], Failure> {
  const made: ChatMessage[] = []
  for (const [index, message] of messages.entries()) {
    const path = `messages[${index}]`
    const content =
      message.role === 'assistant' ? assistantParts(message, path) : partsOf(message.content, `${path}.content`)
    if (!content.ok) return content
    made.push({
      role: message.role,
      content: content.value,
      ...(typeof message.name === 'string' ? { name: message.name } : {}),
      ...(message.role === 'tool' ? { toolCallId: message.tool_call_id } : {}),
    })
  }
  const fault = turnFault(made)
  if (fault === undefined) return ok(made)
  const shown = fault.callId.slice(0, 100)
  switch (fault.reason) {
    case 'unknown': {
      const text = `Invalid value for 'messages[${fault.at}].tool_call_id': '${shown}' is no call of the assistant's message before it.`
      return err(invalid(text, `messages[${fault.at}].tool_call_id`))
    }
    case 'repeated': {
      const text = `Invalid value for 'messages[${fault.at}]': the call id '${shown}' stands there twice.`
      return err(invalid(text, `messages[${fault.at}]`))
    }
    case 'unanswered': {
      const text =
        "An assistant's message with 'tool_calls' must be followed by a tool message for each of them; " +
        `'${shown}' has none.`
      return err(invalid(text, `messages[${fault.at}].tool_calls`))
    }
    default:
      return fault.reason satisfies never
  }
}

function askedChoice(choice: WireChoice): AskedChoice {
  if (typeof choice === 'string') return { mode: choice }
  if (choice.type === 'function') return { mode: 'tool', name: choice.function.name }
  const { mode, tools } = choice.allowed_tools
  return { mode, among: tools.map((tool) => tool.function.name) }
}

/** Tools and choice; `err` with the path of the field in this dialect. */
export function chatTools(
  tools: WireTools | null | undefined,
  choice: WireChoice | null | undefined,
): Result<{ tools?: Tool[]; toolChoice?: ToolChoice }, Failure> {
  const made = (tools ?? []).map((tool): Tool => {
    const { name, description, parameters, strict } = tool.function
    return {
      name,
      ...(typeof description === 'string' ? { description } : {}),
      ...(parameters === undefined || parameters === null ? {} : { parameters }),
      ...(typeof strict === 'boolean' ? { strict } : {}),
      ...cacheHint(tool),
    }
  })
  const fault = toolFault(made)
  if (fault !== undefined) {
    const param = `tools[${fault.at}].function.${fault.field}`
    return err(invalid(`Invalid value for '${param}': ${fault.message}`, param))
  }
  const asked = offered(made, choice === undefined || choice === null ? undefined : askedChoice(choice))
  return asked.ok ? asked : err(invalid(`Invalid value for 'tool_choice': ${asked.error}`, 'tool_choice'))
}
