// Playground: ask a model, or two beside each other, and see what it took. Owns the conversation of this page and the running calls;
// nothing of it is stored. The key is playground/key.ts, a call playground/run.ts.
import { useEffect, useMemo, useRef, useState } from 'preact/hooks'
import { count, duration } from '../app/format.ts'
import { useLoad } from '../app/load.ts'
import { useProject, useProjects } from '../app/scope.ts'
import { flag, optionalText } from '../app/url-state.ts'
import { useUrlState } from '../app/use-url.ts'
import { confirm } from '../parts/dialog.tsx'
import { Icon } from '../parts/icon.tsx'
import { Card, Page } from '../parts/page.tsx'
import { Empty, Failure, Note, Skeleton } from '../parts/states.tsx'
import { type Answer, begun, isOver } from './playground/answer.ts'
import { type PlaygroundKey, useKey } from './playground/key.ts'
import { bodyOf, type Message, modelsOf, type Parameters, run } from './playground/run.ts'
import { CodeDialog, isFaulty, Settings } from './playground/settings.tsx'
import { ShownAnswer } from './playground/shown.tsx'
import { Start } from './playground/start.tsx'

const SCHEMA = {
  model: optionalText,
  with: optionalText,
  temperature: optionalText,
  top_p: optionalText,
  max_tokens: optionalText,
  seed: optionalText,
  json: flag(false),
}
/** A conversation that is longer belongs into a program. */
const TURNS_MAX = 50

type Turn = { id: number; prompt: string; answers: readonly Answer[] }

export default function PlaygroundPage() {
  const control = useKey()
  const projects = useProjects()
  const project = useProject()
  const key = control.current
  return (
    <Page
      title="Playground"
      about="Real calls, counted and charged as any other. Prompts and answers stay in this page."
      actions={key !== undefined && <KeyLine current={key} projects={projects.data ?? []} onEnd={control.end} />}
    >
      {key === undefined ? (
        <Start control={control} projects={projects} project={project} />
      ) : (
        <Bench key={key.text} apiKey={key} />
      )}
    </Page>
  )
}

function KeyLine({
  current,
  projects,
  onEnd,
}: {
  current: PlaygroundKey
  projects: readonly { id: string; name: string }[]
  onEnd: () => void
}) {
  const [nowMs, setNow] = useState(Date.now())
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 30_000)
    return () => clearInterval(timer)
  }, [])
  const { made } = current
  const end = async () => {
    const isSure =
      made === undefined ||
      (await confirm({
        title: 'End the key?',
        body: <p>The key is revoked now. The conversation on this page is lost.</p>,
        action: 'End',
      }))
    if (isSure) onEnd()
  }
  return (
    <>
      <span class="muted small">
        {made === undefined
          ? 'With a pasted key'
          : `Key of ${projects.find(({ id }) => id === made.projectId)?.name ?? 'the project'}, ${
              made.endsAtMs > nowMs
                ? `ends in ${duration(Math.ceil((made.endsAtMs - nowMs) / 60_000) * 60_000)}`
                : 'has ended'
            }`}
      </span>
      <button type="button" class="button button-small" onClick={end}>
        {made === undefined ? 'Forget' : 'End'}
      </button>
    </>
  )
}

