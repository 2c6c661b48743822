// How a model writes tool calls and thoughts into its answer ○. Owns recognising it from the chat template and the
// vocabulary; reading answers is answer-parts.ts.
//
// tagged  <tool_call>{"name": …, "arguments": {…}}</tool_call>, any number of them: Hermes, Qwen 2.5 and 3
// listed  [TOOL_CALLS] [{"name": …, "arguments": {…}}, …], or [TOOL_CALLS]name[ARGS]{…}: Mistral
// bare    {"name": …, "parameters": {…}} as the whole answer, also behind <|python_tag|>: Llama 3.1 to 3.3
//
// Other forms (functions as XML, Python, channels) are not recognised, and such a model is offered no tools.
import type { ModelFile } from './model-file.ts'
import type { Vocabulary } from './vocabulary.ts'

export type ToolFormat = 'tagged' | 'listed' | 'bare'

export const CALL_OPEN = '<tool_call>'
export const CALL_CLOSE = '</tool_call>'
export const LIST_MARK = '[TOOL_CALLS]'
export const LIST_ARGUMENTS = '[ARGS]'
export const LIST_ID = '[CALL_ID]'
export const BARE_MARK = '<|python_tag|>'
export const THOUGHT_OPEN = '<think>'
export const THOUGHT_CLOSE = '</think>'

const TOOL_MARKERS = [CALL_OPEN, CALL_CLOSE, LIST_MARK, LIST_ARGUMENTS, LIST_ID, BARE_MARK]
const THOUGHT_MARKERS = [THOUGHT_OPEN, THOUGHT_CLOSE]

export type AnswerFormat = {
  /** Undefined: the template knows no tools, or their calls are of a form that is not known here. */
  tools?: ToolFormat
  hasThoughts: boolean
  /** Control tokens that stand for something here, of tools and of thoughts: elsewhere they have no text. */
  toolMarkerIds: ReadonlySet<number>
  thoughtMarkerIds: ReadonlySet<number>
}

export function answerFormatOf(
  file: Pick<ModelFile, 'chatTemplate' | 'toolTemplate'>,
  vocabulary: Vocabulary,
): AnswerFormat {
  const source = file.chatTemplate ?? ''
  const idsOf = (texts: readonly string[]): ReadonlySet<number> =>
    new Set(
      texts.flatMap((text) => {
        const id = vocabulary.idOf.get(text)
        return id !== undefined && vocabulary.isControl(id) ? [id] : []
      }),
    )
  const tools = toolFormatOf(file.toolTemplate ?? source, vocabulary)
  return {
    ...(tools === undefined ? {} : { tools }),
    hasThoughts: source.includes(THOUGHT_CLOSE) || source.includes(THOUGHT_OPEN),
    toolMarkerIds: idsOf(TOOL_MARKERS),
    thoughtMarkerIds: idsOf(THOUGHT_MARKERS),
  }
}

function toolFormatOf(source: string, vocabulary: Vocabulary): ToolFormat | undefined {
  if (!/\btools\b/.test(source)) return undefined
  // Some conversions leave out the part that writes calls back; the token is in the vocabulary all the same.
  const hasList = source.includes('[AVAILABLE_TOOLS]') && vocabulary.idOf.has(LIST_MARK)
  if (source.includes(LIST_MARK) || hasList) return 'listed'
  if (source.includes(CALL_OPEN)) return /<function=|<arg_key>/.test(source) ? undefined : 'tagged'
  return /"name\\?": function name, \\?"parameters\\?"/.test(source) ? 'bare' : undefined
}
