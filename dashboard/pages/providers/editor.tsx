// The catalog as a document that is edited, planned and applied. Owns the text, the plan of exactly that text, and the question before it
// is carried out. Secrets typed here live in this component's memory and go with the one call.
import { useMemo, useState } from 'preact/hooks'
import { ApiError, api } from '../../app/api.ts'
import type { Config, ConfigPlan } from '../../app/wire-admin.ts'
import { confirm } from '../../parts/dialog.tsx'
import { Checkbox, TextArea, TextField } from '../../parts/field.tsx'
import { Card } from '../../parts/page.tsx'
import { Failure, Note } from '../../parts/states.tsx'
import { saveFile } from '../../parts/table.tsx'
import { toast } from '../../parts/toast.tsx'
import { Changes, summaryText } from './diff.tsx'
import { readDocument, secretsAsked, secretsBody } from './document.ts'

const textOf = (document: unknown): string => `${JSON.stringify(document, undefined, 2)}\n`

export function Editor({ config, onApplied }: { config: Config; onApplied: () => void }) {
  const [text, setText] = useState(() => textOf(config.document))
  const [prune, setPrune] = useState(true)
  const [note, setNote] = useState('')
  const [secrets, setSecrets] = useState<ReadonlyMap<string, string>>(new Map())
  const [plan, setPlan] = useState<{ plan: ConfigPlan; of: string } | undefined>()
  const [error, setError] = useState<Error | undefined>()
  const [isBusy, setBusy] = useState(false)
  const read = useMemo(() => readDocument(text), [text])
  const asked = read.ok ? secretsAsked(read.document) : []
  const stamp = JSON.stringify([text, prune, [...secrets]])
  const current = plan?.of === stamp ? plan.plan : undefined
  const isChanged = text !== textOf(config.document)

  const send = async (isDry: boolean) => {
    if (!read.ok) return undefined
    setBusy(true)
    setError(undefined)
    try {
      return await api.post<ConfigPlan>('/config/apply', {
        document: read.document,
        prune,
        secrets: secretsBody(asked, secrets),
        dry_run: isDry,
        expected_version: current?.version ?? config.version,
        ...(note === '' ? {} : { note }),
      })
    } catch (thrown) {
      setError(thrown instanceof Error ? thrown : new Error(String(thrown)))
      return undefined
    } finally {
      setBusy(false)
    }
  }
  const dryRun = async () => {
    const made = await send(true)
    if (made !== undefined) setPlan({ plan: made, of: stamp })
  }
  const apply = async () => {
    if (current === undefined) return
    const removes = current.summary.removed
    const isSure = await confirm({
      title: 'Apply this plan?',
      body: (
        <div class="stack">
          <p>
            {summaryText(current.summary)}
            {current.summary.secrets > 0 && `, ${current.summary.secrets} secrets set`}. It becomes version{' '}
            {current.version + 1} or later; requests that run go on as they began, new ones take it within seconds.
          </p>
          {removes > 0 && (
            <Note kind="danger">
              What is removed is gone for callers at once. Secrets of removed providers are lost.
            </Note>
          )}
        </div>
      ),
      action: 'Apply',
      danger: removes > 0,
    })
    if (!isSure) return
    const done = await send(false)
    if (done === undefined) return
    toast(`Version ${done.version} is applied`)
    setPlan(undefined)
    setSecrets(new Map())
    setNote('')
    onApplied()
  }

  return (
    <Card
      title="Edit"
      about="The whole catalog without its secrets. Nothing changes before the plan is applied."
      actions={
        <>
          <button
            type="button"
            class="button button-small"
            onClick={() => saveFile('penstock.config.json', text, 'application/json')}
          >
            Download
          </button>
          <button
            type="button"
            class="button button-small button-quiet"
            disabled={!isChanged}
            onClick={() => {
              setText(textOf(config.document))
              setError(undefined)
            }}
          >
            Start over
          </button>
        </>
      }
    >
      <div class="stack">
        <TextArea
          label="Document"
          hint="A key's secret is “keep”, “none”, or “env:NAME”: its value is then asked for below."
          error={read.ok ? undefined : `No JSON: ${read.message}`}
          value={text}
          onInput={setText}
          rows={22}
          mono
        />
        {asked.length > 0 && (
          <fieldset class="secrets">
            <legend class="field-label">Secrets; empty ones keep what they have</legend>
            <div class="form-row">
              {asked.map(({ provider, key, source }) => (
                <TextField
                  key={`${provider}/${key}`}
                  label={`${provider}/${key}`}
                  hint={source}
                  type="password"
                  mono
                  value={secrets.get(`${provider}/${key}`) ?? ''}
                  onInput={(value) => setSecrets(new Map(secrets).set(`${provider}/${key}`, value))}
                />
              ))}
            </div>
          </fieldset>
        )}
        <Checkbox
          label="Remove what the document does not name"
          hint="Without it only what is named changes."
          checked={prune}
          onChange={setPrune}
        />
        <TextField label="Note" hint="Stands beside the version." value={note} onInput={setNote} placeholder="Why" />
        {error !== undefined && <PlanFailure error={error} />}
        <div class="row">
          <button
            type="button"
            class={current === undefined ? 'button button-primary' : 'button'}
            disabled={isBusy || !read.ok}
            onClick={dryRun}
          >
            {isBusy ? 'One moment…' : 'Plan'}
          </button>
          <button
            type="button"
            class={current === undefined ? 'button' : 'button button-primary'}
            disabled={isBusy || current === undefined || isNothing(current)}
            onClick={apply}
          >
            Apply…
          </button>
          <span class="muted small" role="status">
            {current === undefined
              ? plan === undefined
                ? 'A plan says what would change.'
                : 'The text is another one than was planned: plan again.'
              : `Against version ${current.version}: ${summaryText(current.summary)}${
                  current.summary.secrets > 0 ? `, ${current.summary.secrets} secrets` : ''
                }.`}
          </span>
        </div>
        {current !== undefined && <Changes changes={current.changes} none="Applied, this would change nothing." />}
      </div>
    </Card>
  )
}

const isNothing = ({ changes, secrets }: ConfigPlan): boolean => changes.length === 0 && secrets.length === 0

/** Names the place in the document. */
export function PlanFailure({ error }: { error: Error }) {
  if (!(error instanceof ApiError) || error.param === undefined) return <Failure error={error} />
  return (
    <Note kind="danger">
      <span role="alert">
        {error.message.startsWith(error.param) ? '' : `${error.param}: `}
        {error.message}
      </span>
    </Note>
  )
}
