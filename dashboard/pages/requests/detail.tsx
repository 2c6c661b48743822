// One request: what was asked and how it ended, every attempt on one axis of time with the reason for it, what it used, and how the cost
// comes about. Owns the dialog; the words for a routing decision are decision.ts, the bill of an attempt bill.ts.
import { useState } from 'preact/hooks'
import { api } from '../../app/api.ts'
import { count, dateTime, duration, nanoUsd, usd, usdExact } from '../../app/format.ts'
import { useLoad } from '../../app/load.ts'
import { href } from '../../app/router.ts'
import { can, orgId } from '../../app/session.ts'
import { labelOf } from '../../app/usage.ts'
import type { AttemptRow, StoredText, UsageRequestDetail } from '../../app/wire.ts'
import { Badge, Status } from '../../parts/badge.tsx'
import { CopyBlock, CopyButton } from '../../parts/copy.tsx'
import { Dialog } from '../../parts/dialog.tsx'
import { Facts } from '../../parts/facts.tsx'
import { Note, Show, Skeleton } from '../../parts/states.tsx'
import { Table } from '../../parts/table.tsx'
import { billOf } from './bill.ts'
import { decisionText, ROLE_WORDS } from './decision.ts'
import { STATUS_KINDS } from './status.ts'
import { Waterfall } from './waterfall.tsx'

export function RequestDetail({ id, zone, onClose }: { id: string; zone: string; onClose: () => void }) {
  const org = orgId.value
  const request = useLoad(`request ${org} ${id}`, (signal) =>
    api.get<UsageRequestDetail>(`/usage/requests/${encodeURIComponent(id)}`, { org }, signal),
  )
  return (
    <Dialog title="Request" onClose={onClose} wide>
      <Show of={request} skeleton={<Skeleton rows={8} height={28} />}>
        {(one) => <Detail request={one} zone={zone} />}
      </Show>
    </Dialog>
  )
}

function Detail({ request, zone }: { request: UsageRequestDetail; zone: string }) {
  const { names, attempt_rows: attempts } = request
  const tags = Object.entries(request.tags)
  const cost = nanoUsd(request.cost_nanousd)
  const absorbed = nanoUsd(request.absorbed_nanousd)
  return (
    <div class="stack">
      <Facts
        facts={[
          [
            'Id',
            <span key="id" class="row">
              <code class="break">{request.id}</code>
              <CopyButton text={request.id} label="Copy the id" bare />
            </span>,
          ],
          [
            'Ended',
            <span key="status" class="row">
              <Status kind={STATUS_KINDS[request.status_class]}>{request.status}</Status>
              {request.http_status !== null && <span class="muted">HTTP {request.http_status}</span>}
            </span>,
          ],
          ['Started', dateTime(Date.parse(request.started_at), zone)],
          [
            'Took',
            `${duration(request.duration_ms)}${request.first_token_ms === null ? '' : `, first token after ${duration(request.first_token_ms)}`}`,
          ],
          [
            'Model',
            request.model === request.model_served ? request.model : `${request.model} → ${request.model_served}`,
          ],
          [
            'Key',
            <a key="key" href={href(`/keys/${request.key_id}`)}>
              {labelOf(request.key_id, 'key', names)}
            </a>,
          ],
          ['Project', labelOf(request.project_id, 'project', names)],
          request.user_id === null ? undefined : ['User', labelOf(request.user_id, 'user', names)],
          request.team_id === null ? undefined : ['Team', labelOf(request.team_id, 'team', names)],
          request.end_user === null ? undefined : ['End user', request.end_user],
          tags.length === 0
            ? undefined
            : [
                'Tags',
                <span key="tags" class="row">
                  {tags.map(([name, value]) => (
                    <Badge key={name}>
                      {name}={value}
                    </Badge>
                  ))}
                </span>,
              ],
          ['Tokens', `${count(request.input_tokens)} in, ${count(request.output_tokens)} out`],
          [
            'Cost',
            <span key="cost" title={usdExact(cost)}>
              {usd(cost)}
              {absorbed !== 0n && <span class="muted"> and {usd(absorbed)} that the gateway bore</span>}
            </span>,
          ],
        ]}
      />
      <section class="stack" aria-labelledby="attempts-head">
        <h3 id="attempts-head">Attempts</h3>
        <Waterfall attempts={attempts} names={names} totalMs={request.duration_ms} />
        {attempts.map((attempt) => (
          <Attempt key={`${attempt.attempt} ${attempt.kind}`} attempt={attempt} request={request} />
        ))}
      </section>
      <StoredResponse request={request} />
    </div>
  )
}

