// A conversation as the content rules left it: what no target may see is not kept either. Owns the way back from messages to
// items, which routes/responses-items.ts goes the other way. Pure.
import type { ResponseEcho, ResponseInputItem } from '../../protocol/dialects/responses.ts'
import { type ChatMessage, type ContentPart, type InferenceRequest, messageText } from '../../protocol/request.ts'
import { sealText } from '../routes/seals.ts'
import { itemId } from './stored-run.ts'

type MessagePart = Exclude<Extract<ResponseInputItem, { type: 'message' }>['content'], string>[number]
type InputPart = Extract<MessagePart, { type: 'input_text' | 'input_image' }>

/**
 * Echo and items of a request that the rules changed. The items have new ids: those they had name the unmasked ones.
 * @param name Of the response.
 */
export function maskedParts(
  request: InferenceRequest,
  echo: ResponseEcho,
  name: string,
): { echo: ResponseEcho; items: ResponseInputItem[] } {
  const messages = request.input.kind === 'chat' ? request.input.messages : []
  const [first] = messages
  // The instructions are the first message, and no part of the conversation.
  const hasInstructions = echo.instructions !== null && echo.instructions !== '' && first !== undefined
  const items = messages.slice(hasInstructions ? 1 : 0).flatMap(itemsOf)
  return {
    echo: hasInstructions ? { ...echo, instructions: messageText(first) } : echo,
    items: items.map((item, index) => ({ ...item, id: itemId(item.type, name, index) })),
  }
}

function itemsOf(message: ChatMessage): ResponseInputItem[] {
  const { role, content } = message
  if (role === 'tool') {
    return [{ type: 'function_call_output', call_id: message.toolCallId ?? '', output: content.flatMap(inputPart) }]
  }
  if (role !== 'assistant') return [{ type: 'message', role, content: content.flatMap(inputPart) }]
  return content.flatMap(assistantItems)
}

function inputPart(part: ContentPart): InputPart[] {
  if (part.type === 'text') return [{ type: 'input_text', text: part.text }]
  if (part.type !== 'image') return []
  const { source, detail } = part
  const image_url = source.kind === 'url' ? source.url : `data:${source.mediaType};base64,${source.data}`
  return [{ type: 'input_image', image_url, ...(detail === undefined ? {} : { detail }) }]
}

/** Each part is an item of its own; they are one turn again when they are read. */
function assistantItems(part: ContentPart): ResponseInputItem[] {
  switch (part.type) {
    case 'text':
      return [{ type: 'message', role: 'assistant', content: [{ type: 'output_text', text: part.text }] }]
    case 'refusal':
      return [{ type: 'message', role: 'assistant', content: [{ type: 'refusal', refusal: part.text }] }]
    case 'thought': {
      const content = part.text === '' ? [] : [{ type: 'reasoning_text' as const, text: part.text }]
      const sealed = part.seal === undefined ? {} : { encrypted_content: sealText(part.seal) }
      return [{ type: 'reasoning', summary: [], content, ...sealed }]
    }
    case 'tool_call': {
      const { id: call_id, name, arguments: text, seal } = part
      const call: ResponseInputItem = { type: 'function_call', call_id, name, arguments: text }
      if (seal === undefined) return [call]
      return [call, { type: 'reasoning', summary: [], encrypted_content: sealText(seal, undefined, 'call') }]
    }
    case 'image':
      return []
    default:
      return part satisfies never
  }
}
