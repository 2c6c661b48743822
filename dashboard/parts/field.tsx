// Forms. Owns labels, hints and errors beside their inputs, the busy state while a form is sent, and the placing of the
// gateway's refusal at the field it names.
import type { ComponentChildren, InputHTMLAttributes } from 'preact'
import { useId, useState } from 'preact/hooks'
import { ApiError } from '../app/api.ts'
import { Icon, type IconName } from './icon.tsx'
import { Failure } from './states.tsx'

type Shared = { label: string; hint?: ComponentChildren; error?: string | undefined }
type InputIds = { id: string; 'aria-describedby'?: string; 'aria-invalid'?: boolean }

/** Any input with its label: `children` is given the attributes that tie them together. */
export function Field({ label, hint, error, children }: Shared & { children: (ids: InputIds) => ComponentChildren }) {
  const id = useId()
  const described = hint === undefined && error === undefined ? {} : { 'aria-describedby': `${id}-about` }
  return (
    <div class="field">
      <label class="field-label" for={id}>
        {label}
      </label>
      {children({ id, ...described, ...(error === undefined ? {} : { 'aria-invalid': true }) })}
      {(hint !== undefined || error !== undefined) && (
        <div id={`${id}-about`} class={error === undefined ? 'field-hint' : 'field-error'}>
          {error ?? hint}
        </div>
      )}
    </div>
  )
}

type TextProps = Shared & {
  value: string
  onInput: (value: string) => void
  type?: 'text' | 'email' | 'url' | 'password' | 'date' | 'datetime-local' | 'search'
  placeholder?: string
  required?: boolean
  mono?: boolean
  autoFocus?: boolean
  list?: readonly string[]
  inputMode?: 'decimal' | 'numeric' | 'text'
  suffix?: string
}

export function TextField({ label, hint, error, value, onInput, mono, list, suffix, type, ...input }: TextProps) {
  return (
    <Field label={label} hint={hint} error={error}>
      {(ids) => (
        <div class={suffix === undefined ? 'input-line' : 'input-line has-suffix'}>
          <input
            {...ids}
            // The types know each kind of input as its own; here the kind is a value.
            {...({ ...input, type, list: list === undefined ? undefined : `${ids.id}-list` } as InputHTMLAttributes)}
            class={mono ? 'input mono' : 'input'}
            value={value}
            autocomplete="off"
            onInput={(event) => onInput(event.currentTarget.value)}
          />
          {suffix !== undefined && <span class="input-suffix">{suffix}</span>}
          {list !== undefined && (
            <datalist id={`${ids.id}-list`}>
              {list.map((word) => (
                <option key={word} value={word} />
              ))}
            </datalist>
          )}
        </div>
      )}
    </Field>
  )
}

/** A whole number as text; what is no number is the caller's to refuse. */
export const NumberField = (props: Omit<TextProps, 'type' | 'inputMode'>) => (
  <TextField {...props} inputMode="numeric" />
)

/** Dollars as decimal text: the gateway parses them exactly. */
export const MoneyField = (props: Omit<TextProps, 'type' | 'inputMode' | 'suffix'>) => (
  <TextField {...props} inputMode="decimal" suffix="USD" />
)

export function TextArea({
  label,
  hint,
  error,
  value,
  onInput,
  rows = 4,
  mono,
  placeholder,
}: TextProps & { rows?: number }) {
  return (
    <Field label={label} hint={hint} error={error}>
      {(ids) => (
        <textarea
          {...ids}
          class={mono ? 'input mono' : 'input'}
          rows={rows}
          placeholder={placeholder}
          value={value}
          onInput={(event) => onInput(event.currentTarget.value)}
        />
      )}
    </Field>
  )
}

/** With an icon the label is for screen readers and the title. */
export type Choice<W extends string = string> = { value: W; label: string; disabled?: boolean; icon?: IconName }

export function SelectField<W extends string>({
  label,
  hint,
  error,
  value,
  onChange,
  choices,
}: Shared & { value: W; onChange: (value: W) => void; choices: readonly Choice<W>[] }) {
  return (
    <Field label={label} hint={hint} error={error}>
      {(ids) => <Select {...ids} value={value} onChange={onChange} choices={choices} />}
    </Field>
  )
}

