// Fleet: the own machines, live. Owns the figures over all and by role, which workers are shown, and how; one worker is
// fleet/worker.tsx, how the page hears of them fleet/live.ts.
import { useState } from 'preact/hooks'
import { bytes, count, countShort, percent } from '../app/format.ts'
import type { PageProps } from '../app/pages.ts'
import { href } from '../app/router.ts'
import { oneOf, optionalText, wholeNumber } from '../app/url-state.ts'
import { useUrlState } from '../app/use-url.ts'
import type { Backend, EngineRole } from '../app/wire-admin.ts'
import { Status } from '../parts/badge.tsx'
import { Segments, Select, TextField } from '../parts/field.tsx'
import { Icon } from '../parts/icon.tsx'
import { Meter, MeterLine } from '../parts/meter.tsx'
import { Card, Columns, Page } from '../parts/page.tsx'
import { Empty, Failure, Note, Skeleton } from '../parts/states.tsx'
import { Tile, Tiles } from '../parts/tile.tsx'
import { EnrolDialog } from './fleet/enrol.tsx'
import {
  cachedOnly,
  isReporting,
  loadOf,
  macs,
  ROLE_ABOUT,
  ROLE_WORDS,
  ROLES,
  STATE_WORDS,
  share,
} from './fleet/figures.ts'
import { type History, line } from './fleet/history.ts'
import { type FleetLink, useFleet } from './fleet/live.ts'
import { EnginesTable } from './fleet/table.tsx'
import { Worker, workerName } from './fleet/worker.tsx'

const FILTERS = {
  q: optionalText,
  role: oneOf(['any', 'prefill', 'decode', 'both'] as const, 'any'),
  state: oneOf(['any', 'live', 'draining', 'stale', 'absent'] as const, 'any'),
  view: oneOf(['cards', 'table'] as const, 'cards'),
  at: wholeNumber(0, 0, 1_000_000),
}
/** Cards on the screen at once: each is drawn anew each second. */
const CARDS = 20

const LINKS: Readonly<Record<FleetLink, { kind: 'good' | 'warning' | 'danger' | 'neutral'; words: string }>> = {
  connecting: { kind: 'neutral', words: 'Connecting…' },
  live: { kind: 'good', words: 'Live' },
  polling: { kind: 'warning', words: 'Every 3 s' },
  lost: { kind: 'danger', words: 'No answer' },
}

export default function FleetPage({ rest }: PageProps) {
  const fleet = useFleet()
  const [isEnrolling, setEnrolling] = useState(false)
  const link = LINKS[fleet.link]
  const one = rest[0]
  return (
    <Page
      title="Fleet"
      about="Own machines: what they run, how full they are, and how near they come to what their memory and arithmetic can do."
      actions={
        <>
          <Status kind={link.kind}>{link.words}</Status>
          <button type="button" class="button button-primary" onClick={() => setEnrolling(true)}>
            <Icon name="plus" />
            Add worker
          </button>
        </>
      }
    >
      {fleet.error !== undefined && <Failure error={fleet.error} onRetry={fleet.reload} />}
      {fleet.backends === undefined ? (
        fleet.error === undefined && (
          <>
            <Skeleton rows={1} height={104} />
            <Skeleton rows={1} height={148} />
            <Skeleton rows={2} height={260} />
          </>
        )
      ) : fleet.backends.length === 0 ? (
        <Card>
          <Empty title="No worker yet" icon="fleet">
            Requests of models with the target “fleet” need one. “Add worker” makes a token that enrols it.
          </Empty>
        </Card>
      ) : (
        <>
          {one === undefined && <Headline backends={fleet.backends} history={fleet.history} />}
          {one === undefined && <ByRole backends={fleet.backends} />}
          <Workers
            backends={fleet.backends}
            history={fleet.history}
            receivedAtMs={fleet.receivedAtMs}
            one={one}
            onChanged={fleet.link === 'live' ? () => undefined : fleet.reload}
          />
        </>
      )}
      {isEnrolling && <EnrolDialog onClose={() => setEnrolling(false)} />}
    </Page>
  )
}

