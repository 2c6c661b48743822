// The tables of docs/providers.md, made of the promises that the suite checks. Owns their form and their places in the text:
// between two marks each. Pure.
import { PROVIDER_KINDS } from '../../gateway/providers/kinds.ts'
import { PRESET_NAMES } from '../../gateway/providers/presets.ts'
import { registrationOf } from '../../gateway/providers/registration.ts'
import { vendorOf } from '../../gateway/providers/vendors.ts'
import type { AnswerPart } from '../../gateway/stream/collect.ts'
import { type FeatureName, featuresOf } from './features.ts'
import type { Answer, Claim, Promised } from './promise.ts'
import { fleet } from './vendors/fleet.ts'

const WORDS: Record<Claim['is'], string> = {
  honoured: 'yes',
  translated: 'translated',
  left_out: 'left out',
  refused: 'refused',
}

/** The text with its tables as the promises are now. @throws Error where a mark is missing. */
export function withTables(text: string, providers: readonly Promised[]): string {
  const kinds = providers.filter(({ preset }) => preset === undefined)
  const presets = providers.filter(({ preset }) => preset !== undefined)
  return [
    ['kinds', kindTable()],
    ['presets by address', presetTable()],
    ['features', featureTable([...kinds, fleet])],
    ['presets', featureTable(presets)],
    ['errors', errorTable(kinds)],
    ['answers', answerTable(providers)],
  ].reduce((whole, [name = '', table = '']) => between(whole, name, table), text)
}

function between(text: string, name: string, table: string): string {
  const [begin, end] = [`<!-- ${name}: npm run docs:providers -->`, `<!-- /${name} -->`]
  const [from, to] = [text.indexOf(begin), text.indexOf(end)]
  if (from < 0 || to < from) throw new Error(`docs/providers.md has no place for ${name}`)
  return `${text.slice(0, from + begin.length)}\n${table}\n${text.slice(to)}`
}

const row = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`
const table = (head: readonly string[], rows: readonly string[][]): string =>
  [row(head), row(head.map(() => '---')), ...rows.map(row)].join('\n')

const code = (text: string): string => `\`${text}\``
/** For options that an address is made of. */
const SAMPLE = { region: '{region}' }
const OPTION_NAMES = {
  region: 'region',
  apiVersion: 'api_version',
  api: 'api',
  reasoningSummary: 'reasoning_summary',
} as const

/** What the admin API asks of each kind. */
function kindTable(): string {
  const rows = PROVIDER_KINDS.map((kind) => {
    const { baseUrl, options, required, usageDialect, secret } = registrationOf(kind, undefined)
    const address = baseUrl(SAMPLE)
    const taken = options.map((name) => code(OPTION_NAMES[name]) + (required.includes(name) ? ' (required)' : ''))
    return [
      code(kind),
      address === undefined ? 'required' : code(address),
      [...taken, code('headers')].join(', '),
      code(usageDialect),
      vendorOf(kind).countTokens === undefined ? '' : 'yes',
      secret.words.replace(/^must be /, ''),
    ]
  })
  return table(['`kind`', 'default `base_url`', '`options`', 'usage read as', 'counts prompts', '`secret`'], rows)
}

function presetTable(): string {
  const rows = PRESET_NAMES.map((preset) => {
    const { baseUrl, usageDialect } = registrationOf('openai_compatible', preset)
    const address = baseUrl({})
    return [code(preset), address === undefined ? 'required' : code(address), code(usageDialect)]
  })
  return table(['`preset`', 'default `base_url`', 'usage read as'], rows)
}

/** One row a feature, one column a provider, notes below. */
function featureTable(providers: readonly Pick<Promised, 'title' | 'claims'>[]): string {
  if (providers.length === 0) return ''
  const notes: string[] = []
  const mark = (note: string): string => {
    const at = notes.indexOf(note)
    return String(at >= 0 ? at + 1 : notes.push(note))
  }
  const cell = (claim: Claim): string =>
    claim.note === undefined ? WORDS[claim.is] : `${WORDS[claim.is]} [${mark(claim.note)}]`
  const features = Object.entries(featuresOf({ by: '', value: '' })) as [FeatureName, { title: string }][]
  const rows = features.map(([name, { title }]) => [title, ...providers.map(({ claims }) => cell(claims[name]))])
  const lines = notes.map((note, at) => `${at + 1}. ${note}`)
  return [
    table(['', ...providers.map(({ title }) => title)], rows),
    ...(lines.length === 0 ? [] : ['', ...lines]),
  ].join('\n')
}

function errorTable(providers: readonly Promised[]): string {
  const rows = providers.flatMap(({ title, errors }) =>
    errors.map(({ fixture, code, kind, retryAfterMs }) => [
      title,
      causeOf(fixture).replace(/^error /, ''),
      `\`${code}\``,
      `\`${kind}\``,
      retryAfterMs === undefined ? '' : `${retryAfterMs / 1000} s`,
    ]),
  )
  return table(['', 'recorded error', 'code', 'seen by routing as', 'waits'], rows)
}

/** What was seen in the recorded answers, and which those are. */
function answerTable(providers: readonly Promised[]): string {
  const seen = (answers: readonly Answer[], isIn: (answer: Answer) => boolean): string =>
    answers.some(isIn) ? 'yes' : ''
  const hasPart = (answer: Answer, type: AnswerPart['type'], isSealed = false): boolean =>
    (answer.choices ?? []).some(({ parts }) =>
      parts.some((part) => part.type === type && (!isSealed || ('seal' in part && part.seal !== undefined))),
    )
  return table(
    [
      '',
      'thoughts',
      'their proofs',
      'refusals',
      'stop string named',
      'cached tokens',
      'reasoning tokens',
      'recorded answers',
    ],
    providers.map(({ title, answers }) => [
      title,
      seen(answers, (answer) => hasPart(answer, 'thought')),
      seen(answers, (answer) => hasPart(answer, 'thought', true) || hasPart(answer, 'tool_call', true)),
      seen(
        answers,
        (answer) => hasPart(answer, 'refusal') || answer.choices?.some(({ refusal }) => refusal !== undefined) === true,
      ),
      seen(answers, ({ choices = [] }) => choices.some(({ stopString }) => stopString !== undefined)),
      seen(answers, ({ usage }) => (usage?.inputCacheRead ?? 0) > 0),
      seen(answers, ({ usage }) => (usage?.outputReasoning ?? 0) > 0),
      answers.map(({ fixture }) => causeOf(fixture)).join(', '),
    ]),
  )
}

/** A recording is named by its cause. */
const causeOf = (fixture: string): string => fixture.replace(/\.http$/, '').replaceAll('-', ' ')
