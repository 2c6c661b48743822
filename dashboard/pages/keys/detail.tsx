// One key: what it may do, what it has used, and changing, rotating and revoking it. Owns the dialog and these acts.
import { useState } from 'preact/hooks'
import { api } from '../../app/api.ts'
import { count, dateTime, usd } from '../../app/format.ts'
import { href } from '../../app/router.ts'
import { can, orgId } from '../../app/session.ts'
import { zoneNow } from '../../app/use-url.ts'
import type { ApiKey, MadeKey, Project } from '../../app/wire.ts'
import { Status } from '../../parts/badge.tsx'
import { CopyButton } from '../../parts/copy.tsx'
import { confirm, Dialog } from '../../parts/dialog.tsx'
import { Facts } from '../../parts/facts.tsx'
import { Form, SelectField } from '../../parts/field.tsx'
import { toast, toastError } from '../../parts/toast.tsx'
import { KeyForm } from './form.tsx'
import { STATE_KINDS, STATE_WORDS, stateOf } from './state.ts'

const OVERLAPS = [
  { value: '0', label: 'Ends at once' },
  { value: '3600', label: 'Goes on for an hour' },
  { value: '86400', label: 'Goes on for a day' },
  { value: '604800', label: 'Goes on for a week' },
] as const

type Props = {
  apiKey: ApiKey
  projects: readonly Project[]
  lastUsed: string
  spend: { costNanoUsd: bigint; requests: number } | undefined
  onClose: () => void
  onChanged: () => void
  onRotated: (made: MadeKey) => void
}

export function KeyDetail({ apiKey: key, projects, lastUsed, spend, onClose, onChanged, onRotated }: Props) {
  const [view, setView] = useState<'facts' | 'change' | 'rotate'>('facts')
  const zone = zoneNow()
  const nowMs = Date.now()
  const state = stateOf(key, nowMs)
  const base = `/organisations/${orgId.value}/keys/${key.id}`
  const at = (iso: string | null) => (iso === null ? 'Never' : dateTime(Date.parse(iso), zone))

  const revoke = async () => {
    const isSure = await confirm({
      title: `Revoke ${key.name}?`,
      body: 'What calls with it is refused from the next request on. This cannot be taken back.',
      action: 'Revoke key',
      danger: true,
    })
    if (!isSure) return
    await api.delete(base).then(() => {
      toast(`${key.name} is revoked`)
      onChanged()
      onClose()
    }, toastError)
  }

  if (view === 'change')
    return (
      <KeyForm
        projects={projects}
        before={key}
        onClose={() => setView('facts')}
        onDone={() => {
          onChanged()
          setView('facts')
        }}
      />
    )
  if (view === 'rotate')
    return <Rotate apiKey={key} base={base} onClose={() => setView('facts')} onRotated={onRotated} />
  return (
    <Dialog
      title={key.name}
      onClose={onClose}
      footer={
        can('keys.write') &&
        state === 'works' && (
          <>
            <button type="button" class="button button-danger" onClick={revoke}>
              Revoke
            </button>
            <button type="button" class="button" onClick={() => setView('rotate')}>
              Rotate
            </button>
            <button type="button" class="button button-primary" onClick={() => setView('change')}>
              Change
            </button>
          </>
        )
      }
    >
      <Facts
        facts={[
          [
            'State',
            <Status key="state" kind={STATE_KINDS[state]}>
              {STATE_WORDS[state]}
            </Status>,
          ],
          ['Text begins with', <code key="prefix">{key.prefix}</code>],
          [
            'Id',
            <span key="id" class="nowrap">
              <code>{key.id}</code> <CopyButton text={key.id} label="Copy the id" bare />
            </span>,
          ],
          ['Project', projects.find(({ id }) => id === key.project_id)?.name ?? key.project_id],
          ['Models', key.models?.join(', ') ?? 'All'],
          ['May call', key.routes?.join(', ') ?? 'All but administration'],
          ['From addresses', key.addresses?.join(', ') ?? 'Any'],
          key.end_user === null ? undefined : ['End user', key.end_user],
          key.capabilities === null ? undefined : ['Tools may reach', key.capabilities.join(', ') || 'Nothing'],
          key.cache === null ? undefined : ['Response cache', `Answers up to ${count(key.cache.ttl_s)} s old`],
          ['Made', at(key.created_at)],
          ['Ends', key.revoked_at === null ? at(key.expires_at) : `Revoked ${at(key.revoked_at)}`],
          ['Last used', lastUsed],
          [
            'In this range',
            spend === undefined ? 'No request' : `${usd(spend.costNanoUsd)} for ${count(spend.requests)} requests`,
          ],
          key.rotated_from === null
            ? undefined
            : [
                'Took the place of',
                <a key="from" href={href(`/keys/${key.rotated_from}`)}>
                  an earlier key
                </a>,
              ],
          key.rotated_to === null
            ? undefined
            : [
                'Was replaced by',
                <a key="to" href={href(`/keys/${key.rotated_to}`)}>
                  a later key
                </a>,
              ],
        ]}
      />
      <div class="row">
        <a class="button button-small" href={href('/requests', { key: key.id })}>
          Requests
        </a>
        <a class="button button-small" href={href('/explore', { key: key.id })}>
          Usage
        </a>
        {can('limits.read') && (
          <a class="button button-small" href={href('/limits', { key: key.id })}>
            Limits & budgets
          </a>
        )}
      </div>
    </Dialog>
  )
}

function Rotate({
  apiKey,
  base,
  onClose,
  onRotated,
}: {
  apiKey: ApiKey
  base: string
  onClose: () => void
  onRotated: (made: MadeKey) => void
}) {
  const [overlap, setOverlap] = useState<(typeof OVERLAPS)[number]['value']>('86400')
  return (
    <Dialog title={`Rotate ${apiKey.name}`} onClose={onClose}>
      <p>A successor with the same rights, project and limits is made; usage goes on counting as one key.</p>
      <Form
        action="Make the successor"
        onCancel={onClose}
        onSubmit={async () =>
          onRotated(await api.post<MadeKey>(`${base}/rotate`, { overlap_seconds: Number(overlap) }))
        }
      >
        {(errorOf) => (
          <SelectField
            label="The old key"
            value={overlap}
            onChange={setOverlap}
            choices={[...OVERLAPS]}
            error={errorOf('overlap_seconds')}
          />
        )}
      </Form>
    </Dialog>
  )
}