function Headline({ backends, history }: { backends: readonly Backend[]; history: History }) {
  const reporting = backends.filter(isReporting)
  const load = loadOf(reporting.flatMap(({ models }) => models))
  const others = (['draining', 'stale', 'absent'] as const).flatMap((state) => {
    const workers = backends.filter((backend) => backend.state === state).length
    return workers === 0 ? [] : [`${count(workers)} ${STATE_WORDS[state].toLowerCase()}`]
  })
  const live = backends.filter(({ state }) => state === 'live').length
  const cached = share(cachedOnly(load.kvUsed, load.kvCached, load.kvTotal), load.kvTotal)
  return (
    <div class="fleet-tiles">
      <Tiles>
        <Tile
          label="Workers live"
          value={`${count(live)} of ${count(backends.length)}`}
          note={others.length === 0 ? `${count(load.engines)} engines` : others.join(', ')}
        />
        <Tile
          label="Running"
          value={count(load.running)}
          trend={line(history, ({ all }) => all.running)}
          note={`of ${count(load.runningMax)} at a time`}
        />
        <Tile
          label="Waiting"
          value={count(load.queued)}
          trend={line(history, ({ all }) => all.queued)}
          note={`${countShort(load.prefillTokensQueued)} prompt tokens ahead`}
        />
        <Tile
          label="K and V held"
          value={percent(share(load.kvUsed, load.kvTotal))}
          trend={line(history, ({ all }) => all.kv)}
          note={`${percent(cached)} cached, room for ${countShort(load.kvTokensTotal)} tokens`}
        />
        <Tile
          label="Memory bandwidth"
          value={load.bandwidth === undefined ? '–' : percent(share(load.bandwidth, load.bandwidthMax ?? 0))}
          trend={line(history, ({ all }) => all.bandwidth)}
          note={
            load.bandwidth === undefined
              ? 'idle, or not measured'
              : `${bytes(load.bandwidth)} of ${bytes(load.bandwidthMax ?? 0)}/s`
          }
        />
        <Tile
          label="Arithmetic"
          value={load.arithmetic === undefined ? '–' : percent(share(load.arithmetic, load.arithmeticMax ?? 0))}
          trend={line(history, ({ all }) => all.arithmetic)}
          note={
            load.arithmetic === undefined
              ? 'no prompts of late, or not measured'
              : `${macs(load.arithmetic)} of ${macs(load.arithmeticMax ?? 0)}`
          }
        />
      </Tiles>
    </div>
  )
}

function ByRole({ backends }: { backends: readonly Backend[] }) {
  const engines = backends.filter(isReporting).flatMap(({ models }) => models)
  const roles = ROLES.filter((role) => engines.some((engine) => engine.role === role))
  if (roles.length === 0) return null
  return (
    <Columns>
      {roles.map((role) => (
        <RoleCard key={role} role={role} load={loadOf(engines.filter((engine) => engine.role === role))} />
      ))}
    </Columns>
  )
}

function RoleCard({ role, load }: { role: EngineRole; load: ReturnType<typeof loadOf> }) {
  const kv = share(load.kvUsed, load.kvTotal)
  return (
    <Card
      title={`${ROLE_WORDS[role]} · ${count(load.engines)} ${load.engines === 1 ? 'engine' : 'engines'}`}
      about={ROLE_ABOUT[role]}
      actions={
        load.reservations > 0 ? (
          <span class="muted small">{count(load.reservations)} transfers reserved</span>
        ) : undefined
      }
    >
      <div class="role-meters">
        <MeterLine name="Running" text={`${count(load.running)} of ${count(load.runningMax)}`}>
          <Meter
            label={`Running in ${role} engines`}
            used={share(load.running, load.runningMax)}
            text={`${load.running} of ${load.runningMax}`}
          />
        </MeterLine>
        <MeterLine name="Queue" text={`${count(load.queued)} of ${count(load.queuedMax)}`}>
          <Meter
            label={`Queue of ${role} engines`}
            used={share(load.queued, load.queuedMax)}
            text={`${load.queued} of ${load.queuedMax}`}
            warnAt={0.5}
          />
        </MeterLine>
        <MeterLine name="K and V" text={`${percent(kv)} of ${countShort(load.kvTokensTotal)} tokens`}>
          <Meter
            label={`K and V of ${role} engines`}
            used={kv}
            held={share(cachedOnly(load.kvUsed, load.kvCached, load.kvTotal), load.kvTotal)}
            text={percent(kv)}
            warnAt={0.9}
          />
        </MeterLine>
      </div>
    </Card>
  )
}

