// What stands around every page: navigation, organisation, theme, who is signed in. Owns the frame and which page is shown in
// it, and the fetching of code that did not come with the entry.
import { Component, type ComponentChildren, type ComponentType } from 'preact'
import { useEffect, useRef, useState } from 'preact/hooks'
import SignInPage from '../pages/sign-in.tsx'
import { Confirmation } from '../parts/dialog.tsx'
import { Segments, Select } from '../parts/field.tsx'
import { Icon, Mark } from '../parts/icon.tsx'
import { Empty, Failure, Skeleton } from '../parts/states.tsx'
import { Toasts, toastError } from '../parts/toast.tsx'
import { PAGES, type PageCode, type PageEntry, type PageProps, pageAt } from './pages.ts'
import { go, href, path } from './router.ts'
import {
  can,
  chooseOrganisation,
  isOperator,
  loadSession,
  organisation,
  organisations,
  orgId,
  session,
  sessionState,
  signOut,
} from './session.ts'
import { chooseTheme, THEMES, theme } from './theme.ts'

const GROUPS = ['Usage', 'Control', 'Platform'] as const
const THEME_NAMES = { system: 'As the system', light: 'Light', dark: 'Dark' } as const

export const SIGN_IN = '/sign-in'

export function App() {
  const state = sessionState.value
  const here = path.value
  const isSigningIn = here === SIGN_IN
  const wasSigningIn = useRef(isSigningIn)
  // Whoever came to sign in had no session to read before.
  useEffect(() => {
    if (wasSigningIn.current && !isSigningIn && sessionState.value.kind === 'loading') void loadSession()
    wasSigningIn.current = isSigningIn
  }, [isSigningIn])
  if (isSigningIn)
    return (
      <Caught>
        <SignInPage />
      </Caught>
    )
  switch (state.kind) {
    case 'loading':
      return <Starting />
    case 'failed':
      return (
        <main class="alone">
          <Failure error={state.error} onRetry={() => void loadSession()} />
        </main>
      )
    case 'signed_out':
      return <ToSignIn />
    case 'signed_in':
      return <Frame />
    default:
      return state satisfies never
  }
}

/** The same boxes as the frame, empty, so that nothing moves when it comes. */
const Starting = () => (
  <div class="frame" aria-busy="true">
    <div class="side" />
    <main class="main">
      <Skeleton rows={4} height={40} />
    </main>
  </div>
)

/** Remembers where the user wanted to go. */
function ToSignIn() {
  useEffect(() => {
    const next = `${window.location.pathname}${window.location.search}`
    go(href(SIGN_IN, { next: next.endsWith('/dashboard/') ? undefined : next, org: undefined }), { replace: true })
  }, [])
  return null
}

function Frame() {
  const [isOpen, setOpen] = useState(false)
  const here = path.value
  const found = pageAt(here)
  const opener = useRef<HTMLButtonElement>(null)
  const main = useRef<HTMLElement>(null)
  useEffect(() => {
    // The link that was followed is hidden with its drawer: who reads by keyboard goes on at the page.
    if (isOpen) main.current?.focus()
    setOpen(false)
  }, [here])
  useEffect(() => {
    if (!isOpen) return
    const close = (event: KeyboardEvent) => {
      if (event.key !== 'Escape') return
      setOpen(false)
      opener.current?.focus()
    }
    document.addEventListener('keydown', close)
    return () => document.removeEventListener('keydown', close)
  }, [isOpen])
  return (
    <div class={isOpen ? 'frame is-open' : 'frame'}>
      <a class="skip" href="#main">
        Skip to the page
      </a>
      <header class="topbar">
        <button
          ref={opener}
          type="button"
          class="icon-button"
          aria-label="Navigation"
          aria-expanded={isOpen}
          aria-controls="side"
          onClick={() => setOpen(!isOpen)}
        >
          <Icon name={isOpen ? 'close' : 'menu'} size={20} />
        </button>
        <a class="brand" href={href('/')}>
          <Mark />
          Penstock
        </a>
        <span class="topbar-org">{organisation.value?.name}</span>
      </header>
      {/* Only what is behind the drawer closes it; Escape and the button do so by keyboard. */}
      {isOpen && <div class="side-shade" onClick={() => setOpen(false)} aria-hidden="true" />}
      <aside class="side" id="side">
        <a class="brand" href={href('/')}>
          <Mark />
          Penstock
        </a>
        <OrganisationChoice />
        <nav aria-label="Pages" class="nav">
          {GROUPS.map((group) => (
            <NavGroup key={group} group={group} current={found?.page} />
          ))}
        </nav>
        <Account />
      </aside>
      <main class="main" id="main" tabIndex={-1} ref={main}>
        <Content found={found} />
      </main>
      <Toasts />
      <Confirmation />
    </div>
  )
}

const sees = ({ needs }: PageEntry): boolean => needs.length === 0 || needs.some(can)

