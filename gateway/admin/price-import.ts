// Prices from a file into the book. Owns the comparison with what is in force and the one batch that writes what differs;
// run dry, it answers the same and writes nothing. A file may name the past (its prices begin now) and what has ended by
// then (left out), so that it can be imported again at any later time.
import { connect } from '../db/connect.ts'
import { QueryFailed, UNIQUE_VIOLATION } from '../db/port.ts'
import { forgetCatalog } from '../policy/catalog.ts'
import { priceKey } from '../policy/price-book.ts'
import { audited } from './audit.ts'
import { type AdminContext, conflict } from './context.ts'
import { readInput } from './input.ts'
import { ImportInput, pricesDifference, pricesOf, pricesView } from './price-form.ts'
import {
  findKnown,
  judge,
  type KnownVersions,
  type NewVersion,
  type VersionRow,
  versionStatements,
  type Wanted,
} from './price-versions.ts'

/** Two hundred entries in all parts and tiers. */
const IMPORT_BYTES_MAX = 1024 * 1024

type Item = { wanted: Wanted; path: string }

/** POST /prices/import. Safe to repeat: what is in force already is left as it is. @throws Refusal */
export async function importPrices(c: AdminContext) {
  const input = await readInput(c, ImportInput, IMPORT_BYTES_MAX)
  const nowMs = Date.now()
  const items = itemsOf(input)
  const live = items.filter((item) => !hasEnded(item, items, nowMs)).map((item) => fromNowOn(item, nowMs))
  const database = connect(c.env)
  const known = await findKnown(
    database,
    live.map(({ wanted }) => wanted),
    nowMs,
  )
  const fresh = live.flatMap(({ wanted, path }) => {
    const verdict = judge(wanted, known, nowMs, path)
    if (verdict.kind === 'unchanged') return []
    remember(known, verdict)
    return [verdict]
  })

  const added = fresh
    .filter(({ before }) => before === undefined)
    .map(({ row, prices }) => ({ ...nameOf(row), ...pricesView(prices) }))
  const changed = fresh.flatMap(({ row, prices, before }) =>
    before === undefined
      ? []
      : [{ ...nameOf(row), replaces: before.quote.priceVersionId, ...pricesDifference(before.quote, prices) }],
  )
  const [first] = fresh
  if (!input.dry_run && first !== undefined) {
    const { source, source_date } = input
    const details = { source, source_date, versions: fresh.map(({ row }) => nameOf(row)) }
    try {
      await database.batch([
        ...versionStatements(fresh),
        audited(c, { action: 'price.import', objectId: first.row.priceVersionId, details }),
      ])
    } catch (error) {
      if (!(error instanceof QueryFailed) || error.sqlState !== UNIQUE_VIOLATION) throw error
      throw conflict('The price book was changed at the same time; nothing was imported. Repeat the call.')
    } finally {
      forgetCatalog()
    }
  }
  const counts = { unchanged: live.length - fresh.length, ended: items.length - live.length }
  return c.json({ dry_run: input.dry_run, added, changed, ...counts })
}

function itemsOf(input: ImportInput): Item[] {
  return input.entries.map((entry, index) => ({
    path: `entries[${index}].`,
    wanted: {
      provider: entry.provider,
      model: entry.model,
      serviceTier: entry.service_tier,
      effectiveFrom: entry.effective_from,
      effectiveTo: entry.effective_to,
      prices: pricesOf(entry),
      source: entry.source ?? input.source,
      sourceDate: entry.source_date ?? input.source_date,
      supersede: input.supersede,
    },
  }))
}

/** Over by its own end, or by a later entry of the same price that has begun. */
function hasEnded({ wanted }: Item, all: readonly Item[], nowMs: number): boolean {
  if (wanted.effectiveTo !== undefined && Date.parse(wanted.effectiveTo) <= nowMs) return true
  const from = wanted.effectiveFrom ?? ''
  return all.some(({ wanted: other }) => {
    const begins = other.effectiveFrom
    return begins !== undefined && begins > from && Date.parse(begins) <= nowMs && priceKey(other) === priceKey(wanted)
  })
}

function fromNowOn({ wanted, path }: Item, nowMs: number): Item {
  const { effectiveFrom } = wanted
  const isPast = effectiveFrom !== undefined && Date.parse(effectiveFrom) <= nowMs
  return { path, wanted: isPast ? { ...wanted, effectiveFrom: undefined } : wanted }
}

/** A version of this import stands in the way of the next ones like any other. */
function remember(known: KnownVersions, { row, prices }: NewVersion): void {
  const key = priceKey(row)
  const version = {
    effectiveFromMs: Date.parse(row.effectiveFrom),
    ...(row.effectiveTo === null ? {} : { effectiveToMs: Date.parse(row.effectiveTo) }),
    quote: { priceVersionId: row.priceVersionId, ...prices },
  }
  const versions = [...(known.get(key) ?? []), version]
  known.set(
    key,
    versions.sort((a, b) => a.effectiveFromMs - b.effectiveFromMs),
  )
}

const nameOf = (row: VersionRow) => ({
  id: row.priceVersionId,
  provider: row.provider,
  model: row.model,
  service_tier: row.serviceTier,
  effective_from: row.effectiveFrom,
  ...(row.effectiveTo === null ? {} : { effective_to: row.effectiveTo }),
})
