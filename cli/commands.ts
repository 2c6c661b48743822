// Every command there is, in the order of the help text. Owns the list alone; a noun is a file of nouns/.
import type { Command } from './command.ts'
import { backendCommands } from './nouns/backends.ts'
import { backendsWatchCommand } from './nouns/backends-watch.ts'
import { benchCommand } from './nouns/bench.ts'
import { billingCommands } from './nouns/billing.ts'
import { catalogCommands } from './nouns/catalog.ts'
import { chatCommand } from './nouns/chat.ts'
import { completionCommand } from './nouns/completion.ts'
import { configCommands } from './nouns/config.ts'
import { doctorCommand } from './nouns/doctor.ts'
import { keyCommands } from './nouns/keys.ts'
import { limitStateCommand } from './nouns/limit-state.ts'
import { limitCommands } from './nouns/limits.ts'
import { modelsPullCommand } from './nouns/models-pull.ts'
import { organisationCommands } from './nouns/orgs.ts'
import { peopleCommands } from './nouns/people.ts'
import { providerHealthCommand } from './nouns/provider-health.ts'
import { requestCommands } from './nouns/requests.ts'
import { sessionCommands } from './nouns/sessions.ts'
import { statementCommands } from './nouns/statements.ts'
import { upCommand } from './nouns/up.ts'
import { usageCommands } from './nouns/usage.ts'

export const commands: readonly Command[] = [
  upCommand,
  doctorCommand,
  chatCommand,
  ...keyCommands,
  ...organisationCommands,
  ...limitCommands,
  limitStateCommand,
  ...peopleCommands,
  ...sessionCommands,
  ...usageCommands,
  ...requestCommands,
  providerHealthCommand,
  ...catalogCommands,
  modelsPullCommand,
  ...configCommands,
  ...backendCommands,
  backendsWatchCommand,
  ...billingCommands,
  ...statementCommands,
  benchCommand,
  completionCommand(() => commands),
]
