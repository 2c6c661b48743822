// Items of a conversation → the messages of the internal form. Owns which items are one assistant's turn, and that calls and
// their outputs belong together. The items' own shape is protocol/dialects/responses.ts. Pure.
import type { ResponseInputItem } from '../../protocol/dialects/responses.ts'
import type { Failure } from '../../protocol/errors.ts'
import type { ChatMessage, ContentPart } from '../../protocol/request.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import { breakpointHint } from './chat-messages.ts'
import { imageUrl } from './images.ts'
import { invalid } from './schema-fault.ts'
import { readSeal } from './seals.ts'
import { turnFault } from './turns.ts'

type MessageItem = Extract<ResponseInputItem, { type: 'message' }>
type CallItem = Extract<ResponseInputItem, { type: 'function_call' }>
type OutputItem = Extract<ResponseInputItem, { type: 'function_call_output' }>
type ReasoningItem = Extract<ResponseInputItem, { type: 'reasoning' }>
type WirePart = Exclude<MessageItem['content'], string>[number]

/**
 * @param items The whole conversation, oldest first.
 * @param paramOf The caller's field that an item came in; `field` is a place in the item, for items that the caller wrote.
 */
export function messagesOf(
  items: readonly ResponseInputItem[],
  paramOf: (index: number, field?: string) => string,
): Result<ChatMessage[], Failure> {
  const messages: ChatMessage[] = []
  /** Of each message: the item it began with. */
  const places: number[] = []
  /** Of each call: the last item that makes it. */
  const calls = new Map<string, number>()
  const add = (message: ChatMessage, index: number): ChatMessage => {
    messages.push(message)
    places.push(index)
    return message
  }
  /** The assistant's turn that is under way, or a new one. */
  const turn = (index: number): ChatMessage => {
    const last = messages.at(-1)
    return last?.role === 'assistant' ? last : add({ role: 'assistant', content: [] }, index)
  }
  for (const [index, item] of items.entries()) {
    const param = paramOf(index)
    switch (item.type) {
      case 'message': {
        const said = messageOf(item, param)
        if (!said.ok) return said
        if (item.role === 'assistant' && joinsTurn(messages.at(-1))) turn(index).content.push(...said.value.content)
        else add(said.value, index)
        break
      }
      case 'reasoning':
        addThought(turn(index), item)
        break
      case 'function_call':
        calls.set(item.call_id, index)
        turn(index).content.push(callOf(item))
        break
      case 'function_call_output': {
        const content = partsOf(item.output, `${param}.output`, 'tool')
        if (!content.ok) return content
        add({ role: 'tool', toolCallId: item.call_id, content: content.value }, index)
        break
      }
      default:
        item satisfies never
    }
  }
  const fault = turnFault(messages)
  if (fault !== undefined) {
    const { at, callId, reason } = fault
    const index = messages[at]?.role === 'tool' ? places[at] : calls.get(callId)
    const message = `${FAULTS[reason]} (call_id '${callId.slice(0, 100)}').`
    return err(invalid(message, paramOf(index ?? 0, '.call_id')))
  }
  // An assistant that only thought, and of whose thoughts nothing is of use, said nothing.
  return ok(messages.filter((message) => message.role !== 'assistant' || message.content.length > 0))
}

const FAULTS = {
  unknown: 'No call stands before this output',
  repeated: 'There is another one for the same call',
  unanswered: 'This call has no output right after it; send a function_call_output for it',
}

/** A message that follows another one of the assistant is one of its own, unless calls or thoughts tie the two together. */
function joinsTurn(last: ChatMessage | undefined): boolean {
  if (last?.role !== 'assistant') return false
  return last.content.every((part) => part.type === 'thought') || last.content.some((part) => part.type === 'tool_call')
}

function callOf(item: CallItem): ContentPart {
  return { type: 'tool_call', id: item.call_id, name: item.name, arguments: item.arguments }
}

/** A reasoning item is a thought, or the seal of the call before it: the dialect has no place for one on the call itself. */
function addThought(message: ChatMessage, item: ReasoningItem): void {
  const texts = item.content?.length ? item.content : (item.summary ?? [])
  const text = texts.map((part) => part.text).join('\n\n')
  const sealed = typeof item.encrypted_content === 'string' ? readSeal(item.encrypted_content) : undefined
  if (sealed?.on === 'call') {
    const call = message.content.at(-1)
    if (call?.type === 'tool_call') call.seal = sealed.seal
    return
  }
  if (text === '' && sealed === undefined) return
  message.content.push({ type: 'thought', text, ...(sealed === undefined ? {} : { seal: sealed.seal }) })
}

function messageOf(item: MessageItem, param: string): Result<ChatMessage, Failure> {
  const content = partsOf(item.content, `${param}.content`, item.role)
  return content.ok ? ok({ role: item.role, content: content.value }) : content
}

function partsOf(
  content: MessageItem['content'] | OutputItem['output'],
  param: string,
  role: ChatMessage['role'],
): Result<ContentPart[], Failure> {
  if (typeof content === 'string') return ok(content === '' ? [] : [{ type: 'text', text: content }])
  const parts: ContentPart[] = []
  for (const [index, one] of content.entries()) {
    const part = partOf(one, `${param}[${index}]`, role)
    if (!part.ok) return part
    parts.push(part.value)
  }
  return ok(parts)
}

function partOf(part: WirePart, param: string, role: ChatMessage['role']): Result<ContentPart, Failure> {
  switch (part.type) {
    case 'input_text':
      return ok({ type: 'text', text: part.text, ...breakpointHint(part.prompt_cache_breakpoint) })
    case 'output_text':
      return ok({ type: 'text', text: part.text })
    case 'refusal':
      if (role === 'assistant') return ok({ type: 'refusal', text: part.refusal })
      return err(invalid(`A refusal belongs to the role 'assistant', not to '${role}'.`, param))
    case 'input_image': {
      if (role !== 'user' && role !== 'tool') return err(invalid(`The role '${role}' takes no images.`, param))
      const source = imageUrl(part.image_url)
      if (!source.ok) return err(invalid(source.error, `${param}.image_url`))
      const { detail } = part
      const hint = breakpointHint(part.prompt_cache_breakpoint)
      return ok({ type: 'image', source: source.value, ...(typeof detail === 'string' ? { detail } : {}), ...hint })
    }
    default:
      return part satisfies never
  }
}
