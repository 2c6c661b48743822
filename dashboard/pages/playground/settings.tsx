// What the next call is made with: models, system prompt, parameters. Owns the fields; models and parameters stand in the address, the
// texts do not.
import { CopyBlock } from '../../parts/copy.tsx'
import { Dialog } from '../../parts/dialog.tsx'
import { Checkbox, NumberField, SelectField, TextArea, TextField } from '../../parts/field.tsx'
import { bodyOf, type Parameters } from './run.ts'

type Props = {
  models: readonly string[]
  chosen: readonly [string, string | undefined]
  onModels: (first: string, second: string | undefined) => void
  parameters: Parameters
  onChange: (change: Partial<Parameters>) => void
}

export function Settings({ models, chosen, onModels, parameters, onChange }: Props) {
  const [first, second] = chosen
  const choices = models.map((model) => ({ value: model, label: model }))
  return (
    <div class="stack">
      <SelectField label="Model" value={first} onChange={(model) => onModels(model, second)} choices={choices} />
      <Checkbox
        label="Compare with a second one"
        hint="Both are asked at once; both are charged."
        checked={second !== undefined}
        onChange={(isOn) => onModels(first, isOn ? (models.find((model) => model !== first) ?? first) : undefined)}
      />
      {second !== undefined && (
        <SelectField
          label="Second model"
          value={second}
          onChange={(model) => onModels(first, model)}
          choices={choices}
        />
      )}
      <TextArea
        label="System prompt"
        rows={4}
        value={parameters.system}
        onInput={(system) => onChange({ system })}
        placeholder="You are …"
      />
      <div class="form-row">
        <TextField
          label="Temperature"
          inputMode="decimal"
          value={parameters.temperature}
          onInput={(temperature) => onChange({ temperature })}
          placeholder="default"
          error={numberFault(parameters.temperature, 0, 2)}
        />
        <TextField
          label="Top p"
          inputMode="decimal"
          value={parameters.topP}
          onInput={(topP) => onChange({ topP })}
          placeholder="default"
          error={numberFault(parameters.topP, 0, 1)}
        />
        <NumberField
          label="Most tokens"
          value={parameters.maxTokens}
          onInput={(maxTokens) => onChange({ maxTokens })}
          placeholder="default"
          error={numberFault(parameters.maxTokens, 1, 10_000_000, true)}
        />
        <NumberField
          label="Seed"
          value={parameters.seed}
          onInput={(seed) => onChange({ seed })}
          placeholder="random"
          error={numberFault(parameters.seed, 0, Number.MAX_SAFE_INTEGER, true)}
        />
      </div>
      <TextArea
        label="Stop at"
        hint="One text a line."
        rows={2}
        mono
        value={parameters.stop}
        onInput={(stop) => onChange({ stop })}
      />
      <Checkbox
        label="Answer in JSON"
        hint="The prompt has to ask for JSON too."
        checked={parameters.json}
        onChange={(json) => onChange({ json })}
      />
    </div>
  )
}

/** Why a number is none that can be sent; the gateway has the last word. */
function numberFault(text: string, min: number, max: number, isWhole = false): string | undefined {
  if (text.trim() === '') return undefined
  const value = Number(text)
  if (Number.isFinite(value) && value >= min && value <= max && (!isWhole || Number.isInteger(value))) return undefined
  return isWhole ? 'A whole number.' : `From ${min} to ${max}.`
}

export const isFaulty = ({ temperature, topP, maxTokens, seed }: Parameters): boolean =>
  [
    numberFault(temperature, 0, 2),
    numberFault(topP, 0, 1),
    numberFault(maxTokens, 1, 10_000_000, true),
    numberFault(seed, 0, Number.MAX_SAFE_INTEGER, true),
  ].some((fault) => fault !== undefined)

/** The next call as any program would make it. The key stands in no code. */
export function CodeDialog({
  model,
  parameters,
  onClose,
}: {
  model: string
  parameters: Parameters
  onClose: () => void
}) {
  const messages = [
    ...(parameters.system === '' ? [] : [{ role: 'system' as const, content: parameters.system }]),
    { role: 'user' as const, content: 'Say hello.' },
  ]
  const body = bodyOf(model, messages, parameters)
  const json = JSON.stringify(body, undefined, 2)
  const base = window.location.origin
  const curl = `curl -N ${base}/v1/chat/completions \\\n  -H "authorization: Bearer $PENSTOCK_API_KEY" \\\n  -H 'content-type: application/json' \\\n  -d '${json.replaceAll("'", "'\\''")}'`
  const script = `import OpenAI from 'openai'

const client = new OpenAI({ baseURL: '${base}/v1', apiKey: process.env.PENSTOCK_API_KEY })
const stream = await client.chat.completions.create(${json})
for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta.content ?? '')`
  return (
    <Dialog title="As code" onClose={onClose} wide>
      <CopyBlock label="By curl" text={curl} />
      <CopyBlock label="By the official client, in TypeScript" text={script} />
    </Dialog>
  )
}
