// Start of the dashboard in a browser. Owns the order: theme before the first paint, router, frame (which reads the session).
import { render } from 'preact'
import './styles/index.css'
import { App } from './app/frame.tsx'
import { startRouter } from './app/router.ts'
import { startTheme } from './app/theme.ts'

startTheme()
startRouter()
const root = document.getElementById('app')
if (root !== null) render(<App />, root)
