// Every command there is. Owns the list alone; a noun is a file of nouns/.
import type { Command } from './command.ts'
import { keyCommands } from './nouns/keys.ts'

export const commands: readonly Command[] = [...keyCommands]