function Bench({ apiKey }: { apiKey: PlaygroundKey }) {
  const [asked, setAsked] = useUrlState(SCHEMA)
  const [texts, setTexts] = useState({ system: '', stop: '' })
  const [prompt, setPrompt] = useState('')
  const [turns, setTurns] = useState<readonly Turn[]>([])
  const [showsCode, setShowsCode] = useState(false)
  // On a small screen the conversation comes first.
  const [startsOpen] = useState(() => window.matchMedia('(min-width: 981px)').matches)
  const running = useRef<AbortController | undefined>(undefined)
  const end = useRef<HTMLDivElement>(null)
  const models = useLoad(`models ${apiKey.text}`, (signal) => modelsOf(apiKey.text, signal))
  useEffect(() => () => running.current?.abort(), [])

  const parameters: Parameters = useMemo(
    () => ({
      ...texts,
      temperature: asked.temperature ?? '',
      topP: asked.top_p ?? '',
      maxTokens: asked.max_tokens ?? '',
      seed: asked.seed ?? '',
      json: asked.json,
    }),
    [texts, asked.temperature, asked.top_p, asked.max_tokens, asked.seed, asked.json],
  )
  const known = models.data ?? []
  const first = known.find((model) => model === asked.model) ?? known[0]
  const second = asked.with === undefined ? undefined : known.find((model) => model === asked.with)
  const isRunning = turns.some(({ answers }) => answers.some((answer) => !isOver(answer)))

  const change = ({ system, stop, temperature, topP, maxTokens, seed, json }: Partial<Parameters>) => {
    if (system !== undefined) setTexts((before) => ({ ...before, system }))
    if (stop !== undefined) setTexts((before) => ({ ...before, stop }))
    const next = {
      ...(temperature === undefined ? {} : { temperature }),
      ...(topP === undefined ? {} : { top_p: topP }),
      ...(maxTokens === undefined ? {} : { max_tokens: maxTokens }),
      ...(seed === undefined ? {} : { seed }),
      ...(json === undefined ? {} : { json }),
    }
    if (Object.keys(next).length > 0) setAsked(next, { replace: true })
  }
  const canSend =
    first !== undefined && prompt.trim() !== '' && !isRunning && turns.length < TURNS_MAX && !isFaulty(parameters)

  const send = () => {
    if (!canSend) return
    const chosen = second === undefined ? [first] : [first, second]
    const stop = new AbortController()
    running.current = stop
    const id = turns.length
    const put = (column: number, answer: Answer) =>
      setTurns((before) =>
        before.map((turn) =>
          turn.id === id ? { ...turn, answers: turn.answers.map((one, at) => (at === column ? answer : one)) } : turn,
        ),
      )
    const calls = chosen.map((model, column) =>
      bodyOf(model, messagesOf(turns, column, prompt, parameters.system), parameters),
    )
    setTurns([...turns, { id, prompt, answers: chosen.map((model) => begun(model, performance.now())) }])
    setPrompt('')
    calls.forEach((body, column) => {
      void run(apiKey.text, body, stop.signal, (answer) => put(column, answer))
    })
    requestAnimationFrame(() => end.current?.scrollIntoView({ block: 'nearest' }))
  }
  const clear = () => {
    running.current?.abort()
    setTurns([])
  }

  if (models.error !== undefined && models.data === undefined)
    return <Failure error={models.error} onRetry={models.reload} />
  if (models.data === undefined) return <Skeleton rows={3} height={120} />
  if (first === undefined)
    return (
      <Card>
        <Empty title="No model for this key" icon="playground">
          The deployment has no model yet, or the key may use none of them.
        </Empty>
      </Card>
    )
  return (
    <div class="bench">
      <section class="bench-talk" aria-label="Conversation">
        {turns.length === 0 ? (
          <Card>
            <Empty title="Nothing asked yet" icon="playground">
              Each answer shows its time to the first token, tokens per second, cost, and the way it went through the
              gateway.
            </Empty>
          </Card>
        ) : (
          turns.map((turn) => (
            <div key={turn.id} class="turn">
              <p class="prompt">
                <span class="visually-hidden">You: </span>
                {turn.prompt}
              </p>
              <div class={turn.answers.length > 1 ? 'answers is-two' : 'answers'}>
                {turn.answers.map((answer, column) => (
                  <ShownAnswer key={column} answer={answer} />
                ))}
              </div>
            </div>
          ))
        )}
        {turns.length >= TURNS_MAX && <Note>{count(TURNS_MAX)} turns are the most of one conversation here.</Note>}
        <form
          class="composer"
          onSubmit={(event) => {
            event.preventDefault()
            send()
          }}
        >
          <label class="visually-hidden" for="prompt">
            Prompt
          </label>
          <textarea
            id="prompt"
            class="input"
            rows={3}
            value={prompt}
            placeholder="Ask something. Ctrl and Enter sends."
            onInput={(event) => setPrompt(event.currentTarget.value)}
            onKeyDown={(event) => {
              if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey)) return
              event.preventDefault()
              send()
            }}
          />
          <div class="composer-foot">
            <span class="row">
              <button type="button" class="button button-small button-quiet" onClick={() => setShowsCode(true)}>
                As code
              </button>
              <button
                type="button"
                class="button button-small button-quiet"
                disabled={turns.length === 0}
                onClick={clear}
              >
                New conversation
              </button>
            </span>
            {isRunning ? (
              <button type="button" class="button" onClick={() => running.current?.abort()}>
                <Icon name="close" />
                Stop
              </button>
            ) : (
              <button type="submit" class="button button-primary" disabled={!canSend}>
                {second === undefined ? 'Send' : 'Send to both'}
              </button>
            )}
          </div>
        </form>
        <div ref={end} />
      </section>
      <aside class="bench-settings" aria-label="Settings">
        <Card>
          <details class="settings" open={startsOpen}>
            <summary class="settings-head">
              Settings
              <span class="muted">{second === undefined ? first : `${first}, ${second}`}</span>
            </summary>
            <Settings
              models={known}
              chosen={[first, second]}
              onModels={(model, other) => setAsked({ model, with: other }, { replace: true })}
              parameters={parameters}
              onChange={change}
            />
          </details>
        </Card>
      </aside>
      {showsCode && <CodeDialog model={first} parameters={parameters} onClose={() => setShowsCode(false)} />}
    </div>
  )
}

/** What one column's model is told of the conversation: its own answers, of turns that gave one. */
function messagesOf(turns: readonly Turn[], column: number, prompt: string, system: string): Message[] {
  const earlier = turns.flatMap(({ prompt: before, answers }): Message[] => {
    const text = answers[column]?.text ?? answers[0]?.text ?? ''
    if (text === '') return []
    return [
      { role: 'user', content: before },
      { role: 'assistant', content: text },
    ]
  })
  return [
    ...(system.trim() === '' ? [] : [{ role: 'system' as const, content: system }]),
    ...earlier,
    { role: 'user', content: prompt },
  ]
}
