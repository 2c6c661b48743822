// Chat messages → prompt text, by the template in the model file. Owns rendering and its errors;
// guard.ts keeps callers' text from acting as control tokens, tokens.ts encodes the result.
import { Template } from '@huggingface/jinja'
import { err, ok, type Result } from '../protocol/result.ts'
import { chooseMark, type Guard } from './guard.ts'
import { messageOf } from './log.ts'
import { type ModelFile, ModelFileError } from './model-file.ts'

export type ChatMessage = {
  role: 'system' | 'developer' | 'user' | 'assistant' | 'tool'
  content: string
  name?: string | undefined
}

/** `mark` must be given to the tokenizer with `text`. */
export type RenderedChat = { text: string; mark: string }
export type ChatRefusal = { message: string; param: string }

export type ChatRenderer = (messages: readonly ChatMessage[]) => Result<RenderedChat, ChatRefusal>

/** Templates compare roles with literals; models know no `developer`. */
const templateRole = (role: ChatMessage['role']) => (role === 'developer' ? 'system' : role)

/**
 * The renderer of a model; one that has no template refuses every chat.
 * @throws ModelFileError where the template does not parse.
 */
export function createChatRenderer(file: ModelFile, guard: Guard): ChatRenderer {
  const source = file.chatTemplate
  if (source === undefined)
    return () =>
      err({
        message: 'this model has no chat template; use the completions endpoint with a text prompt',
        param: 'messages',
      })
  let template: Template
  try {
    template = new Template(source)
  } catch (thrown) {
    throw new ModelFileError(`metadata tokenizer.chat_template does not parse: ${messageOf(thrown)}`)
  }
  const tokenText = (id: number | undefined) => (id === undefined ? '' : (file.tokens[id] ?? ''))
  const bosText = tokenText(file.bosId)
  const eosText = tokenText(file.eosId)

  return (messages) => {
    const mark = chooseMark([source, ...messages.flatMap(({ content, name }) => [content, name ?? ''])])
    if (mark === undefined)
      return err({ message: 'the messages use every Unicode noncharacter from U+FDD0 to U+FDEF', param: 'messages' })
    const protectedMessages = messages.map((message) => ({
      role: templateRole(message.role),
      content: guard.protect(message.content, mark),
      ...(message.name === undefined ? {} : { name: guard.protect(message.name, mark) }),
    }))
    try {
      const text = template.render({
        messages: protectedMessages,
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