function Attempt({ attempt, request }: { attempt: AttemptRow; request: UsageRequestDetail }) {
  const bill = billOf(attempt)
  const flags = [
    attempt.usage_source === 'estimated' ? 'usage is an estimate' : undefined,
    attempt.usage_source === 'stream_partial' ? 'usage was counted from a stream that broke off' : undefined,
    attempt.inconsistent ? 'the counts of the provider contradict each other' : undefined,
    attempt.pricing === 'part_missing' ? 'a part without a price was charged at the dearest of its side' : undefined,
    attempt.pricing === 'price_missing' ? 'there was no price: charged nothing' : undefined,
  ].filter((one) => one !== undefined)
  const role = attempt.route?.role
  return (
    <details class="attempt" open={request.attempt_rows.length === 1}>
      <summary>
        <span class="attempt-title">
          {attempt.attempt}. {attempt.provider} · {attempt.model_served}
        </span>
        {attempt.kind !== 'attempt' && <Badge kind="accent">{attempt.kind}</Badge>}
        {role !== undefined && <Badge>{ROLE_WORDS[role]}</Badge>}
        <Status kind={STATUS_KINDS[attempt.status_class]}>{attempt.status}</Status>
        <span class="attempt-cost" title={usdExact(nanoUsd(attempt.cost_nanousd))}>
          {usd(nanoUsd(attempt.cost_nanousd))}
          {attempt.charge === 'absorbed' && <span class="muted"> borne by the gateway</span>}
        </span>
      </summary>
      <div class="stack attempt-body">
        {attempt.route !== null && <p>{decisionText(attempt.route, (id) => labelOf(id, 'backend', request.names))}</p>}
        {flags.length > 0 && <Note kind="warning">Here {flags.join('; ')}.</Note>}
        <Table
          caption={`Bill of attempt ${attempt.attempt}`}
          columns={[
            { id: 'part', head: 'Part', cell: ({ label }) => label, value: ({ label }) => label },
            {
              id: 'units',
              head: 'Units',
              align: 'end',
              cell: ({ units }) => count(units),
              value: ({ units }) => units,
            },
            {
              id: 'price',
              head: 'Per million',
              align: 'end',
              cell: ({ perMillion }) => (perMillion === undefined ? '–' : usdExact(perMillion)),
              value: ({ perMillion }) => perMillion,
            },
            {
              id: 'amount',
              head: 'Amount',
              align: 'end',
              cell: ({ amount }) => (amount === undefined ? '–' : usdExact(amount)),
              value: ({ amount }) => amount,
            },
          ]}
          rows={bill.lines}
          rowKey={({ label }) => label}
          foot={{
            part: { text: bill.note ?? 'Cost', csv: 'Cost' },
            amount: { text: usdExact(nanoUsd(attempt.cost_nanousd)), csv: { decimal: attempt.cost_usd } },
          }}
          empty={<p class="muted">Nothing was used.</p>}
        />
        {attempt.raw_usage !== null && (
          <details>
            <summary>What the provider itself said</summary>
            <CopyBlock label="Usage as the provider sent it" text={attempt.raw_usage} />
          </details>
        )}
      </div>
    </details>
  )
}

/** Text is there only where the caller had the response stored, and reading it is written down. */
function StoredResponse({ request }: { request: UsageRequestDetail }) {
  const [isAsked, setAsked] = useState(false)
  const stored = request.stored_response
  const text = useLoad(isAsked ? `text ${request.id}` : undefined, (signal) =>
    api.get<StoredText>(`/usage/requests/${request.id}/text`, { org: orgId.value }, signal),
  )
  if (stored === null)
    return <p class="muted small">Prompts and answers are not kept, unless a caller has a response stored.</p>
  return (
    <section class="stack" aria-labelledby="stored-head">
      <h3 id="stored-head">Stored response</h3>
      {!isAsked && stored.state === 'unreachable' && (
        <p class="muted small">
          Whether a response is stored cannot be told now: what keeps them does not answer. Try again.
        </p>
      )}
      {!isAsked && stored.state !== 'unreachable' && (
        <p class="row">
          <code class="break">{stored.id}</code>
          {can('audit.read') && (
            <button type="button" class="button button-small" onClick={() => setAsked(true)}>
              Show its text
            </button>
          )}
          <span class="muted small">Reading it is written into the audit.</span>
        </p>
      )}
      {isAsked && (
        <Show of={text}>
          {({ input, response }) => (
            <>
              <CopyBlock label="Input items" text={JSON.stringify(input, undefined, 2)} />
              <CopyBlock label="Response" text={JSON.stringify(response, undefined, 2)} />
            </>
          )}
        </Show>
      )}
    </section>
  )
}