function NavGroup({ group, current }: { group: (typeof GROUPS)[number]; current: PageEntry | undefined }) {
  const pages = PAGES.filter((page) => page.group === group && sees(page))
  if (pages.length === 0) return null
  return (
    <div class="nav-group">
      <p class="nav-head" id={`nav-${group}`}>
        {group}
      </p>
      <ul aria-labelledby={`nav-${group}`}>
        {pages.map((page) => (
          <li key={page.path}>
            <a
              class="nav-link"
              href={href(page.path)}
              aria-current={page === current ? 'page' : undefined}
              // The code is there by the time that the click is.
              onPointerEnter={() => fetchPage(page.path)}
              onFocus={() => fetchPage(page.path)}
            >
              <Icon name={page.icon} />
              {page.title}
            </a>
          </li>
        ))}
      </ul>
    </div>
  )
}

function OrganisationChoice() {
  const current = orgId.value
  if (current === undefined) return null
  if (!isOperator.value || organisations.value.length < 2)
    return <p class="org-name">{organisation.value?.name ?? 'Organisation'}</p>
  return (
    <div class="org-choice">
      <Select
        aria-label="Organisation"
        value={current}
        onChange={chooseOrganisation}
        choices={organisations.value.map(({ id, name }) => ({ value: id, label: name }))}
      />
    </div>
  )
}

function Account() {
  const who = session.value
  if (who === undefined) return null
  const name = who.kind === 'operator' ? 'Operator' : (who.name ?? who.email ?? 'Signed in')
  return (
    <div class="account">
      <Segments
        label="Theme"
        value={theme.value}
        onChange={chooseTheme}
        choices={THEMES.map((value) => ({
          value,
          label: THEME_NAMES[value],
          icon: value === 'light' ? 'sun' : value === 'dark' ? 'moon' : 'system',
        }))}
      />
      <div class="account-line">
        <div class="account-who">
          <span class="account-name" title={who.email}>
            {name}
          </span>
          <span class="muted">{who.kind === 'operator' ? 'this deployment' : who.roles.join(', ')}</span>
        </div>
        <button
          type="button"
          class="icon-button"
          aria-label="Sign out"
          title="Sign out"
          onClick={() =>
            void signOut().then(() => go(href(SIGN_IN, { org: undefined }), { replace: true }), toastError)
          }
        >
          <Icon name="signout" />
        </button>
      </div>
    </div>
  )
}

function Content({ found }: { found: { page: PageEntry; rest: readonly string[] } | undefined }) {
  if (found === undefined)
    return (
      <Empty
        title="There is no such page"
        actions={
          <a class="button" href={href('/')}>
            To the overview
          </a>
        }
      >
        The address may be from an older version of the dashboard.
      </Empty>
    )
  if (!sees(found.page))
    return (
      <Empty title={`${found.page.title} is not for your role`} icon="audit">
        Your role is {session.value?.roles.join(', ')}. An owner of the organisation can change it.
      </Empty>
    )
  if (orgId.value === undefined)
    return (
      <Empty title="There is no organisation yet">
        Make one with <code>POST /admin/v1/organisations</code>, then reload this page.
      </Empty>
    )
  return (
    <Caught key={`${found.page.path} ${orgId.value}`}>
      <Opened key={found.page.path} code={found.page.code} rest={found.rest} />
    </Caught>
  )
}

/** Fetched once; later openings draw at once. */
const fetched = new Map<PageCode, ComponentType<PageProps>>()

async function fetchCode(code: PageCode): Promise<void> {
  if ('fetch' in code) fetched.set(code, await code.fetch())
}

/** Begins to fetch what stands under a path; a failure is found, and told, by whoever opens it. */
export function fetchPage(at: string): void {
  const code = pageAt(at)?.page.code
  if (code !== undefined && !fetched.has(code)) void fetchCode(code).catch(() => undefined)
}

function Opened({ code, rest }: { code: PageCode; rest: readonly string[] }) {
  const [, setTurn] = useState(0)
  const [error, setError] = useState<Error | undefined>()
  const Shown = 'page' in code ? code.page : fetched.get(code)
  useEffect(() => {
    if (Shown !== undefined) return
    fetchCode(code).then(
      () => setTurn((turn) => turn + 1),
      () => setError(new Error('The code of this page could not be fetched; the gateway may have a new version.')),
    )
  }, [code, Shown])
  if (error !== undefined) return <Failure error={error} onRetry={() => window.location.reload()} />
  return Shown === undefined ? <Skeleton rows={4} height={40} /> : <Shown rest={rest} />
}

/** A page that breaks leaves the frame standing, and says what happened. */
class Caught extends Component<{ children: ComponentChildren }, { error?: Error }> {
  override state: { error?: Error } = {}

  static override getDerivedStateFromError(error: unknown) {
    return { error: error instanceof Error ? error : new Error(String(error)) }
  }

  override componentDidCatch(error: unknown) {
    console.error(error)
  }

  render() {
    const { error } = this.state
    return error === undefined ? (
      this.props.children
    ) : (
      <Failure error={error} onRetry={() => window.location.reload()} />
    )
  }
}
