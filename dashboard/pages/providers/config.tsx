// Configuration: versions of the catalog, what differs between two, going back, and editing. Owns the tab; the editor is editor.tsx.
import { useState } from 'preact/hooks'
import { allPages, api } from '../../app/api.ts'
import { ago, dateTime } from '../../app/format.ts'
import { type Loaded, useLoad } from '../../app/load.ts'
import { wholeNumber } from '../../app/url-state.ts'
import { useUrlState, zoneNow } from '../../app/use-url.ts'
import type { Config, ConfigDiff, ConfigPlan, ConfigVersion } from '../../app/wire-admin.ts'
import { Badge } from '../../parts/badge.tsx'
import { confirm, Dialog } from '../../parts/dialog.tsx'
import { SelectField } from '../../parts/field.tsx'
import { Card } from '../../parts/page.tsx'
import { Empty, Note, Show, Skeleton } from '../../parts/states.tsx'
import { Table } from '../../parts/table.tsx'
import { toast } from '../../parts/toast.tsx'
import { Changes, summaryText } from './diff.tsx'
import { Editor, PlanFailure } from './editor.tsx'

const VERSION_MAX = 999_999_999
/** 0: the newest two, or what stands. */
const FILTERS = { a: wholeNumber(0, 1, VERSION_MAX), b: wholeNumber(0, 1, VERSION_MAX) }

export function Configuration({ config, onChanged }: { config: Loaded<Config>; onChanged: () => void }) {
  const versions = useLoad('config versions', (signal) => allPages<ConfigVersion>('/config/versions', {}, signal))
  const changed = () => {
    versions.reload()
    onChanged()
  }
  return (
    <Show of={config} skeleton={<Skeleton rows={6} height={40} />}>
      {(now) => (
        <div class="stack">
          {now.drift !== undefined && now.drift.length > 0 && (
            <Card
              title={`Changed since version ${now.version}`}
              about="By single calls of the API. The next document that is applied keeps this state as a version of its own."
            >
              <Changes changes={now.drift} none="" />
            </Card>
          )}
          <Show of={versions} skeleton={<Skeleton rows={6} height={36} />}>
            {({ data }) =>
              data.length === 0 ? (
                <Card>
                  <Empty title="No version yet" icon="audit">
                    The catalog was made by single calls. The first document that is applied begins its history.
                  </Empty>
                </Card>
              ) : (
                <div class="stack">
                  <Versions versions={data} onChanged={changed} />
                </div>
              )
            }
          </Show>
          <Editor key={now.version} config={now} onApplied={changed} />
        </div>
      )}
    </Show>
  )
}

