// Which time, on which clock, compared with what. Owns the control in the head of a page; the values stand in the address.
import { useEffect, useId, useRef, useState } from 'preact/hooks'
import { dayAndMonth } from '../app/format.ts'
import { remember } from '../app/preferences.ts'
import { PRESET_NAMES, PRESETS, type Preset } from '../app/time-range.ts'
import { browserZone, RANGE_SCHEMA, useRange, useUrlState } from '../app/use-url.ts'
import { localDate } from '../app/zones.ts'
import { Checkbox, Field, TextField } from './field.tsx'
import { Icon } from './icon.tsx'

const ZONES: readonly string[] = ['UTC', ...Intl.supportedValuesOf('timeZone').filter((zone) => zone !== 'UTC')]

export function RangePicker() {
  const [state, set] = useUrlState(RANGE_SCHEMA)
  const { span, zone } = useRange()
  const [isOpen, setOpen] = useState(false)
  const box = useRef<HTMLDivElement>(null)
  const opener = useRef<HTMLButtonElement>(null)
  const id = useId()
  useEffect(() => {
    if (!isOpen) return
    const close = (event: Event) => {
      if (event instanceof KeyboardEvent) {
        if (event.key === 'Escape') closeByKey()
      } else if (!box.current?.contains(event.target as Node)) setOpen(false)
    }
    document.addEventListener('mousedown', close)
    document.addEventListener('keydown', close)
    return () => {
      document.removeEventListener('mousedown', close)
      document.removeEventListener('keydown', close)
    }
  }, [isOpen])
  /** What had the focus is gone with the box: it goes back to where the box came from. */
  const closeByKey = () => {
    setOpen(false)
    opener.current?.focus()
  }

  const dates = { from: localDate(zone, span.fromMs), to: localDate(zone, span.toMs - 1) }
  const choose = (preset: Preset) => {
    if (preset === 'custom') return set({ range: 'custom', ...dates })
    set({ range: preset, from: undefined, to: undefined })
    closeByKey()
  }
  const chooseZone = (next: string) => {
    const isBrowsers = next === browserZone()
    remember('zone', isBrowsers ? undefined : next)
    set({ tz: isBrowsers ? undefined : next })
  }
  const days = `${dayAndMonth(span.fromMs, zone)} – ${dayAndMonth(span.toMs - 1, zone)}`
  const leave = (event: FocusEvent) => {
    // Beside it somebody goes on with the page; a click on nothing is not a leaving.
    if (event.relatedTarget instanceof Node && !box.current?.contains(event.relatedTarget)) setOpen(false)
  }
  return (
    <div class="range" ref={box} onFocusOut={leave}>
      <button
        ref={opener}
        type="button"
        class="button"
        aria-expanded={isOpen}
        aria-controls={id}
        onClick={() => setOpen(!isOpen)}
      >
        <Icon name="calendar" />
        <span>{state.range === 'custom' ? days : PRESET_NAMES[state.range]}</span>
        {state.range !== 'custom' && <span class="range-days">{days}</span>}
        <Icon name="down" />
      </button>
      {isOpen && (
        <div class="popover" id={id} role="dialog" aria-label="Range of time">
          <div class="range-presets">
            {PRESETS.map((preset) => (
              <button
                key={preset}
                type="button"
                class={preset === state.range ? 'range-preset is-on' : 'range-preset'}
                aria-pressed={preset === state.range}
                onClick={() => choose(preset)}
              >
                {PRESET_NAMES[preset]}
              </button>
            ))}
          </div>
          <div class="range-more">
            <div class="range-dates">
              <TextField
                label="From"
                type="date"
                value={dates.from}
                onInput={(from) => from !== '' && set({ range: 'custom', ...dates, from }, { replace: true })}
              />
              <TextField
                label="To, inclusive"
                type="date"
                value={dates.to}
                onInput={(to) => to !== '' && set({ range: 'custom', ...dates, to }, { replace: true })}
              />
            </div>
            <Field label="Time zone">
              {(ids) => (
                <select
                  {...ids}
                  class="select"
                  value={zone}
                  onChange={(event) => chooseZone(event.currentTarget.value)}
                >
                  {!ZONES.includes(zone) && <option value={zone}>{zone}</option>}
                  {ZONES.map((name) => (
                    <option key={name} value={name}>
                      {name}
                    </option>
                  ))}
                </select>
              )}
            </Field>
            <Checkbox
              label="Compare with the period before"
              checked={state.compare}
              onChange={(compare) => set({ compare })}
            />
          </div>
        </div>
      )}
    </div>
  )
}
