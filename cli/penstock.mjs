#!/usr/bin/env node
// `penstock`: makes sure of the dependencies, then runs main.ts with the installed Node. Works in a clean clone.
import { runInstalled } from '../scripts/install.mjs'

await runInstalled('../cli/main.ts')
