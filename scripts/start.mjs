// `npm start`: makes sure of the dependencies, then runs start.ts with the installed Node. Works in a clean clone.
import { runInstalled } from './install.mjs'

await runInstalled('start.ts')