/** A select without a visible label: give it `aria-label`, or an `id` that a label names. */
export function Select<W extends string>({
  value,
  onChange,
  choices,
  ...ids
}: Partial<InputIds> & {
  'aria-label'?: string
  value: W
  onChange: (value: W) => void
  choices: readonly Choice<W>[]
}) {
  return (
    <select
      {...ids}
      class="select"
      value={value}
      onChange={(event) => {
        const chosen = choices.find((choice) => choice.value === event.currentTarget.value)
        if (chosen !== undefined) onChange(chosen.value)
      }}
    >
      {choices.map((choice) => (
        <option key={choice.value} value={choice.value} disabled={choice.disabled} selected={choice.value === value}>
          {choice.label}
        </option>
      ))}
    </select>
  )
}

export function Checkbox({
  label,
  hint,
  checked,
  onChange,
  disabled,
}: {
  label: ComponentChildren
  hint?: ComponentChildren
  checked: boolean
  onChange: (checked: boolean) => void
  disabled?: boolean
}) {
  return (
    <label class="checkbox">
      <input
        type="checkbox"
        checked={checked}
        disabled={disabled}
        onChange={(event) => onChange(event.currentTarget.checked)}
      />
      <span>
        {label}
        {hint !== undefined && <span class="field-hint">{hint}</span>}
      </span>
    </label>
  )
}

/** A few words of which one holds: a switch between views. Arrow keys move, as in any group of radios. */
export function Segments<W extends string>({
  label,
  value,
  onChange,
  choices,
}: {
  label: string
  value: W
  onChange: (value: W) => void
  choices: readonly Choice<W>[]
}) {
  const name = useId()
  return (
    <fieldset class="segments">
      <legend class="visually-hidden">{label}</legend>
      {choices.map((choice) => (
        <label key={choice.value} class={choice.value === value ? 'segment is-on' : 'segment'}>
          <input
            type="radio"
            name={name}
            value={choice.value}
            checked={choice.value === value}
            disabled={choice.disabled}
            onChange={() => onChange(choice.value)}
          />
          {choice.icon === undefined ? (
            <span>{choice.label}</span>
          ) : (
            <span title={choice.label}>
              <Icon name={choice.icon} />
              <span class="visually-hidden">{choice.label}</span>
            </span>
          )}
        </label>
      ))}
    </fieldset>
  )
}

/**
 * A form that is sent. `children` is given the refusal of a field by the name the API uses, for `error`; a refusal that names
 * none stands above the button.
 */
export function Form({
  onSubmit,
  action,
  danger = false,
  onCancel,
  disabled = false,
  children,
}: {
  /** Throws what the API throws. */
  onSubmit: () => Promise<void>
  action: string
  danger?: boolean
  onCancel?: () => void
  disabled?: boolean
  children: (errorOf: (param: string) => string | undefined) => ComponentChildren
}) {
  const [isBusy, setBusy] = useState(false)
  const [error, setError] = useState<Error | undefined>()
  // The gateway writes places of a list as `limits[0].max`.
  const param = error instanceof ApiError ? error.param?.replaceAll(/\[(\d+)\]/g, '.$1') : undefined
  const taken = new Set<string>()
  const errorOf = (name: string) => {
    // `limits.0.max` is shown at `limits` or at `limits.0`.
    const matches = param === name || param?.startsWith(`${name}.`) === true
    if (matches) taken.add(name)
    return matches ? error?.message : undefined
  }
  const body = children(errorOf)
  return (
    <form
      class="form"
      onSubmit={(event) => {
        event.preventDefault()
        setBusy(true)
        setError(undefined)
        onSubmit()
          .catch((thrown: unknown) => setError(thrown instanceof Error ? thrown : new Error(String(thrown))))
          .finally(() => setBusy(false))
      }}
    >
      {body}
      {error !== undefined && taken.size === 0 && <Failure error={error} title="This was not accepted" />}
      <div class="form-actions">
        {onCancel !== undefined && (
          <button type="button" class="button" onClick={onCancel}>
            Cancel
          </button>
        )}
        <button
          type="submit"
          class={danger ? 'button button-danger' : 'button button-primary'}
          disabled={isBusy || disabled}
        >
          {isBusy ? 'One moment…' : action}
        </button>
      </div>
    </form>
  )
}
