// One answer on the page: its text as it comes, and under it what it took, what it cost and which way it went.
import type { ComponentChildren } from 'preact'
import { useEffect, useState } from 'preact/hooks'
import { ApiError, api } from '../../app/api.ts'
import { count, duration, NOTHING, nanoUsd, usd, usdExact } from '../../app/format.ts'
import { href } from '../../app/router.ts'
import { can, isOperator, orgId } from '../../app/session.ts'
import type { UsageRequestDetail } from '../../app/wire.ts'
import { Badge, type BadgeKind } from '../../parts/badge.tsx'
import { CopyButton } from '../../parts/copy.tsx'
import { Note } from '../../parts/states.tsx'
import { type Answer, isOver, routeSteps, tokensPerSecond } from './answer.ts'

/** Rows are written in batches: after these waits it is asked whether this one is. Half a minute and more is a fault elsewhere. */
const LOOKS_MS = [600, 900, 1_500, 2_500, 4_000, 6_000, 8_000, 12_000]

type Row = { state: 'waiting' | 'unknown' } | { state: 'written'; row: UsageRequestDetail }

/** The usage row of a request that has ended, once it is written. */
function useRow(requestId: string | undefined): [Row, () => void] {
  const [row, setRow] = useState<Row>({ state: 'waiting' })
  const [turn, setTurn] = useState(0)
  const org = orgId.value
  useEffect(() => {
    if (requestId === undefined) return
    const over = new AbortController()
    let timer: ReturnType<typeof setTimeout> | undefined
    const look = (index: number) => {
      const wait = LOOKS_MS[index]
      if (wait === undefined) return setRow({ state: 'unknown' })
      timer = setTimeout(() => {
        api
          .get<UsageRequestDetail>(`/usage/requests/${requestId}`, { org }, over.signal)
          .then((found) => setRow({ state: 'written', row: found }))
          .catch((error: unknown) => {
            if (over.signal.aborted) return
            if (error instanceof ApiError && error.status === 404) look(index + 1)
            else setRow({ state: 'unknown' })
          })
      }, wait)
    }
    setRow({ state: 'waiting' })
    look(0)
    return () => {
      over.abort()
      clearTimeout(timer)
    }
  }, [requestId, org, turn])
  return [row, () => setTurn((before) => before + 1)]
}

const STATES: Readonly<Record<Answer['state'], { kind: BadgeKind; words: string }>> = {
  waiting: { kind: 'neutral', words: 'Waiting' },
  streaming: { kind: 'accent', words: 'Streaming' },
  done: { kind: 'good', words: 'Done' },
  stopped: { kind: 'warning', words: 'Stopped' },
  failed: { kind: 'danger', words: 'Failed' },
}
const FINISHES: Readonly<Record<string, string>> = {
  length: 'Reached the most tokens',
  content_filter: 'Ended by a content filter',
  tool_calls: 'Wants to call a tool',
}

export function ShownAnswer({ answer }: { answer: Answer }) {
  const isDone = isOver(answer)
  const state = STATES[answer.state]
  const finish = answer.finish === undefined ? undefined : FINISHES[answer.finish]
  return (
    <article class="answer" aria-label={`Answer of ${answer.model}`} aria-busy={!isDone}>
      <header class="answer-head">
        <h2 class="break">{answer.model}</h2>
        <span class="row">
          {finish !== undefined && <Badge kind="warning">{finish}</Badge>}
          <Badge kind={state.kind}>{state.words}</Badge>
          {answer.text !== '' && <CopyButton text={answer.text} label="Copy the answer" bare />}
        </span>
      </header>
      {answer.thought !== '' && (
        <details class="thought">
          <summary>Thoughts</summary>
          <p class="answer-text muted">{answer.thought}</p>
        </details>
      )}
      <p class={answer.state === 'streaming' ? 'answer-text is-streaming' : 'answer-text'}>
        {answer.text.trimStart()}
        {answer.text === '' && answer.state === 'waiting' && <span class="muted">Waiting for the first token…</span>}
        {answer.text === '' && isDone && answer.failure === undefined && <span class="muted">No text.</span>}
      </p>
      {answer.failure !== undefined && <Note kind="danger">{answer.failure}</Note>}
      {answer.head?.warning !== undefined && <Note kind="warning">{answer.head.warning}</Note>}
      {isDone ? <Ended answer={answer} /> : <Meanwhile answer={answer} />}
    </article>
  )
}

