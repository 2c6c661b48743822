// Sign-in. Owns the two ways in: the one-time link, whose code stands in the fragment and leaves the address before anything
// else, and the issuers of an organisation. The sessions themselves are the gateway's.
import { useEffect, useRef, useState } from 'preact/hooks'
import { ApiError, api, withQuery } from '../app/api.ts'
import { useLoad } from '../app/load.ts'
import { BASE, go, href, params, place } from '../app/router.ts'
import { loadSession } from '../app/session.ts'
import { optionalText } from '../app/url-state.ts'
import { useUrlState } from '../app/use-url.ts'
import { TextField } from '../parts/field.tsx'
import { Icon, Mark } from '../parts/icon.tsx'
import { Failure, Note } from '../parts/states.tsx'

type Options = { issuers: { id: string; name: string }[] }
type Attempt = { state: 'none' } | { state: 'signing_in' } | { state: 'failed'; error: Error; code: string }

const SCHEMA = { organisation: optionalText }
/** Longer than a word is typed. */
const TYPING_MS = 350

/** Takes the code out of the address, so that neither history nor a screenshot keeps it. */
function takeCode(): string | undefined {
  const code = new URLSearchParams(place.value.fragment).get('code') ?? undefined
  if (code !== undefined) go(href('/sign-in', { next: params.value.get('next') ?? undefined }), { replace: true })
  return code
}

/** Only pages of the dashboard: a link made by a stranger must not lead elsewhere. */
function nextPage(): string {
  const next = params.value.get('next')
  return next?.startsWith(`${BASE}/`) && !next.startsWith(`${BASE}/sign-in`) ? next : href('/')
}

export default function SignInPage() {
  const [attempt, setAttempt] = useState<Attempt>({ state: 'none' })
  const fragment = place.value.fragment
  const signIn = async (code: string, confirm: boolean) => {
    setAttempt({ state: 'signing_in' })
    try {
      await api.post('/dashboard/session', { code, ...(confirm ? { confirm } : {}) })
      await loadSession()
      go(nextPage(), { replace: true })
    } catch (thrown) {
      setAttempt({ state: 'failed', error: thrown instanceof Error ? thrown : new Error(String(thrown)), code })
    }
  }
  // A second link may be pasted into the same tab: the fragment changes, the page stays.
  useEffect(() => {
    document.title = 'Sign in · Penstock'
    const code = takeCode()
    if (code !== undefined) void signIn(code, false)
  }, [fragment])
  return (
    <main class="alone">
      <div class="sign-in">
        <p class="sign-in-brand">
          <Mark size={28} />
          Penstock
        </p>
        <div class="card sign-in-card">
          <h1>{attempt.state === 'signing_in' ? 'Signing in…' : 'Sign in'}</h1>
          {attempt.state === 'failed' && (
            <Refused attempt={attempt} onConfirm={() => void signIn(attempt.code, true)} />
          )}
          {attempt.state !== 'signing_in' && <Ways />}
        </div>
      </div>
    </main>
  )
}

function Refused({ attempt, onConfirm }: { attempt: { error: Error; code: string }; onConfirm: () => void }) {
  const { error } = attempt
  if (error instanceof ApiError && error.status === 409)
    return (
      <Note kind="warning">
        <p>{error.message}</p>
        <p class="sign-in-again">
          <button type="button" class="button" onClick={onConfirm}>
            Sign in
          </button>
        </p>
      </Note>
    )
  if (error instanceof ApiError && error.status === 401)
    return (
      <Note kind="danger">
        <strong>This link does not work any more.</strong> A link works once, for ten minutes. Ask for a new one, or
        make it yourself as below.
      </Note>
    )
  return <Failure error={error} />
}

function Ways() {
  const [{ organisation }, set] = useUrlState(SCHEMA)
  const [typed, setTyped] = useState(organisation ?? '')
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined)
  const options = useLoad(`options ${organisation ?? ''}`, (signal) =>
    api.get<Options>('/dashboard/sign-in/options', { org: organisation }, signal),
  )
  const type = (text: string) => {
    setTyped(text)
    clearTimeout(timer.current)
    timer.current = setTimeout(() => set({ organisation: text.trim() }, { replace: true }), TYPING_MS)
  }
  const issuers = options.isStale ? [] : (options.data?.issuers ?? [])
  const isUnknown =
    organisation !== undefined && !options.isLoading && options.error === undefined && issuers.length === 0
  return (
    <div class="form">
      <div class="stack sign-in-issuers">
        {issuers.map(({ id, name }) => (
          <a
            key={id}
            class="button button-primary"
            data-reload
            href={withQuery(`${BASE}/oidc/${id}/start`, { return_to: nextPage() })}
          >
            Continue with {name}
            <Icon name="right" />
          </a>
        ))}
        <TextField
          label="Organisation"
          value={typed}
          onInput={type}
          placeholder="acme"
          hint={
            isUnknown
              ? `No sign-in is set up for “${organisation}”.`
              : 'Its short name shows the identity providers it signs in with.'
          }
        />
      </div>
      <details class="sign-in-link">
        <summary>Sign in with a one-time link</summary>
        <p>
          <code>npm start</code> prints one. On the machine that runs the gateway you get another by:
        </p>
        <pre class="sign-in-command">
          <code>npx penstock sign-in</code>
        </pre>
        <p>It works once, for ten minutes. Administrators can make links for the people of their organisation.</p>
      </details>
    </div>
  )
}
