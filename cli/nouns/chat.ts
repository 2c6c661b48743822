// `penstock chat`: talk to a model through the gateway, with the SDK. Owns the conversation on a terminal; the answer's cost is the
// gateway's to say, once its row is written.
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline/promises'
import { type ChatRequest, Penstock, PenstockError } from '../../sdk/src/index.ts'
import { dataDirOf, trustsFolder, urlOf } from '../access.ts'
import { type Arguments, type Command, text } from '../command.ts'
import type { Context } from '../context.ts'
import { CliFailure, EXIT, type ExitCode, wrongUsage } from '../failure.ts'
import { plain, plainLines } from '../output.ts'

const PROMPT_BYTES_MAX = 4 * 2 ** 20
const TOKENS_MAX = 1_048_576

type Message = { role: 'system' | 'user' | 'assistant'; content: string }

export const chatCommand: Command = {
  path: ['chat'],
  summary: 'Talk to a model; one prompt as an argument or on standard input, or a conversation on a terminal.',
  positionals: [{ name: 'PROMPT', help: 'what to say; absent: standard input', optional: true }],
  flags: {
    model: { type: 'string', value: 'MODEL', help: 'default: the first one that the key may use' },
    system: { type: 'string', value: 'TEXT', help: 'said before the conversation' },
    'max-tokens': { type: 'string', value: 'N', help: 'longest answer' },
    temperature: { type: 'string', value: 'NUMBER', help: '0 is greedy' },
  },
  details: 'The API key is PENSTOCK_KEY of the environment, else the one that `penstock up` keeps in its data folder.',
  examples: [
    { line: 'penstock chat "Write one sentence about rivers." --max-tokens 40', what: 'one answer, as it comes' },
    {
      line: 'git diff | penstock chat --system "Say what changed." --json',
      what: 'for a script: text, tokens, request id',
    },
  ],
  run: chat,
}

async function chat(context: Context, args: Arguments) {
  const client = new Penstock({ gateway: { baseUrl: urlOf(args, context.env), apiKey: await keyOf(context, args) } })
  const model = text(args, 'model') ?? (await firstModel(client))
  const system = text(args, 'system')
  const messages: Message[] = system === undefined ? [] : [{ role: 'system', content: system }]
  const { stdin } = context.terminal
  const given = args.positionals.PROMPT
  if (given === undefined && stdin.isTTY === true) {
    if (context.isJson) throw wrongUsage('--json goes with one prompt: give it as an argument.')
    await converse(context, args, client, model, messages)
    return undefined
  }
  const prompt = given ?? (await readAll(stdin))
  if (prompt.trim() === '') throw wrongUsage('There is no prompt.', 'penstock chat "..."')
  messages.push({ role: 'user', content: prompt })
  const answer = await ask(context, args, client, model, messages)
  if (!context.isJson) {
    context.terminal.stdout.write('\n')
    return undefined
  }
  return {
    data: {
      model,
      text: answer.text,
      finish_reason: answer.finishReason,
      usage: answer.usage,
      request_id: answer.requestId,
    },
    lines: [],
  }
}

/** Until end of input. An answer that fails is told and can be asked for again. */
async function converse(
  context: Context,
  args: Arguments,
  client: Penstock,
  model: string,
  messages: Message[],
): Promise<void> {
  const lines = createInterface({
    input: context.terminal.stdin,
    output: process.stdout,
    prompt: context.paint('cyan', '> '),
  })
  context.warn(context.paint('dim', `${model}; Ctrl-D ends`))
  lines.prompt()
  for await (const line of lines) {
    if (line.trim() !== '') {
      messages.push({ role: 'user', content: line })
      try {
        const { text: said } = await ask(context, args, client, model, messages)
        context.terminal.stdout.write('\n')
        messages.push({ role: 'assistant', content: said })
      } catch (error) {
        messages.pop()
        if (context.signal.aborted) break
        context.warn(context.paint('red', plain((error as Error).message)))
      }
    }
    lines.prompt()
  }
  lines.close()
}

