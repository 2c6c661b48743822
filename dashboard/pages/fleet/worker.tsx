// One worker: who it is, how it is, its engines, and what can be done with it. Owns the card and its questions; the dialog of roles
// is roles.tsx.
import { useState } from 'preact/hooks'
import { api } from '../../app/api.ts'
import { ago, count, dateTime, duration } from '../../app/format.ts'
import { href } from '../../app/router.ts'
import { zoneNow } from '../../app/use-url.ts'
import type { Backend } from '../../app/wire-admin.ts'
import { Badge, Status } from '../../parts/badge.tsx'
import { confirm } from '../../parts/dialog.tsx'
import { Icon } from '../../parts/icon.tsx'
import { Card } from '../../parts/page.tsx'
import { Note } from '../../parts/states.tsx'
import { toast, toastError } from '../../parts/toast.tsx'
import { EngineRow } from './engine.tsx'
import {
  engineKey,
  isReporting,
  leftAlone,
  loadOf,
  othersServing,
  pendingOf,
  STATE_KINDS,
  STATE_WORDS,
} from './figures.ts'
import type { History } from './history.ts'
import { RolesDialog } from './roles.tsx'

export const workerName = ({ label, id }: Backend): string => label || id.slice(0, 8)

type Props = {
  backend: Backend
  backends: readonly Backend[]
  history: History
  receivedAtMs: number
  onChanged: () => void
}

export function Worker({ backend, backends, history, receivedAtMs, onChanged }: Props) {
  const [isChoosing, setChoosing] = useState(false)
  const [isBusy, setBusy] = useState(false)
  const name = workerName(backend)
  const isDraining = backend.desired?.draining ?? false
  const enrolledAtMs = Date.parse(backend.enrolled_at)
  const pending = pendingOf(backend)

  const act = async (work: () => Promise<unknown>, done: string) => {
    setBusy(true)
    try {
      await work()
      toast(done)
      onChanged()
    } catch (error) {
      toastError(error)
    } finally {
      setBusy(false)
    }
  }
  const drain = async () => {
    if (!(await confirm(drainQuestion(backends, backend)))) return
    await act(() => api.patch(`/backends/${backend.id}`, { draining: true }), `${name} drains`)
  }
  const takeBack = async () => {
    const isSure = await confirm({
      title: `Let ${name} take work again?`,
      body: (
        <p>
          With its next report it is told, and requests are sent to it again. If it has ended after its drain, it does
          so when it is started again.
        </p>
      ),
      action: 'Take work again',
    })
    if (isSure) await act(() => api.patch(`/backends/${backend.id}`, { draining: false }), `${name} takes work again`)
  }
  const remove = async () => {
    if (!(await confirm(removeQuestion(backends, backend)))) return
    await act(() => api.delete(`/backends/${backend.id}`), `${name} is removed`)
  }

  return (
    <Card flush>
      <header class="worker-head">
        <div class="worker-title">
          <div class="row">
            <h2 class="worker-name break">
              <a href={href(`/fleet/${backend.id}`)}>{name}</a>
            </h2>
            <Status kind={STATE_KINDS[backend.state]}>{STATE_WORDS[backend.state]}</Status>
            {pending.map((words) => (
              <Badge key={words} kind="warning" title="Acted on with the worker's next reports">
                {words}
              </Badge>
            ))}
          </div>
          <p class="worker-about">
            <span class="break">{backend.url}</span>
            <span>{reportText(backend, receivedAtMs)}</span>
            <span title={dateTime(enrolledAtMs, zoneNow())}>enrolled {ago(enrolledAtMs, Date.now())}</span>
            <span title="Chunks of prompts that the gateway knows it to hold K and V for">
              {count(backend.kv_chunks)} prompt chunks known
              {backend.kv_chunks_left_out > 0 && `, ${count(backend.kv_chunks_left_out)} left out`}
            </span>
            <a href={href('/requests', { backend: backend.id })}>Its requests</a>
          </p>
        </div>
        <div class="card-actions">
          <button type="button" class="button button-small" disabled={isBusy} onClick={isDraining ? takeBack : drain}>
            {isDraining ? 'Take work again…' : 'Drain…'}
          </button>
          <button
            type="button"
            class="button button-small"
            disabled={isBusy || backend.models.every(({ engine }) => engine === null)}
            onClick={() => setChoosing(true)}
          >
            Roles…
          </button>
          <button type="button" class="button button-small button-quiet" disabled={isBusy} onClick={remove}>
            Remove…
          </button>
        </div>
      </header>
      {backend.models.length === 0 ? (
        <div class="worker-none">
          <Note>
            {backend.state === 'absent'
              ? 'Enrolled, and has not joined since it left or since the gateway started.'
              : 'Reports no engine that is ready.'}
          </Note>
        </div>
      ) : (
        <ul class={isReporting(backend) ? 'engines' : 'engines is-past'} aria-label={`Engines of ${name}`}>
          {backend.models.map((engine) => (
            <EngineRow key={engineKey(backend, engine)} backend={backend} engine={engine} history={history} />
          ))}
        </ul>
      )}
      {!isReporting(backend) && backend.models.length > 0 && (
        <p class="worker-past muted small">
          <Icon name="warning" /> Its last word: nothing is sent to it until it reports again.
        </p>
      )}
      {isChoosing && (
        <RolesDialog
          backend={backend}
          backends={backends}
          onClose={() => setChoosing(false)}
          onDone={() => {
            setChoosing(false)
            onChanged()
          }}
        />
      )}
    </Card>
  )
}

