// What a command is. Owns the types that nouns/ are written with; finding one is parse.ts, running one main.ts. A command is data
// and one function, so that help, completions, the page in docs/ and the parser cannot disagree.
import type { Context } from './context.ts'

export type Flag = {
  type: 'string' | 'boolean'
  help: string
  /** What stands for the value in a help text, e.g. `USD`. For `string`. */
  value?: string
  /** The only values there are; anything else is a mistake. */
  choices?: readonly string[]
  multiple?: boolean
  required?: boolean
}

export type Positional = { name: string; help: string; optional?: boolean; variadic?: boolean }

export type Example = { line: string; what: string }

export type Values = Readonly<Record<string, string | boolean | string[] | undefined>>

export type Arguments = {
  /** By name; absent where optional and not given. */
  positionals: Readonly<Record<string, string>>
  /** What a variadic positional took. */
  rest: readonly string[]
  flags: Values
}

export type Command = {
  /** `['keys', 'create']`; one word for a command without a noun. */
  path: readonly string[]
  summary: string
  /** More of it, for its help. */
  details?: string
  positionals?: readonly Positional[]
  flags?: Readonly<Record<string, Flag>>
  examples: readonly Example[]
  /** Changes something: takes --dry-run. */
  changes?: boolean
  /** Takes something away that does not come back: asks, or takes --yes. */
  destroys?: boolean
  /** Talks to no gateway: takes no --url. */
  isLocal?: boolean
  /** Gets all words behind its name as `rest`, flags too: they are another program's. */
  passesOn?: boolean
  run: (context: Context, args: Arguments) => Promise<Outcome>
}

/** What a command leaves behind. `undefined`: it has said everything itself, as a stream does. */
export type Outcome =
  | {
      /** Of the JSON form. Never changes its meaning; fields may be added. */
      data: unknown
      /** What a person reads. */
      lines: string[]
      /** Of a page that is not the last. */
      nextCursor?: string | undefined
      /** Default: 0. */
      exitCode?: number
      /** Somebody else has said everything. */
      isSilent?: boolean
    }
  | undefined

/** A string flag, or absent. */
export function text(args: Arguments, name: string): string | undefined {
  const value = args.flags[name]
  return typeof value === 'string' ? value : undefined
}

export const isSet = (args: Arguments, name: string): boolean => args.flags[name] === true

export function texts(args: Arguments, name: string): readonly string[] {
  const value = args.flags[name]
  return Array.isArray(value) ? value : []
}

/** A required positional: the parser has made sure of it. */
export const positional = (args: Arguments, name: string): string => args.positionals[name] ?? ''