/** Ticks while nothing is final. */
function Meanwhile({ answer }: { answer: Answer }) {
  const [nowMs, setNow] = useState(performance.now())
  useEffect(() => {
    const timer = setInterval(() => setNow(performance.now()), 100)
    return () => clearInterval(timer)
  }, [])
  return (
    <dl class="answer-figures">
      <Fact name="First token">{firstText(answer)}</Fact>
      <Fact name="So far">{duration(Math.max(0, nowMs - answer.startedMs))}</Fact>
      <Fact name="Characters">{count(answer.text.length + answer.thought.length)}</Fact>
    </dl>
  )
}

function Ended({ answer }: { answer: Answer }) {
  const { head, usage } = answer
  const asks = can('usage.read') ? head?.requestId : undefined
  const [row, again] = useRow(asks)
  const written = row.state === 'written' ? row.row : undefined
  // A stream that was stopped told nobody its usage: the row has what was charged.
  const output = usage?.output ?? written?.output_tokens
  const input = usage?.input ?? written?.input_tokens
  const cached = usage?.cached ?? written?.usage.input_cache_read
  const rate = tokensPerSecond(answer, output)
  return (
    <>
      <dl class="answer-figures">
        <Fact name="First token" title="As this browser saw it, the way there and back included">
          {firstText(answer)}
        </Fact>
        <Fact name="Tokens/s" title="Behind the first token">
          {rate === undefined ? NOTHING : count(Math.round(rate * 10) / 10)}
        </Fact>
        <Fact name="All">{answer.endedMs === undefined ? NOTHING : duration(answer.endedMs - answer.startedMs)}</Fact>
        <Fact name="Input">
          {input === undefined ? NOTHING : count(input)}
          {cached !== undefined && cached > 0 && <span class="muted"> {count(cached)} cached</span>}
        </Fact>
        <Fact name="Output">
          {output === undefined ? NOTHING : count(output)}
          {usage !== undefined && usage.reasoning > 0 && <span class="muted"> {count(usage.reasoning)} thought</span>}
        </Fact>
        <Fact name="Cost">
          {written !== undefined ? (
            <span title={usdExact(nanoUsd(written.cost_nanousd))}>
              {usd(nanoUsd(written.cost_nanousd))}
              {written.estimated && <span class="muted"> estimated</span>}
            </span>
          ) : asks === undefined ? (
            <span title="You may not see usage, or no request came about">{NOTHING}</span>
          ) : row.state === 'waiting' ? (
            <span class="muted">being recorded…</span>
          ) : (
            <button type="button" class="link-button" onClick={again} title="No row of it here so far">
              look again
            </button>
          )}
        </Fact>
      </dl>
      {head !== undefined && <Route answer={answer} written={written} />}
    </>
  )
}

function Route({ answer, written }: { answer: Answer; written: UsageRequestDetail | undefined }) {
  const { head } = answer
  if (head === undefined) return null
  const attempts = written?.attempt_rows.filter(({ kind }) => kind === 'attempt') ?? []
  const backend =
    written?.backend_id ?? (head.target?.startsWith('fleet/') ? head.target.slice('fleet/'.length) : undefined)
  return (
    <div class="answer-route">
      {attempts.length > 0 ? (
        <ol aria-label="Attempts">
          {attempts.map((one) => (
            <li key={one.attempt}>
              <span class={one.status_class === 'ok' ? 'route-step is-ok' : 'route-step'}>
                {one.provider}/{one.model_served}
                <span class="muted"> {one.status}</span>
                {one.route !== null && one.route.role !== 'primary' && <span class="muted"> · {one.route.role}</span>}
              </span>
            </li>
          ))}
        </ol>
      ) : (
        head.route !== undefined && (
          <ol aria-label="Attempts so far">
            {routeSteps(head.route).map(({ target, outcome, prediction }, index) => (
              <li key={index}>
                <span class="route-step" title={prediction === undefined ? undefined : `Predicted ${prediction}`}>
                  {target}
                  <span class="muted"> {outcome}</span>
                </span>
              </li>
            ))}
          </ol>
        )
      )}
      <span class="answer-links">
        {head.cache !== undefined && (
          <Badge kind={head.cache === 'hit' ? 'accent' : 'neutral'}>cache {head.cache}</Badge>
        )}
        {isOperator.value && backend !== undefined && <a href={href(`/fleet/${backend}`)}>Worker</a>}
        {head.requestId !== undefined && can('usage.read') && (
          <a href={href(`/requests/${head.requestId}`)} title={head.requestId}>
            Request
          </a>
        )}
      </span>
    </div>
  )
}

const firstText = ({ firstMs, startedMs }: Answer): string =>
  firstMs === undefined ? NOTHING : duration(firstMs - startedMs)

function Fact({ name, title, children }: { name: string; title?: string; children: ComponentChildren }) {
  return (
    <div title={title}>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  )
}
