// The fields by which a caller asks for a form of the answer → the internal form ○. Owns that only one may ask, and the
// bound on a grammar's size; the fields' own shape is protocol/dialects/openai.ts.
import type { ChatCompletionRequest, CompletionRequest } from '../../protocol/dialects/openai.ts'
import type { Failure } from '../../protocol/errors.ts'
import { FORMAT_PARAM, grammarOf, MAX_GRAMMAR_BYTES, type OutputFormat } from '../../protocol/output-format.ts'
import { err, ok, type Result } from '../../protocol/result.ts'

type Asking = Pick<ChatCompletionRequest, 'response_format'> | Pick<CompletionRequest, 'structured_outputs'>

/** `undefined` where any text will do. */
export function outputFormatOf(body: Asking): Result<OutputFormat | undefined, Failure> {
  const byResponse = 'response_format' in body ? ofResponseFormat(body.response_format) : undefined
  const byExtension = 'structured_outputs' in body ? ofStructuredOutputs(body.structured_outputs) : undefined
  if (byResponse !== undefined && byExtension !== undefined) {
    const message = "Only one of 'response_format' and 'structured_outputs' can be used."
    return err({ code: 'invalid_request', message, param: 'structured_outputs' })
  }
  const format = byResponse ?? byExtension
  if (format === undefined) return ok(undefined)
  const bytes = new TextEncoder().encode(grammarOf(format).text).byteLength
  if (bytes <= MAX_GRAMMAR_BYTES) return ok(format)
  const param = FORMAT_PARAM[format.kind]
  const message = `Invalid value for '${param}': it has ${bytes} bytes; at most ${MAX_GRAMMAR_BYTES} are allowed.`
  return err({ code: 'invalid_request', message, param })
}

function ofResponseFormat(field: ChatCompletionRequest['response_format']): OutputFormat | undefined {
  switch (field?.type) {
    case undefined:
    case 'text':
      return undefined
    case 'json_object':
      return { kind: 'json_object' }
    case 'json_schema': {
      const { name, description, schema, strict } = field.json_schema
      return {
        kind: 'json_schema',
        name,
        ...(typeof description === 'string' ? { description } : {}),
        ...(typeof strict === 'boolean' ? { strict } : {}),
        ...(schema === undefined || schema === null ? {} : { schema }),
      }
    }
    default:
      return field satisfies never
  }
}

function ofStructuredOutputs(field: CompletionRequest['structured_outputs']): OutputFormat | undefined {
  if (field === undefined || field === null) return undefined
  if (typeof field.regex === 'string') return { kind: 'regex', pattern: field.regex }
  if (typeof field.grammar === 'string') return { kind: 'grammar', text: field.grammar }
  if (Array.isArray(field.choice)) return { kind: 'choice', choices: field.choice }
  return { kind: 'json', schema: field.json }
}
