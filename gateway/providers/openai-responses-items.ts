// Chat messages as items of the Responses API. Owns what becomes of each kind of part: calls and results are items of their own,
// thoughts are items that go back as they came, with what followed them. The other fields are openai-responses-encoder.ts. Pure.
import { CallIds } from '../../protocol/call-ids.ts'
import type { ChatMessage, ContentPart, ImageSource } from '../../protocol/request.ts'
import { cacheField } from './cache-hints.ts'
import { readSealValue } from './openai-responses-seal.ts'
import type { Preset } from './presets.ts'
import { failedResult } from './refusal.ts'
import { plainToolName } from './tool-names.ts'

type Json = Record<string, unknown>
type Said = ContentPart & { type: 'text' | 'refusal' }

/** Ids of calls that other vendors made may be longer, or have other characters. */
const CALL_IDS = /^[A-Za-z0-9_-]{1,64}$/
const MADE_ID_CHARS = 32

/** @param mark Whose seals are given back; undefined: nobody's. */
export function responseItems(messages: readonly ChatMessage[], preset: Preset, mark: string | undefined): Json[] {
  const ids = new CallIds(MADE_ID_CHARS, CALL_IDS)
  return messages.flatMap((message): Json[] => {
    switch (message.role) {
      case 'system':
      case 'developer': {
        const role = preset.hasDeveloperRole ? message.role : 'system'
        return [{ type: 'message', role, content: inputOf(message.content, preset) }]
      }
      case 'user':
        return [{ type: 'message', role: 'user', content: inputOf(message.content, preset) }]
      case 'assistant':
        return turnItems(message.content, ids, mark)
      case 'tool':
        return [
          {
            type: 'function_call_output',
            call_id: ids.of(message.toolCallId ?? ''),
            output: resultOf(message, preset),
          },
        ]
      default:
        return message.role satisfies never
    }
  })
}

/** One text where nothing but text is there, and no part has a mark. */
function inputOf(parts: readonly ContentPart[], preset: Preset): string | Json[] {
  const isMarked = preset.cacheMarks === 'breakpoint' && parts.some(({ cache }) => cache !== undefined)
  if (parts.every(isSaid) && !isMarked) return parts.map(({ text }) => text).join('')
  return parts.flatMap((part): Json[] => {
    const mark = isMarked ? cacheField(part.cache, preset) : {}
    if (part.type === 'image') {
      return [{ type: 'input_image', image_url: urlOf(part.source), detail: part.detail ?? 'auto', ...mark }]
    }
    return isSaid(part) ? [{ type: 'input_text', text: part.text, ...mark }] : []
  })
}

/** That a tool failed has no field: the text says it. */
function resultOf({ content, isError }: ChatMessage, preset: Preset): string | Json[] {
  if (isError !== true) return inputOf(content, preset)
  const at = content.findIndex((part) => isSaid(part) && part.text !== '')
  const told = content[at]
  if (told?.type !== 'text') return inputOf([{ type: 'text', text: failedResult('') }, ...content], preset)
  return inputOf(content.with(at, { ...told, text: failedResult(told.text) }), preset)
}

/** Texts that follow each other are one message. */
function turnItems(parts: readonly ContentPart[], ids: CallIds, mark: string | undefined): Json[] {
  const items: Json[] = []
  let said: Json[] = []
  const flush = () => {
    if (said.length > 0) items.push({ type: 'message', role: 'assistant', content: said })
    said = []
  }
  // A thought whose consequence was cut off belongs to nothing, and the vendor refuses it.
  const end = parts.findLastIndex(({ type }) => type !== 'thought') + 1
  for (const part of parts.slice(0, end)) {
    switch (part.type) {
      case 'text':
        said.push({ type: 'output_text', text: part.text })
        break
      case 'refusal':
        said.push({ type: 'refusal', refusal: part.text })
        break
      case 'tool_call':
        flush()
        items.push({
          type: 'function_call',
          call_id: ids.of(part.id),
          name: plainToolName(part.name),
          arguments: part.arguments === '' ? '{}' : part.arguments,
        })
        break
      case 'thought':
        if (part.seal === undefined || part.seal.by !== mark || part.seal.value === '') break
        flush()
        items.push({
          type: 'reasoning',
          ...readSealValue(part.seal.value),
          summary: part.text === '' ? [] : [{ type: 'summary_text', text: part.text }],
        })
        break
      case 'image':
        break
      default:
        part satisfies never
    }
  }
  flush()
  return items
}

const urlOf = (source: ImageSource): string =>
  source.kind === 'url' ? source.url : `data:${source.mediaType};base64,${source.data}`

const isSaid = (part: ContentPart): part is Said => part.type === 'text' || part.type === 'refusal'