function Versions({ versions, onChanged }: { versions: readonly ConfigVersion[]; onChanged: () => void }) {
  const [filters, setFilters] = useUrlState(FILTERS)
  const [back, setBack] = useState<number | undefined>()
  const zone = zoneNow()
  const newest = versions[0]?.version ?? 0
  const from = filters.a === 0 ? (versions[1]?.version ?? newest) : filters.a
  const to = filters.b
  const diff = useLoad(`diff ${from} ${to}`, (signal) =>
    api.get<ConfigDiff>('/config/diff', { from, to: to === 0 ? undefined : to }, signal),
  )
  const choices = versions.map(({ version, note }) => ({
    value: String(version),
    label: `Version ${version}${note === undefined ? '' : `: ${note.slice(0, 40)}`}`,
  }))
  return (
    <>
      <Card flush>
        <Table
          caption="Versions"
          showCaption
          file="config-versions"
          rows={versions}
          rowKey={({ version }) => String(version)}
          defaultSort={{ column: 'version', descending: true }}
          pageRows={10}
          columns={[
            {
              id: 'version',
              head: 'Version',
              value: ({ version }) => version,
              cell: ({ version }) => (
                <span class="row">
                  {version}
                  {version === newest && <Badge kind="good">newest</Badge>}
                </span>
              ),
            },
            {
              id: 'note',
              head: 'Note',
              grow: true,
              value: ({ note }) => note,
              cell: ({ note }) => note ?? <span class="muted">None</span>,
            },
            {
              id: 'applied',
              head: 'Applied',
              value: ({ applied_at: at }) => at,
              cell: ({ applied_at: at }) => (
                <span title={dateTime(Date.parse(at), zone)}>{ago(Date.parse(at), Date.now())}</span>
              ),
            },
            { id: 'actor', head: 'By', value: ({ actor }) => actor, cell: ({ actor }) => actor },
            {
              id: 'checksum',
              head: 'Checksum',
              value: ({ checksum }) => checksum,
              cell: ({ checksum }) => <code title={checksum}>{checksum.slice(0, 10)}</code>,
            },
            {
              id: 'actions',
              head: undefined,
              name: 'Actions',
              bare: true,
              align: 'end',
              cell: ({ version }) => (
                <span class="row version-actions">
                  <button
                    type="button"
                    class="button button-small button-quiet"
                    onClick={() => setFilters({ a: version, b: 0 })}
                  >
                    Compare
                  </button>
                  <button type="button" class="button button-small" onClick={() => setBack(version)}>
                    Go back…
                  </button>
                </span>
              ),
            },
          ]}
        />
      </Card>
      <Card title="Difference">
        <div class="stack">
          <div class="form-row diff-choice">
            <SelectField
              label="From"
              value={String(from)}
              onChange={(version) => setFilters({ a: Number(version) })}
              choices={choices}
            />
            <SelectField
              label="To"
              value={String(to)}
              onChange={(version) => setFilters({ b: Number(version) })}
              choices={[{ value: '0', label: 'What stands now' }, ...choices]}
            />
          </div>
          <Show of={diff} skeleton={<Skeleton rows={4} height={28} />}>
            {({ changes, summary }) => (
              <div class="stack">
                <p class="muted small">{summaryText(summary)}</p>
                <Changes changes={changes} none="Both are the same." />
              </div>
            )}
          </Show>
        </div>
      </Card>
      {back !== undefined && (
        <RollBack
          version={back}
          onClose={() => setBack(undefined)}
          onDone={() => {
            setBack(undefined)
            onChanged()
          }}
        />
      )}
    </>
  )
}

/** The plan first; only what it shows is carried out. */
function RollBack({ version, onClose, onDone }: { version: number; onClose: () => void; onDone: () => void }) {
  const [isBusy, setBusy] = useState(false)
  const [error, setError] = useState<Error | undefined>()
  const plan = useLoad(`rollback ${version}`, () =>
    api.post<ConfigPlan>('/config/rollback', { version, dry_run: true }),
  )
  const isNothing = plan.data?.changes.length === 0
  const goBack = async () => {
    if (plan.data === undefined) return
    const removes = plan.data.summary.removed
    if (
      removes > 0 &&
      !(await confirm({
        title: `Go back to version ${version}?`,
        body: (
          <Note kind="danger">
            {removes} {removes === 1 ? 'object is' : 'objects are'} removed and gone for callers at once; secrets of
            removed providers are lost.
          </Note>
        ),
        action: 'Go back',
        danger: true,
      }))
    )
      return
    setBusy(true)
    setError(undefined)
    try {
      const done = await api.post<ConfigPlan>('/config/rollback', {
        version,
        expected_version: plan.data.version,
        note: `Back to version ${version}`,
      })
      toast(`Version ${done.version} holds what version ${version} did`)
      onDone()
    } catch (thrown) {
      setError(thrown instanceof Error ? thrown : new Error(String(thrown)))
      setBusy(false)
    }
  }
  return (
    <Dialog
      title={`Go back to version ${version}`}
      onClose={onClose}
      wide
      footer={
        <>
          <button type="button" class="button" onClick={onClose}>
            Cancel
          </button>
          <button
            type="button"
            class="button button-primary"
            disabled={isBusy || plan.data === undefined || isNothing}
            onClick={goBack}
          >
            Go back
          </button>
        </>
      }
    >
      <p class="muted">
        What stands is replaced by what version {version} held, as a new version. Secrets have no history: keys keep the
        ones they have.
      </p>
      {error !== undefined && <PlanFailure error={error} />}
      <Show of={plan} skeleton={<Skeleton rows={4} height={28} />}>
        {({ changes, summary }) => (
          <div class="stack">
            <p class="small">{summaryText(summary)}</p>
            <Changes changes={changes} none="It is what stands already." />
          </div>
        )}
      </Show>
    </Dialog>
  )
}
