// npm run docs:cli: writes docs/cli.md anew from the commands. Owns the file; its text is cli/page.ts.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { commands } from '../cli/commands.ts'
import { cliPage } from '../cli/page.ts'

writeFileSync(join(import.meta.dirname, '../docs/cli.md'), cliPage(commands))