/** What is shown changes with what is reported: the age of one that reports is no older than the snapshot says. */
function reportText(backend: Backend, receivedAtMs: number): string {
  if (backend.report_age_ms === null) return 'no report'
  const elapsedMs = isReporting(backend) ? 0 : Math.max(0, Date.now() - receivedAtMs)
  return `report ${duration(backend.report_age_ms + elapsedMs)} old`
}

function drainQuestion(backends: readonly Backend[], backend: Backend) {
  const name = workerName(backend)
  const { running, queued } = loadOf(backend.models)
  const alone = leftAlone(backends, backend)
  const others = [...othersServing(backends, backend)].filter(([, workers]) => workers > 0)
  return {
    title: `Drain ${name}?`,
    action: 'Drain',
    danger: alone.length > 0,
    body: (
      <div class="stack">
        <ul class="consequences">
          <li>It gets no new requests from its next report on, about a second.</li>
          <li>
            {running + queued === 0
              ? 'Nothing runs on it now.'
              : `${count(running)} running and ${count(queued)} waiting go on to their end; streams that take too long move to other workers and lose nothing.`}
          </li>
          {others.map(([model, workers]) => (
            <li key={model}>
              <strong>{model}</strong> goes on at {count(workers)} other {workers === 1 ? 'worker' : 'workers'}.
            </li>
          ))}
          <li>It stays enrolled; “Take work again” ends the drain.</li>
        </ul>
        {alone.length > 0 && (
          <Note kind="danger">
            Nobody else in the fleet finishes requests of <strong>{alone.join(', ')}</strong>: they go to the model's
            next target, or are refused.
          </Note>
        )}
      </div>
    ),
  }
}

function removeQuestion(backends: readonly Backend[], backend: Backend) {
  const name = workerName(backend)
  const { running } = loadOf(backend.models)
  const isBusy = isReporting(backend) && running > 0
  const alone = isReporting(backend) ? leftAlone(backends, backend) : []
  return {
    title: `Remove ${name}?`,
    action: 'Remove',
    danger: true,
    ...(isReporting(backend) ? { typed: name } : {}),
    body: (
      <div class="stack">
        <ul class="consequences">
          <li>Its key is no longer believed: it cannot report, and nothing is sent to it.</li>
          <li>To come back it needs a new enrolment token. Its process goes on until you end it.</li>
          {isBusy && <li>{count(running)} sequences run on it now: draining it first lets them end.</li>}
          <li>Usage that was recorded stays.</li>
        </ul>
        {alone.length > 0 && (
          <Note kind="danger">
            Nobody else in the fleet finishes requests of <strong>{alone.join(', ')}</strong>.
          </Note>
        )}
      </div>
    ),
  }
}
