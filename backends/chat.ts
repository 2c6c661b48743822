// Chat messages and tools → prompt text, by the template in the model file. Owns rendering and its errors;
// guard.ts keeps callers' text from acting as control tokens, tokens.ts encodes the result.
import { Template } from '@huggingface/jinja'
import { CallIds } from '../protocol/call-ids.ts'
import type { DispatchRequest } from '../protocol/dispatch.ts'
import { err, ok, type Result } from '../protocol/result.ts'
import type { ToolFormat } from './answer-format.ts'
import { chooseMark, type Guard } from './guard.ts'
import { messageOf } from './log.ts'
import { type ModelFile, ModelFileError } from './model-file.ts'

export type ChatMessage = Extract<DispatchRequest['input'], { kind: 'chat' }>['messages'][number]
type Tool = NonNullable<DispatchRequest['tools']>[number]

export type ChatOptions = {
  /** On offer; undefined: none. */
  tools?: readonly Tool[]
  /** Undefined: as the template has it. */
  thinking?: boolean
}

/** `mark` must be given to the tokenizer with `text`. */
export type RenderedChat = { text: string; mark: string }
export type ChatRefusal = { message: string; param: string }

export type ChatRenderer = (
  messages: readonly ChatMessage[],
  options?: ChatOptions,
) => Result<RenderedChat, ChatRefusal>

/** Templates compare roles with literals; models know no `developer`. */
const templateRole = (role: ChatMessage['role']) => (role === 'developer' ? 'system' : role)

/** Some templates insist on ids of nine letters and digits. */
const SHORT_IDS = /\|\s*length\s*!=\s*9/
const SHORT_ID_CHARS = 9

/**
 * The renderer of a model; one that has no template refuses every chat.
 * @param tools How its calls are written; undefined: it is offered none.
 * @throws ModelFileError where the template does not parse.
 */
export function createChatRenderer(file: ModelFile, guard: Guard, tools?: ToolFormat): ChatRenderer {
  const chats = compile(file.chatTemplate, 'tokenizer.chat_template')
  const withTools = compile(file.toolTemplate, 'tokenizer.chat_template.tool_use') ?? chats
  const tokenText = (id: number | undefined) => (id === undefined ? '' : (file.tokens[id] ?? ''))
  const bosText = tokenText(file.bosId)
  const eosText = tokenText(file.eosId)

  return (messages, options = {}) => {
    const hasCalls = messages.some(({ toolCalls }) => toolCalls !== undefined)
    const chosen = options.tools !== undefined || hasCalls ? withTools : chats
    if (chosen === undefined)
      return err({
        message: 'this model has no chat template; use the completions endpoint with a text prompt',
        param: 'messages',
      })
    const { template, source } = chosen
    if (options.tools !== undefined && tools === undefined)
      return err({
        message: 'this model calls no tools, or writes its calls in a form that is not supported',
        param: 'tools',
      })
    if (hasCalls && !source.includes('tool_calls'))
      return err({ message: "this model's chat template knows no tool calls", param: 'messages' })
    // Arguments are text that holds text: what an escape in them stands for is the caller's too.
    const written = messages.flatMap(({ toolCalls = [] }) => toolCalls.map((call) => argumentsOf(call.arguments)))
    const all = textOf([messages, options.tools ?? [], written])
    if (all === undefined) return err({ message: 'the tools are nested too deeply', param: 'tools' })
    const mark = chooseMark([source, all])
    if (mark === undefined)
      return err({ message: 'the messages use every Unicode noncharacter from U+FDD0 to U+FDEF', param: 'messages' })
    const protect = (text: string) => guard.protect(text, mark)
    const ids = new CallIds(SHORT_IDS.test(source) ? SHORT_ID_CHARS : undefined)
    try {
      const text = template.render({
        messages: messages.map((message) => templateMessage(message, protect, ids)),
        ...(options.tools === undefined ? {} : { tools: options.tools.map((tool) => templateTool(tool, protect)) }),
        ...(options.thinking === undefined ? {} : { enable_thinking: options.thinking }),
        add_generation_prompt: true,
        bos_token: bosText,
        eos_token: eosText,
      })
      return ok({ text, mark })
    } catch (thrown) {
      const reason = messageOf(thrown).replaceAll(mark, '')
      return err({ message: `the model's chat template refused the messages: ${reason}`, param: 'messages' })
    }
  }
}

type Compiled = { template: Template; source: string }

/** @throws ModelFileError */
function compile(source: string | undefined, field: string): Compiled | undefined {
  if (source === undefined) return undefined
  try {
    return { template: new Template(source), source }
  } catch (thrown) {
    throw new ModelFileError(`metadata ${field} does not parse: ${messageOf(thrown)}`)
  }
}

type Protect = (text: string) => string

/** In the shape that published templates read: OpenAI's, with arguments as an object. */
function templateMessage(message: ChatMessage, protect: Protect, ids: CallIds): Record<string, unknown> {
  const { role, content, name, toolCalls, thought, toolCallId } = message
  return {
    role: templateRole(role),
    content: protect(content),
    ...(name === undefined ? {} : { name: protect(name) }),
    ...(thought === undefined ? {} : { reasoning_content: protect(thought) }),
    ...(toolCallId === undefined ? {} : { tool_call_id: protect(ids.of(toolCallId)) }),
    ...(toolCalls === undefined
      ? {}
      : {
          tool_calls: toolCalls.map((call) => ({
            id: protect(ids.of(call.id)),
            type: 'function',
            function: { name: protect(call.name), arguments: protectedJson(argumentsOf(call.arguments), protect) },
          })),
        }),
  }
}

const templateTool = ({ name, description, parameters }: Tool, protect: Protect): Record<string, unknown> => ({
  type: 'function',
  function: {
    name: protect(name),
    // Templates join it to text without asking whether it is there.
    description: protect(description ?? ''),
    parameters: protectedJson(parameters ?? { type: 'object', properties: {} }, protect),
  },
})

/** What a model wrote may not be JSON: it is shown its own words then. */
function argumentsOf(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}

/** Everything a caller wrote; undefined where it is nested beyond what a stack holds. */
function textOf(value: unknown): string | undefined {
  try {
    return JSON.stringify(value)
  } catch {
    return undefined
  }
}

/** What templates compare with; between protected texts it completes no control token. */
const TYPE_NAMES = new Set<unknown>(['string', 'number', 'integer', 'boolean', 'object', 'array', 'null'])

/** A caller's JSON with every text in it protected, names of fields included. */
function protectedJson(value: unknown, protect: Protect): unknown {
  if (typeof value === 'string') return protect(value)
  if (Array.isArray(value)) return value.map((one) => protectedJson(one, protect))
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(
    Object.entries(value).map(([key, one]) => [
      protect(key),
      key === 'type' && TYPE_NAMES.has(one) ? one : protectedJson(one, protect),
    ]),
  )
}
