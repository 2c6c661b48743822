// Limits and budgets: what may be used, what is used of it, what running requests hold, and where the period ends at this pace. Owns the
// page; one limit's bar is limits/bar.tsx, the set of a place limits/editor.tsx, what was passed or refused limits/events.tsx.
import { useState } from 'preact/hooks'
import { api } from '../app/api.ts'
import { usd } from '../app/format.ts'
import { fullness, METER_WORDS, SCOPE_WORDS } from '../app/limit-words.ts'
import { useLoad } from '../app/load.ts'
import { can, orgId } from '../app/session.ts'
import { oneOf, optionalText } from '../app/url-state.ts'
import { useUrlState, zoneNow } from '../app/use-url.ts'
import type { LimitMeter, LimitScope, LimitState, LimitsState } from '../app/wire-admin.ts'
import { Select } from '../parts/field.tsx'
import { Icon } from '../parts/icon.tsx'
import { Card, Page } from '../parts/page.tsx'
import { Empty, Note, Show, Skeleton } from '../parts/states.tsx'
import { LimitBar } from './limits/bar.tsx'
import { LimitEditor, type Place } from './limits/editor.tsx'
import { LimitEventList } from './limits/events.tsx'

const REFRESH_MS = 5_000
const SCOPES = ['org', 'project', 'team', 'user', 'key', 'end_user'] as const
const METERS = ['money', 'requests', 'input_tokens', 'output_tokens', 'concurrency'] as const
const FILTERS = {
  scope: oneOf(['', ...SCOPES] as const, ''),
  meter: oneOf(['', ...METERS] as const, ''),
  /** Where others link to: the limits of one key or project. */
  key: optionalText,
  project: optionalText,
}

export default function LimitsPage() {
  const org = orgId.value
  const [filters, setFilters] = useUrlState(FILTERS)
  const [edited, setEdited] = useState<Place | undefined>()
  const zone = zoneNow()
  const state = useLoad(
    `limits ${org}`,
    (signal) => api.get<LimitsState>(`/organisations/${org}/limits/state`, {}, signal),
    { everyMs: REFRESH_MS },
  )
  const subject: Place | undefined =
    filters.key !== undefined
      ? { scope: 'key', id: filters.key }
      : filters.project !== undefined
        ? { scope: 'project', id: filters.project }
        : undefined
  const matches = (one: LimitState) =>
    (filters.scope === '' || one.scope === filters.scope) &&
    (filters.meter === '' || one.meter === filters.meter) &&
    (subject === undefined ||
      (one.scope === subject.scope &&
        (one.subject === subject.id || one.scope_id === subject.id || one.scope_id === '*')))

  return (
    <Page
      title="Limits & budgets"
      about="All that apply must pass. Money is held before anything is sent, so a budget is never overrun."
      actions={
        can('limits.write') && (
          <button
            type="button"
            class="button button-primary"
            onClick={() => setEdited(subject ?? { scope: 'org', id: org ?? '' })}
          >
            <Icon name="plus" />
            Set limits
          </button>
        )
      }
    >
      <div class="filters">
        <div class="field">
          <span class="field-label" aria-hidden="true">
            Of
          </span>
          <Select<LimitScope | ''>
            aria-label="Of"
            value={filters.scope}
            onChange={(scope) => setFilters({ scope })}
            choices={[
              { value: '', label: 'Everybody' },
              ...SCOPES.map((value) => ({ value, label: `The ${SCOPE_WORDS[value]}` })),
            ]}
          />
        </div>
        <div class="field">
          <span class="field-label" aria-hidden="true">
            What
          </span>
          <Select<LimitMeter | ''>
            aria-label="What"
            value={filters.meter}
            onChange={(meter) => setFilters({ meter })}
            choices={[
              { value: '', label: 'Everything' },
              ...METERS.map((value) => ({ value, label: METER_WORDS[value] })),
            ]}
          />
        </div>
        {subject !== undefined && (
          <button
            type="button"
            class="button button-small"
            onClick={() => setFilters({ key: undefined, project: undefined })}
          >
            Show all limits
          </button>
        )}
      </div>
      <Show of={state} skeleton={<Skeleton rows={6} height={48} />}>
        {({ data, names, held_nanousd: held, truncated, rules_version: version }) => {
          const shown = data.filter(matches).sort((a, b) => fullness(b) - fullness(a))
          const groups = METERS.map((meter) => ({ meter, limits: shown.filter((one) => one.meter === meter) }))
          return (
            <div class="stack">
              {BigInt(held) > 0n && (
                <Note>Running requests hold {usd(BigInt(held))}. What they do not use comes back when they end.</Note>
              )}
              {truncated && <Note>Of limits that each subject has for itself, only the fullest are shown.</Note>}
              {shown.length === 0 && (
                <Card>
                  <Empty title={data.length === 0 ? 'No limits' : 'No limit matches'} icon="limits">
                    {version === null
                      ? 'The account has read none yet: they are there with its first request.'
                      : 'Without one, a key may use what its organisation may owe.'}
                  </Empty>
                </Card>
              )}
              {groups
                .filter(({ limits }) => limits.length > 0)
                .map(({ meter, limits }) => (
                  <Card key={meter} title={meter === 'money' ? 'Budgets' : METER_WORDS[meter]}>
                    <div class="limit-list">
                      {limits.map((one) => (
                        <LimitBar
                          key={`${one.limit_id} ${one.subject}`}
                          limit={one}
                          names={names}
                          zone={zone}
                          onEdit={
                            can('limits.write') ? () => setEdited({ scope: one.scope, id: one.scope_id }) : undefined
                          }
                        />
                      ))}
                    </div>
                  </Card>
                ))}
            </div>
          )
        }}
      </Show>
      <LimitEventList names={state.data?.names} limits={state.data?.data ?? []} zone={zone} />
      {edited !== undefined && (
        <LimitEditor
          place={edited}
          names={state.data?.names}
          onPlace={setEdited}
          onClose={() => setEdited(undefined)}
          onSaved={() => {
            setEdited(undefined)
            state.reload()
          }}
        />
      )}
    </Page>
  )
}