async function ask(context: Context, args: Arguments, client: Penstock, model: string, messages: Message[]) {
  const number = (name: string, most: number): number | undefined => {
    const words = text(args, name)
    if (words === undefined) return undefined
    const value = Number(words)
    if (!(value >= 0 && value <= most)) throw wrongUsage(`--${name} ${words}: must be a number up to ${most}.`)
    return value
  }
  const maxTokens = number('max-tokens', TOKENS_MAX)
  const temperature = number('temperature', 2)
  const request: ChatRequest & { stream: true } = {
    model,
    messages,
    stream: true,
    stream_options: { include_usage: true },
    ...(maxTokens !== undefined && { max_tokens: maxTokens }),
    ...(temperature !== undefined && { temperature }),
  }
  try {
    const stream = await client.chat.completions.create(request, { signal: context.signal })
    let said = ''
    let finishReason: string | null | undefined
    let usage: unknown
    for await (const chunk of stream) {
      if (!('choices' in chunk)) continue
      const [choice] = chunk.choices
      const piece = choice?.delta.content ?? ''
      said += piece
      finishReason = choice?.finish_reason ?? finishReason
      usage = chunk.usage ?? usage
      const { stdout } = context.terminal
      // What goes into a file or another program goes there as it came.
      if (!context.isJson) stdout.write(stdout.isTTY === true ? plainLines(piece) : piece)
    }
    return { text: said, finishReason, usage, requestId: stream.requestId }
  } catch (error) {
    throw error instanceof PenstockError ? told(error) : error
  }
}

const EXIT_OF: Partial<Record<PenstockError['code'], ExitCode>> = {
  authentication: EXIT.refused,
  permission: EXIT.refused,
  not_found: EXIT.notFound,
  conflict: EXIT.conflict,
  budget_exhausted: EXIT.limit,
  rate_limited: EXIT.limit,
  overloaded: EXIT.unavailable,
  provider_failed: EXIT.unavailable,
  gateway_unreachable: EXIT.unavailable,
  timeout: EXIT.unavailable,
  interrupted: EXIT.unavailable,
}

export function told(error: PenstockError): CliFailure {
  const hint =
    error.code === 'gateway_unreachable' ? 'Is it running? `penstock up` starts it; --url says where it is.' : undefined
  return new CliFailure(EXIT_OF[error.code] ?? EXIT.failed, error.message, {
    code: error.code,
    hint,
    requestId: error.requestId,
  })
}

async function firstModel(client: Penstock): Promise<string> {
  const { data } = await client.models.list().catch((error: unknown) => {
    throw error instanceof PenstockError ? told(error) : error
  })
  const [first] = data
  if (first !== undefined) return first.id
  throw new CliFailure(EXIT.notFound, 'This key may use no model.', {
    code: 'not_found',
    hint: '`penstock models list` and `penstock keys show` tell why.',
  })
}

/** The key that calls models: not the token that administers. */
export async function keyOf(context: Context, args: Arguments): Promise<string> {
  const fromEnvironment = context.env.PENSTOCK_KEY
  if (fromEnvironment !== undefined && fromEnvironment !== '') return fromEnvironment
  const path = join(dataDirOf(args, context.env), 'api-key')
  const isTrusted = trustsFolder(args, context.env, urlOf(args, context.env))
  const saved = isTrusted ? (await readFile(path, 'utf8').catch(() => '')).trim() : ''
  if (saved !== '') return saved
  throw new CliFailure(
    EXIT.refused,
    `There is no API key: PENSTOCK_KEY is not set and ${path} has none for this gateway.`,
    {
      code: 'no_key',
      hint: 'PENSTOCK_KEY=$(penstock keys create me --quiet)',
    },
  )
}

async function readAll(stdin: AsyncIterable<Uint8Array>): Promise<string> {
  const chunks: Uint8Array[] = []
  let bytes = 0
  for await (const chunk of stdin) {
    bytes += chunk.byteLength
    if (bytes > PROMPT_BYTES_MAX) throw wrongUsage(`Standard input has more than ${PROMPT_BYTES_MAX} bytes.`)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}
