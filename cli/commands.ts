// Every command there is, in the order of the help text. Owns the list alone; a noun is a file of nouns/.
import type { Command } from './command.ts'
import { backendCommands } from './nouns/backends.ts'
import { catalogCommands } from './nouns/catalog.ts'
import { keyCommands } from './nouns/keys.ts'
import { limitCommands } from './nouns/limits.ts'
import { organisationCommands } from './nouns/orgs.ts'
import { requestCommands } from './nouns/requests.ts'
import { usageCommands } from './nouns/usage.ts'

export const commands: readonly Command[] = [
  ...keyCommands,
  ...organisationCommands,
  ...limitCommands,
  ...usageCommands,
  ...requestCommands,
  ...catalogCommands,
  ...backendCommands,
]
