// Start of the dashboard in a browser. Owns the order: theme before the first paint, router, then at once the session and what code
// of the page is not here yet, neither of which waits for the other, and the frame.
import { render } from 'preact'
import './styles/index.css'
import { App, fetchPage, SIGN_IN } from './app/frame.tsx'
import { path, startRouter } from './app/router.ts'
import { loadSession } from './app/session.ts'
import { startTheme } from './app/theme.ts'

startTheme()
startRouter()
// Whoever comes to sign in has no session to read.
if (path.value !== SIGN_IN) void loadSession()
fetchPage(path.value)
const root = document.getElementById('app')
if (root !== null) render(<App />, root)
