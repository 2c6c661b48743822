// The text side of a Hugging Face folder: tokenizer.json and the small files around it. Owns reading them, their bounds,
// and which file wins; what tokenizer.json says about the algorithm is tokenizer-json.ts.
import { readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import type { Pooling } from '../protocol/engine-frames.ts'
import { messageOf } from './log.ts'
import { type ModelFile, ModelFileError } from './model-file.ts'
import { readTokenizer, TokenizerJson } from './tokenizer-json.ts'

/** A tokenizer of 256 thousand tokens with its merges takes some 35 MB; the other files are small. */
const TOKENIZER_BYTES_MAX = 128 * 1024 * 1024
const SETTINGS_BYTES_MAX = 4 * 1024 * 1024

const ids = z.union([z.number().int().min(0), z.array(z.number().int().min(0))]).nullish()
const token = z.union([z.string(), z.object({ content: z.string() })]).nullish()

const ModelConfig = z.object({
  model_type: z.string(),
  eos_token_id: ids,
  is_matryoshka: z.boolean().nullish(),
  matryoshka_dimensions: z.array(z.number().int().positive()).nullish(),
})
const GenerationConfig = z.object({ eos_token_id: ids })
const TokenizerConfig = z.object({
  bos_token: token,
  eos_token: token,
  add_bos_token: z.boolean().nullish(),
  add_eos_token: z.boolean().nullish(),
  chat_template: z.union([z.string(), z.array(z.object({ name: z.string(), template: z.string() }))]).nullish(),
})
const ChatTemplate = z.object({ chat_template: z.string() })
const PoolingConfig = z.object({
  pooling_mode_mean_tokens: z.boolean().nullish(),
  pooling_mode_lasttoken: z.boolean().nullish(),
})

/**
 * Reads a folder as published; weights are not touched.
 * @throws ModelFileError naming the file, for what is missing, malformed or of a kind that is not supported.
 */
export async function readHuggingFaceFolder(folder: string): Promise<ModelFile> {
  const config = await required(folder, 'config.json', ModelConfig, SETTINGS_BYTES_MAX)
  const tokenizer = await required(folder, 'tokenizer.json', TokenizerJson, TOKENIZER_BYTES_MAX)
  const settings = (await optional(folder, 'tokenizer_config.json', TokenizerConfig)) ?? {}
  const generation = (await optional(folder, 'generation_config.json', GenerationConfig)) ?? {}
  const pooling = await optional(folder, join('1_Pooling', 'config.json'), PoolingConfig)

  const read = inFile(join(folder, 'tokenizer.json'), () => readTokenizer(tokenizer))
  const idOf = (given: z.infer<typeof token>) => {
    const text = typeof given === 'string' ? given : given?.content
    const id = text === undefined ? -1 : read.tokens.indexOf(text)
    return id < 0 ? undefined : id
  }
  const bosId = read.bosId ?? idOf(settings.bos_token)
  const eosId = idOf(settings.eos_token)
  const named = [generation.eos_token_id, config.eos_token_id].flatMap((value) => value ?? [])
  const tooHigh = named.find((id) => id >= read.tokens.length)
  if (tooHigh !== undefined)
    throw new ModelFileError(`${folder}: eos_token_id ${tooHigh} is outside the ${read.tokens.length} tokens`)
  const file: ModelFile = {
    ...read,
    architecture: config.model_type,
    endIds: [...new Set([...(eosId === undefined ? [] : [eosId]), ...named])],
    addBos: read.addBos ?? settings.add_bos_token ?? false,
    addEos: read.addEos ?? settings.add_eos_token ?? false,
  }
  if (bosId !== undefined) file.bosId = bosId
  const endId = eosId ?? named[0]
  if (endId !== undefined) file.eosId = endId
  const template = await chatTemplate(folder, settings.chat_template ?? undefined)
  if (template !== undefined) file.chatTemplate = template
  const toolTemplate = await toolUseTemplate(folder, settings.chat_template ?? undefined)
  if (toolTemplate !== undefined) file.toolTemplate = toolTemplate
  const kind = poolingOf(pooling)
  if (kind !== undefined) file.pooling = kind
  if (config.matryoshka_dimensions) file.embeddingSizes = config.matryoshka_dimensions
  else if (config.is_matryoshka === true) file.embeddingSizes = 'any'
  return file
}

type InSettings = string | { name: string; template: string }[] | undefined

/** The one for chats with tools, where there are several; a file of its own is the newer way. */
async function toolUseTemplate(folder: string, inSettings: InSettings): Promise<string | undefined> {
  const own = await text(join(folder, 'additional_chat_templates', 'tool_use.jinja'), SETTINGS_BYTES_MAX)
  if (own !== undefined || typeof inSettings !== 'object') return own
  return inSettings.find((entry) => entry.name === 'tool_use')?.template
}

/** The file of its own is the newer way and wins; of several templates the one for plain chats counts. */
async function chatTemplate(folder: string, inSettings: InSettings): Promise<string | undefined> {
  const own = await text(join(folder, 'chat_template.jinja'), SETTINGS_BYTES_MAX)
  if (own !== undefined) return own
  const json = await optional(folder, 'chat_template.json', ChatTemplate)
  if (json !== undefined) return json.chat_template
  if (typeof inSettings !== 'object') return inSettings
  return inSettings.find((entry) => entry.name === 'default')?.template
}

function poolingOf(config: z.infer<typeof PoolingConfig> | undefined): Pooling | undefined {
  if (config?.pooling_mode_lasttoken === true) return 'last'
  return config?.pooling_mode_mean_tokens === true ? 'mean' : undefined
}

async function required<T extends z.ZodType>(folder: string, name: string, schema: T, bytesMax: number) {
  const found = await text(join(folder, name), bytesMax)
  if (found === undefined) throw new ModelFileError(`${join(folder, name)} is missing`)
  return parse(join(folder, name), found, schema)
}

async function optional<T extends z.ZodType>(folder: string, name: string, schema: T) {
  const found = await text(join(folder, name), SETTINGS_BYTES_MAX)
  return found === undefined ? undefined : parse(join(folder, name), found, schema)
}

/** `undefined` where there is no such file. */
async function text(path: string, bytesMax: number): Promise<string | undefined> {
  const found = await stat(path).catch(() => undefined)
  if (found === undefined) return undefined
  if (found.size > bytesMax) throw new ModelFileError(`${path} has ${found.size} bytes; at most ${bytesMax} are read`)
  try {
    return await readFile(path, 'utf8')
  } catch (thrown) {
    throw new ModelFileError(`${path}: ${messageOf(thrown)}`)
  }
}

function parse<T extends z.ZodType>(path: string, json: string, schema: T): z.output<T> {
  let value: unknown
  try {
    value = JSON.parse(json)
  } catch (thrown) {
    throw new ModelFileError(`${path} is not JSON: ${messageOf(thrown)}`)
  }
  const parsed = schema.safeParse(value)
  if (parsed.success) return parsed.data
  const issue = parsed.error.issues[0]
  throw new ModelFileError(`${path}: ${issue?.path.join('.')}: ${issue?.message}`)
}

/** Names the file in a failure that came out of its content. */
function inFile<T>(path: string, read: () => T): T {
  try {
    return read()
  } catch (thrown) {
    if (thrown instanceof ModelFileError) throw new ModelFileError(`${path}: ${thrown.message}`)
    throw thrown
  }
}
