// What form an answer must have, and the grammar that says so to an engine ○. Owns the internal form and its translation
// into grammars; how callers write it is dialects/openai.ts.

/** A grammar's text: compiling takes time with its length, and hand-written schemas have a few thousand bytes. */
export const MAX_GRAMMAR_BYTES = 256 * 1024
/** Alternatives of a choice; more are a vocabulary, not a question. */
export const MAX_FORMAT_CHOICES = 1024

export type OutputFormat =
  /** Any JSON object. */
  | { kind: 'json_object' }
  /** `schema` absent: any JSON object. The rest is for whoever shows it to a model. */
  | { kind: 'json_schema'; name: string; description?: string; strict?: boolean; schema?: Record<string, unknown> }
  /** JSON of a schema, without the dialect's envelope; `schema` may be a boolean. */
  | { kind: 'json'; schema: unknown }
  | { kind: 'regex'; pattern: string }
  | { kind: 'choice'; choices: string[] }
  /** A context-free grammar in Lark's notation. */
  | { kind: 'grammar'; text: string }

/** The caller's field a format came in, for refusals. */
export const FORMAT_PARAM = {
  json_object: 'response_format',
  json_schema: 'response_format',
  json: 'structured_outputs',
  regex: 'structured_outputs',
  choice: 'structured_outputs',
  grammar: 'structured_outputs',
} as const satisfies Record<OutputFormat['kind'], string>

export type Grammar = { kind: 'json_schema' | 'regex' | 'lark'; text: string }

/** The same format as one of the grammars that an engine compiles. */
export function grammarOf(format: OutputFormat): Grammar {
  switch (format.kind) {
    case 'json_object':
      return { kind: 'json_schema', text: '{"type":"object"}' }
    case 'json_schema':
      return { kind: 'json_schema', text: JSON.stringify(format.schema ?? { type: 'object' }) }
    case 'json':
      return { kind: 'json_schema', text: JSON.stringify(format.schema) }
    case 'regex':
      return { kind: 'regex', text: format.pattern }
    case 'choice':
      // A string of Lark's is one of JSON's.
      return { kind: 'lark', text: `start: ${format.choices.map((choice) => JSON.stringify(choice)).join(' | ')}` }
    case 'grammar':
      return { kind: 'lark', text: format.text }
    default:
      return format satisfies never
  }
}
