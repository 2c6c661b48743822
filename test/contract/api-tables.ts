// The tables of docs/api.md, made of what the routes do with each published parameter. Owns their form and their places in the
// text: between two marks each. Pure.
import { type FieldOutcome, outcomesOf, ROUTES } from './fields.ts'

const WORDS: Record<FieldOutcome['outcome'], string> = {
  acts: 'yes',
  accepted: 'accepted, without effect',
  refused: '400',
}

/** The text with its tables as the routes are now. @throws Error where a mark is missing. */
export function withFieldTables(text: string): string {
  return ROUTES.reduce((whole, route) => between(whole, route.name, tableOf(outcomesOf(route))), text)
}

function tableOf(outcomes: readonly FieldOutcome[]): string {
  const rows = outcomes.map(({ field, asks, outcome }) => {
    const name = asks === undefined ? `\`${field}\`` : `\`${field}\`: ${asks}`
    return `| ${name} | ${WORDS[outcome]} |`
  })
  return ['| parameter | |', '| --- | --- |', ...rows].join('\n')
}

function between(text: string, name: string, table: string): string {
  const [begin, end] = [`<!-- ${name}: npm run docs:providers -->`, `<!-- /${name} -->`]
  const [from, to] = [text.indexOf(begin), text.indexOf(end)]
  if (from < 0 || to < from) throw new Error(`docs/api.md has no place for ${name}`)
  return `${text.slice(0, from + begin.length)}\n\n${table}\n\n${text.slice(to)}`
}