function Workers({
  backends,
  history,
  receivedAtMs,
  one,
  onChanged,
}: {
  backends: readonly Backend[]
  history: History
  receivedAtMs: number
  one: string | undefined
  onChanged: () => void
}) {
  const [filters, setFilters] = useUrlState(FILTERS)
  const cards = (shown: readonly Backend[]) =>
    shown.map((backend) => (
      <Worker
        key={backend.id}
        backend={backend}
        backends={backends}
        history={history}
        receivedAtMs={receivedAtMs}
        onChanged={onChanged}
      />
    ))
  if (one !== undefined) {
    const found = backends.filter(({ id }) => id === one)
    return (
      <>
        <p>
          <a href={href('/fleet')}>← All workers</a>
        </p>
        {found.length === 0 ? (
          <Note kind="warning">There is no worker {one}: it was removed, or never enrolled.</Note>
        ) : (
          cards(found)
        )}
      </>
    )
  }
  const asked = filters.q?.toLowerCase()
  const shown = backends.filter(
    (backend) =>
      (filters.state === 'any' || backend.state === filters.state) &&
      (filters.role === 'any' || backend.models.some(({ role }) => role === filters.role)) &&
      (asked === undefined ||
        `${workerName(backend)} ${backend.id} ${backend.url} ${backend.models.map(({ model }) => model).join(' ')}`
          .toLowerCase()
          .includes(asked)),
  )
  const from = Math.min(filters.at, Math.max(0, Math.ceil(shown.length / CARDS) - 1)) * CARDS
  return (
    <>
      <div class="workers-bar">
        <div class="filters">
          <TextField
            label="Search"
            type="search"
            value={filters.q ?? ''}
            placeholder="Label, model, id"
            onInput={(q) => setFilters({ q, at: 0 }, { replace: true })}
          />
          <LabelledSelect
            label="Role"
            value={filters.role}
            onChange={(role) => setFilters({ role, at: 0 })}
            choices={[
              { value: 'any', label: 'Any role' },
              ...ROLES.map((role) => ({ value: role, label: ROLE_WORDS[role] })),
            ]}
          />
          <LabelledSelect
            label="State"
            value={filters.state}
            onChange={(state) => setFilters({ state, at: 0 })}
            choices={[
              { value: 'any', label: 'Any state' },
              ...(['live', 'draining', 'stale', 'absent'] as const).map((state) => ({
                value: state,
                label: STATE_WORDS[state],
              })),
            ]}
          />
        </div>
        <Segments
          label="View"
          value={filters.view}
          onChange={(view) => setFilters({ view })}
          choices={[
            { value: 'cards', label: 'Cards' },
            { value: 'table', label: 'Table' },
          ]}
        />
      </div>
      {shown.length === 0 ? (
        <Card>
          <Empty title="No worker matches" icon="fleet">
            Change the filters.
          </Empty>
        </Card>
      ) : filters.view === 'table' ? (
        <Card flush>
          <EnginesTable backends={shown} />
        </Card>
      ) : (
        <>
          {cards(shown.slice(from, from + CARDS))}
          {shown.length > CARDS && (
            <nav class="pager" aria-label="Pages of workers">
              <span class="muted">
                {count(from + 1)}–{count(Math.min(from + CARDS, shown.length))} of {count(shown.length)}
              </span>
              <span class="pager-buttons">
                <button
                  type="button"
                  class="button button-small"
                  disabled={from === 0}
                  onClick={() => setFilters({ at: from / CARDS - 1 })}
                >
                  <Icon name="left" />
                  Previous
                </button>
                <button
                  type="button"
                  class="button button-small"
                  disabled={from + CARDS >= shown.length}
                  onClick={() => setFilters({ at: from / CARDS + 1 })}
                >
                  Next
                  <Icon name="right" />
                </button>
              </span>
            </nav>
          )}
        </>
      )}
    </>
  )
}

function LabelledSelect<W extends string>(props: {
  label: string
  value: W
  onChange: (value: W) => void
  choices: readonly { value: W; label: string }[]
}) {
  return (
    <div class="field">
      <span class="field-label" aria-hidden="true">
        {props.label}
      </span>
      <Select aria-label={props.label} value={props.value} onChange={props.onChange} choices={props.choices} />
    </div>
  )
}
