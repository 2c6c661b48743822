// One limit as a bar: settled, held apart from it, the pace, and what is left. Owns the line and its words.
import { ago, dateTime, shareOf } from '../../app/format.ts'
import { amountText, METER_WORDS, SCOPE_WORDS, subjectText, windowText } from '../../app/limit-words.ts'
import { href } from '../../app/router.ts'
import type { Names } from '../../app/wire.ts'
import type { LimitState } from '../../app/wire-admin.ts'
import { Badge } from '../../parts/badge.tsx'
import { Meter, MeterLine } from '../../parts/meter.tsx'

export function LimitBar({
  limit,
  names,
  zone,
  onEdit,
}: {
  limit: LimitState
  names: Names
  zone: string
  onEdit: (() => void) | undefined
}) {
  const { meter, projection } = limit
  const max = BigInt(limit.max)
  const held = BigInt(limit.held)
  const settled = BigInt(limit.settled ?? '0')
  const subject = subjectText(limit.scope, limit.subject ?? limit.scope_id, names)
  const name = `${subject}${limit.model === null ? '' : `, ${limit.model}`}`
  const amount = (value: bigint) => amountText(meter, value)
  const isConcurrency = meter === 'concurrency'
  const text = isConcurrency ? `${amount(held)} of ${amount(max)} running` : `${amount(settled)} of ${amount(max)}`
  const share = (value: bigint) => (max === 0n ? 1 : shareOf(value, max))
  return (
    <div class="limit">
      <MeterLine
        name={
          <>
            {limit.scope !== 'org' && subject !== `Each ${SCOPE_WORDS[limit.scope]}` && (
              <span class="muted">{SCOPE_WORDS[limit.scope]} </span>
            )}
            <span class="limit-subject">{name}</span>{' '}
            <span class="muted">
              {METER_WORDS[meter].toLowerCase()} {isConcurrency ? '' : windowText(limit.window)}
            </span>{' '}
            {!limit.hard && (
              <Badge kind="neutral" title="It tells when it is passed, and refuses nothing">
                tells
              </Badge>
            )}
          </>
        }
        text={
          <>
            {limit.settled === null && !isConcurrency ? (
              <span class="muted">not counted yet, of {amount(max)}</span>
            ) : (
              text
            )}
            {!isConcurrency && held > 0n && <span class="muted"> + {amount(held)} held</span>}
          </>
        }
      >
        <Meter
          label={`${name}: ${METER_WORDS[meter]} ${windowText(limit.window)}`}
          used={isConcurrency ? share(held) : share(settled)}
          held={isConcurrency ? 0 : share(held)}
          projected={projection === null ? undefined : share(BigInt(projection.value))}
          text={text}
        />
      </MeterLine>
      <p class="limit-about muted small">
        {limit.remaining !== null && !isConcurrency && <span>{amount(BigInt(limit.remaining))} left</span>}
        {limit.window_end !== null && (
          <span title={dateTime(Date.parse(limit.window_end), zone)}>
            renews {ago(Date.parse(limit.window_end), Date.now())} ({limit.time_zone ?? 'UTC'})
          </span>
        )}
        {projection !== null && (
          <span class={projection.exceeds ? 'limit-exceeds' : undefined}>
            {amount(BigInt(projection.value))} by then at this pace
            {projection.reaches_max_at !== null && `, full ${ago(Date.parse(projection.reaches_max_at), Date.now())}`}
          </span>
        )}
        {limit.scope === 'key' && limit.subject !== null && <a href={href(`/keys/${limit.subject}`)}>Key</a>}
        {onEdit !== undefined && (
          <button type="button" class="button button-small button-quiet" onClick={onEdit}>
            Edit<span class="visually-hidden"> the limits of {name}</span>
          </button>
        )}
      </p>
    </div>
  )
}
