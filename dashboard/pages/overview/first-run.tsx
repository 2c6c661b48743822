// What a new user does next. Owns the three steps that stand in place of empty charts until the first request has come.
import { useEffect } from 'preact/hooks'
import { api, withQuery } from '../../app/api.ts'
import { useLoad } from '../../app/load.ts'
import { href } from '../../app/router.ts'
import { useProject } from '../../app/scope.ts'
import { can, isOperator, orgId } from '../../app/session.ts'
import type { ApiKey, Page, Usage } from '../../app/wire.ts'
import type { Model } from '../../app/wire-admin.ts'
import { Status } from '../../parts/badge.tsx'
import { CopyBlock } from '../../parts/copy.tsx'
import { Card } from '../../parts/page.tsx'

const LOOK_EVERY_MS = 4_000
const YEAR_MS = 365 * 24 * 3_600_000

/** Whether nothing was ever asked; looked at only where the page shows nothing. */
export function useIsFirstRun(isQuiet: boolean): boolean {
  const org = orgId.value
  const project = useProject()
  const ever = useLoad(
    isQuiet ? `ever ${org} ${project}` : undefined,
    (signal) =>
      api.get<Usage>(
        '/usage',
        {
          org,
          project,
          from: new Date(Date.now() - YEAR_MS).toISOString(),
          to: new Date(Date.now() + 3_600_000).toISOString(),
          group_by: 'none',
          latency: 'none',
        },
        signal,
      ),
    { everyMs: LOOK_EVERY_MS },
  )
  return isQuiet && ever.data?.total.requests === 0
}

export function FirstRun({ onArrived }: { onArrived: () => void }) {
  const org = orgId.value
  const keys = useLoad(can('keys.read') ? `first ${org}` : undefined, (signal) =>
    api.get<Page<ApiKey>>(withQuery(`/organisations/${org}/keys`, { limit: 5 }), {}, signal),
  )
  const models = useLoad(isOperator.value ? 'models' : undefined, (signal) =>
    api.get<Page<Model>>('/models', { limit: 1 }, signal),
  )
  // The page behind looks for the first request too.
  useEffect(() => {
    const timer = setInterval(onArrived, LOOK_EVERY_MS)
    return () => clearInterval(timer)
  }, [onArrived])
  const model = models.data?.data[0]?.name ?? 'YOUR_MODEL'
  const usable = keys.data?.data.filter(({ revoked_at: revoked }) => revoked === null) ?? []
  const curl = `export PENSTOCK_KEY=psk_…
curl ${window.location.origin}/v1/chat/completions \\
  -H "authorization: Bearer $PENSTOCK_KEY" \\
  -H 'content-type: application/json' \\
  -d '{"model": "${model}", "messages": [{"role": "user", "content": "Say hello."}]}'`
  const js = `import OpenAI from 'openai'
const client = new OpenAI({ baseURL: '${window.location.origin}/v1', apiKey: process.env.PENSTOCK_KEY })`
  return (
    <Card title="Make your first request">
      <ol class="steps">
        <li>
          <h3>Create a key</h3>
          <p class="muted">
            {usable.length === 0
              ? 'A key belongs to a project, and is shown once. Give it a budget while you are there.'
              : `There ${usable.length === 1 ? 'is a key' : 'are keys'} already (${usable.map(({ name }) => name).join(', ')}). A key is shown once, when it is made: take that one, or make another.`}
          </p>
          {can('keys.write') && (
            <p>
              <a class="button button-primary" href={href('/keys', { new: '1' })}>
                Create a key
              </a>
            </p>
          )}
        </li>
        <li>
          <h3>Call the gateway with it</h3>
          <CopyBlock label="A request by curl" text={curl} />
          <p class="muted">Any OpenAI or Anthropic client works unchanged, for example:</p>
          <CopyBlock label="The official client in JavaScript" text={js} />
        </li>
        <li>
          <h3>See it here</h3>
          <p>
            <Status kind="accent">Waiting for the first request</Status>
          </p>
          <p class="muted">
            It shows up within seconds, with its tokens, its cost and the machine or provider that answered.
          </p>
        </li>
      </ol>
    </Card>
  )
}
