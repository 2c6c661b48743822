// One engine of a worker: what it does now, how full it is. Owns the row and what opens under it.
import type { ComponentChildren } from 'preact'
import { bytes, count, countShort, duration, NOTHING, percent } from '../../app/format.ts'
import type { Backend, Engine } from '../../app/wire-admin.ts'
import { Badge } from '../../parts/badge.tsx'
import { Facts } from '../../parts/facts.tsx'
import { Meter } from '../../parts/meter.tsx'
import { Sparkline } from '../../parts/sparkline.tsx'
import { cachedOnly, engineKey, predictedStepMs, ROLE_ABOUT, ROLE_WORDS, share, unreadyText } from './figures.ts'
import { SpeedOfLight } from './gauge.tsx'
import { type Figures, type History, line } from './history.ts'

const rate = (value: number | null, unit: string): string => (value === null ? NOTHING : `${countShort(value)} ${unit}`)
const perSecond = (value: number | null): string => (value === null ? NOTHING : `${bytes(value)}/s`)
/** Parts of a step are microseconds and less. */
const fine = (ms: number): string => (ms >= 1 ? duration(ms) : `${Number((ms * 1_000).toPrecision(3))} µs`)

export function EngineRow({ backend, engine, history }: { backend: Backend; engine: Engine; history: History }) {
  const key = engineKey(backend, engine)
  const name = engine.engine ?? engine.model
  const asked = engine.engine === null ? undefined : backend.desired?.roles[engine.engine]
  const trend = (pick: (figures: Figures) => number | undefined) =>
    line(history, ({ engines }) => {
      const figures = engines.get(key)
      return figures === undefined ? undefined : pick(figures)
    })
  const kv = share(engine.kv_blocks_used, engine.kv_blocks_total)
  const cached = share(
    cachedOnly(engine.kv_blocks_used, engine.kv_blocks_cached, engine.kv_blocks_total),
    engine.kv_blocks_total,
  )
  const queued = engine.requests_queued + engine.sequences_waiting
  const { transfer } = engine
  const unready = unreadyText(engine)
  return (
    <li class="engine">
      <div class="engine-name">
        <h3>{name}</h3>
        {name !== engine.model && <span class="muted small break">{engine.model}</span>}
        <span class="row">
          <Badge kind="accent" title={ROLE_ABOUT[engine.role]}>
            {ROLE_WORDS[engine.role]}
          </Badge>
          {asked !== undefined && asked !== engine.role && <Badge kind="warning">→ {ROLE_WORDS[asked]}</Badge>}
          {engine.draining && unready === undefined && <Badge kind="warning">Draining</Badge>}
          {unready !== undefined && <Badge kind="danger">{unready}</Badge>}
        </span>
      </div>
      <Figure
        name="Running"
        value={
          <>
            {count(engine.sequences_running)} <span class="muted">/ {count(engine.sequences_max)}</span>
          </>
        }
        trend={trend(({ running }) => running)}
      >
        <Meter
          label={`Sequences of ${name}`}
          used={share(engine.sequences_running, engine.sequences_max)}
          text={`${engine.sequences_running} of ${engine.sequences_max}`}
          size="small"
        />
      </Figure>
      <Figure
        name="Queue"
        value={
          <>
            {count(queued)} <span class="muted">/ {count(engine.requests_queued_max)}</span>
          </>
        }
        trend={trend((figures) => figures.queued)}
        note={
          engine.prefill_tokens_queued > 0
            ? `${countShort(engine.prefill_tokens_queued)} prompt tokens ahead`
            : undefined
        }
      >
        <Meter
          label={`Queue of ${name}`}
          used={share(queued, engine.requests_queued_max)}
          text={`${queued} of ${engine.requests_queued_max}`}
          size="small"
          warnAt={0.5}
        />
      </Figure>
      <Figure
        name="K and V"
        value={percent(kv)}
        trend={trend((figures) => figures.kv)}
        note={`${percent(cached)} cached beside`}
        title={`${count(engine.kv_blocks_used)} of ${count(engine.kv_blocks_total)} blocks of ${engine.block_tokens} tokens held by sequences`}
      >
        <Meter
          label={`K and V of ${name}`}
          used={kv}
          held={cached}
          text={`${percent(kv)} held by sequences, ${percent(cached)} cached beside`}
          size="small"
          warnAt={0.9}
        />
      </Figure>
      <SpeedOfLight engine={engine} name={name} />
      <details class="engine-more">
        <summary>Rates, step model, transfers</summary>
        <Facts
          facts={[
            ['Window', `${count(engine.context_tokens)} tokens`],
            ['Last step', engine.step_ms === 0 ? NOTHING : fine(engine.step_ms)],
            ['Step by its model, now', stepText(engine)],
            ['Prefill', rate(engine.prefill_tokens_per_second, 'tokens/s')],
            ['Decode', rate(engine.decode_tokens_per_second, 'tokens/s')],
            ['K and V read by a step', `${count(engine.decode_kv_tokens)} tokens`],
            ['Prompt tokens queued', count(engine.prefill_tokens_queued)],
            ['Blocks held, cached, all', blocksText(engine)],
            ...stepFacts(engine),
            ['Open reservations', transfer === null ? 'takes no K and V' : count(transfer.reservations)],
            transfer === null ? undefined : ['Hand-overs arrive at', perSecond(transfer.measured_bytes_per_second)],
            transfer === null
              ? undefined
              : ['Taken from', transfer.remote ? 'engines of this host and others' : 'engines of this host'],
            transfer === null ? undefined : ['K and V of a token', bytes(transfer.bytes_per_token)],
          ]}
        />
        {transfer !== null && (
          <p class="layout-line muted small" title="Engines with another one cannot be paired">
            Layout of K and V <code class="break">{transfer.fingerprint}</code>
          </p>
        )}
      </details>
    </li>
  )
}

function Figure({
  name,
  value,
  note,
  title,
  trend,
  children,
}: {
  name: string
  value: ComponentChildren
  note?: string | undefined
  title?: string
  trend: readonly (number | undefined)[]
  children: ComponentChildren
}) {
  return (
    <div class="figure" title={title}>
      <div class="figure-name">{name}</div>
      <div class="figure-main">
        <span class="figure-value">{value}</span>
        <Sparkline values={trend} width={72} height={20} />
      </div>
      {children}
      <div class="figure-note">{note}</div>
    </div>
  )
}

const stepText = (engine: Engine): string => {
  const predicted = predictedStepMs(engine)
  return predicted === undefined ? 'not measured enough yet' : fine(predicted)
}

const blocksText = (engine: Engine): string =>
  [engine.kv_blocks_used, engine.kv_blocks_cached, engine.kv_blocks_total].map(count).join(' · ')

function stepFacts({ step_model: model }: Engine): [string, string][] {
  if (model === null) return []
  return [
    ['A step costs', fine(model.base_ms)],
    ['+ each prompt token', fine(model.prefill_token_ms)],
    ['+ each sequence', fine(model.decode_sequence_ms)],
    ['+ 1,000 tokens of K and V', fine(model.kv_token_ms * 1_000)],
  ]
}
