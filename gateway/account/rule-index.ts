// The rules of an organisation, found by whom they apply to. Owns the choice of rules for one caller and model; a
// look-up costs what applies and not what there is. Pure.
import type { Subject } from './contract.ts'
import {
  type ConcurrencyLimit,
  type CountedLimit,
  type CountedMeter,
  type CreditTerms,
  creditSeries,
  EACH,
  LIMIT_SCOPES,
  type LimitScope,
  type LimitWindow,
  type RuleBook,
  seriesOf,
} from './limit.ts'

/** What one or more rules count. */
export type Series = {
  name: string
  scope: LimitScope
  /** An id, or EACH. */
  scopeId: string
  meter: CountedMeter
  window: LimitWindow
  timeZone: string
  model?: string | undefined
}

/** A rule that counts, as one caller meets it. */
export type Gauge = {
  series: Series
  /** The caller's id at the rule's scope. */
  subject: string
  /** In the meter's units. */
  max: bigint
  hard: boolean
  rule: { limit: CountedLimit } | { credit: CreditTerms }
}

/** Where running requests are counted, as one caller meets it. */
export type Place = { name: string; subject: string; limit: ConcurrencyLimit }

export type Applying = {
  /** In the order of the book; credit last. */
  gauges: Gauge[]
  places: Place[]
  /** The series of the gauges, each once. */
  counted: { series: Series; subject: string }[]
}

type Entry =
  | { position: number; limit: CountedLimit; series: Series }
  | { position: number; limit: ConcurrencyLimit; place: string }

/** The id a caller has at a scope; absent where the scope does not apply. */
export function subjectAt(scope: LimitScope, of: Subject): string | undefined {
  switch (scope) {
    case 'org':
      return of.orgId
    case 'project':
      return of.projectId
    case 'team':
      return of.teamId
    case 'user':
      return of.userId
    case 'key':
      return of.keyLineId ?? of.keyId
    case 'end_user':
      return of.endUser
    default:
      return scope satisfies never
  }
}

export const maxOf = (limit: CountedLimit): bigint => (limit.meter === 'money' ? limit.maxNanoUsd : BigInt(limit.max))

/** Some kilobytes each. */
const CALLERS_KEPT = 1_000

export class RuleIndex {
  readonly version: number
  readonly #entries = new Map<string, Entry[]>()
  readonly #credit: { terms: CreditTerms; series: Series } | undefined
  readonly #series = new Map<string, Series>()
  /** Answers: each attempt asks several times, and most of the traffic comes from few callers. */
  readonly #callers = new Map<string, Applying>()

  /** @param orgId Whose book it is. */
  constructor(book: RuleBook, orgId: string) {
    this.version = book.version
    for (const [position, limit] of book.limits.entries()) {
      const entry =
        limit.meter === 'concurrency' ? { position, limit, place: placeOf(limit) } : this.#counted(position, limit)
      const at = `${limit.scope}/${limit.scopeId}`
      const known = this.#entries.get(at)
      if (known === undefined) this.#entries.set(at, [entry])
      else known.push(entry)
    }
    if (book.credit !== undefined) {
      const series = this.#shared(creditSeries(orgId))
      this.#credit = { terms: book.credit, series }
    }
  }

  /** Whether any rule counts under this name. */
  has(series: string): boolean {
    return this.#series.has(series)
  }

  /** Every limit with what it counts, in the order of the book. */
  all(): readonly Entry[] {
    return [...this.#entries.values()].flat().sort((a, b) => a.position - b.position)
  }

  /** What applies to a caller that asks for a model. The answer is shared: it is not to be changed. */
  applying(subject: Subject, model: string): Applying {
    const { projectId, userId = '', teamId = '', endUser = '' } = subject
    const lineId = subjectAt('key', subject)
    // The end user comes last, because it may hold anything.
    const caller = `${projectId}|${lineId}|${userId}|${teamId}|${model}|${endUser}`
    const known = this.#callers.get(caller)
    if (known !== undefined) return known
    if (this.#callers.size >= CALLERS_KEPT) this.#callers.clear()
    const found = this.#find(subject, model)
    this.#callers.set(caller, found)
    return found
  }

  #find(subject: Subject, model: string): Applying {
    const found: { entry: Entry; subject: string }[] = []
    for (const scope of LIMIT_SCOPES) {
      const id = subjectAt(scope, subject)
      if (id === undefined) continue
      // An end user may call itself like the wildcard.
      for (const scopeId of id === EACH ? [EACH] : [id, EACH])
        for (const entry of this.#entries.get(`${scope}/${scopeId}`) ?? [])
          if (entry.limit.model === undefined || entry.limit.model === model) found.push({ entry, subject: id })
    }
    found.sort((a, b) => a.entry.position - b.entry.position)
    const gauges: Gauge[] = []
    const places: Place[] = []
    for (const { entry, subject: id } of found) {
      if ('place' in entry) {
        places.push({ name: entry.place, subject: id, limit: entry.limit })
      } else {
        const { limit, series } = entry
        gauges.push({ series, subject: id, max: maxOf(limit), hard: limit.hard, rule: { limit } })
      }
    }
    if (this.#credit !== undefined) {
      const { terms, series } = this.#credit
      const max = terms.grantedNanoUsd + terms.overdraftNanoUsd
      gauges.push({ series, subject: subject.orgId, max, hard: true, rule: { credit: terms } })
    }
    const counted = new Map(gauges.map(({ series, subject: id }) => [series.name, { series, subject: id }]))
    return { gauges, places, counted: [...counted.values()] }
  }

  #counted(position: number, limit: CountedLimit): Entry {
    const { scope, scopeId, meter, window, timeZone, model } = limit
    return { position, limit, series: this.#shared({ scope, scopeId, meter, window, timeZone, model }) }
  }

  /** Rules that count the same thing share one series. */
  #shared(of: Omit<Series, 'name'>): Series {
    const name = seriesOf(of)
    const known = this.#series.get(name)
    if (known !== undefined) return known
    const made = { name, ...of }
    this.#series.set(name, made)
    return made
  }
}

/** Rules of the same scope and model count the same running requests. */
const placeOf = ({ scope, scopeId, model }: ConcurrencyLimit): string => `${scope}|${scopeId}|${model ?? ''}`
