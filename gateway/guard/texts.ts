// What content rules see of a request. Owns which of its texts they may change, which they may only look at, which have no text
// at all, and which are one text to a target although their caller cut them in parts. Pure.
import type { ChatMessage, ContentPart, InferenceRequest } from '../../protocol/request.ts'

/**
 * `parts`: what targets may be sent as one text, in its order; at least one. `isFixed`: changing it would break what it is: a
 * call's arguments, a thought under its seal.
 */
export type SeenText = { role: string; parts: readonly string[]; isFixed: boolean }

/** In place of a text's parts: as many of them, or one for all. */
export type LeftText = readonly string[]

type TextPart = ContentPart & { type: 'text' | 'refusal' }

/** In the order of the request, a message's name first. Tool definitions, schemas and images are not looked at. */
export function textsOf({ input }: InferenceRequest): SeenText[] {
  if (input.kind !== 'chat') {
    return input.prompts.flatMap((prompt) =>
      'text' in prompt ? [{ role: 'user', parts: [prompt.text], isFixed: false }] : [],
    )
  }
  return input.messages.flatMap((message) => {
    const { role, name } = message
    const named = name === undefined ? [] : [{ role, parts: [name], isFixed: false }]
    return [
      ...named,
      ...runsOf(message).map((run) =>
        run.kind === 'fixed'
          ? { role, parts: [run.text], isFixed: true }
          : { role, parts: run.parts.map(({ text }) => text), isFixed: false },
      ),
    ]
  })
}

/**
 * The request with these in place of its texts, as `textsOf` has them; fixed ones stay as they are. A name that is changed is
 * left out: targets take few characters in one.
 */
export function withTexts(request: InferenceRequest, texts: readonly LeftText[]): InferenceRequest {
  const { input } = request
  let at = 0
  const next = (): LeftText | undefined => texts[at++]
  if (input.kind !== 'chat') {
    const prompts = input.prompts.map((prompt) =>
      'text' in prompt ? { text: next()?.join('') ?? prompt.text } : prompt,
    )
    return { ...request, input: { ...input, prompts } }
  }
  const messages = input.messages.map((message) => {
    const { name, ...nameless } = message
    const kept = name === undefined || next()?.join('') === name ? message : nameless
    return { ...kept, content: contentWith(message, next) }
  })
  return { ...request, input: { ...input, messages } }
}

function contentWith(message: ChatMessage, next: () => LeftText | undefined): ContentPart[] {
  const changed = new Map<ContentPart, ContentPart | undefined>()
  for (const run of runsOf(message)) {
    const left = next()
    if (run.kind === 'fixed' || left === undefined) continue
    if (left.length === run.parts.length) {
      for (const [index, part] of run.parts.entries()) changed.set(part, { ...part, text: left[index] ?? part.text })
      continue
    }
    // One for all stands where the first did, with the last one's hint: the prompt up to there is what it was about.
    for (const part of run.parts) changed.set(part, undefined)
    const [first, last] = [run.parts[0], run.parts.at(-1)]
    if (first !== undefined && last !== undefined) changed.set(first, { ...last, text: left.join('') })
  }
  return message.content.flatMap((part) => {
    if (!changed.has(part)) return [part]
    const instead = changed.get(part)
    return instead === undefined ? [] : [instead]
  })
}

type Run = { kind: 'said'; parts: TextPart[] } | { kind: 'fixed'; text: string }

/** Only an image parts what is said: thoughts and calls are left out, or sent apart, by targets that join the rest. */
function runsOf({ content }: ChatMessage): Run[] {
  const runs: Run[] = []
  let open: TextPart[] | undefined
  for (const part of content) {
    switch (part.type) {
      case 'text':
      case 'refusal':
        if (open === undefined) {
          open = []
          runs.push({ kind: 'said', parts: open })
        }
        open.push(part)
        break
      case 'image':
        open = undefined
        break
      case 'tool_call':
        runs.push({ kind: 'fixed', text: part.arguments })
        break
      case 'thought':
        runs.push({ kind: 'fixed', text: part.text })
        break
      default:
        part satisfies never
    }
  }
  return runs
}

/** Whether a part of the prompt is token ids, which only a model's own tokenizer turns into text. */
export const hasTokenPrompts = ({ input }: InferenceRequest): boolean =>
  input.kind !== 'chat' && input.prompts.some((prompt) => 'tokenIds' in prompt)
