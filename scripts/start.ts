// The launcher's entry: options in, the running system out, everything ended in every way it can end. Owns signals, exit
// codes and what is printed at the end; bringing the system up is launch.ts.
import { homedir } from 'node:os'
import { relative } from 'node:path'
import { accessArguments } from './admin-access.ts'
import type { Children } from './children.ts'
import { type Launched, launch } from './launch.ts'
import { answerOnce } from './once.ts'
import { parseOptions, type StartOptions } from './options.ts'
import { createProgress } from './progress.ts'
import { Teardown } from './teardown.ts'

const EXIT_FAILURE = 1
const EXIT_USAGE = 2
const EXIT_INTERRUPTED = 130
/** One Ctrl-C arrives several times: from the terminal, from npm, from the process that started us. */
const SAME_SIGNAL_MS = 500
/** The sum of all graces; beyond it the parts are killed. */
const TEARDOWN_MS_MAX = 40_000

const parsed = parseOptions(process.argv.slice(2), {
  env: process.env,
  homeDir: homedir(),
  // npm runs scripts in the package's folder; paths mean the folder where the user typed.
  cwd: process.env.INIT_CWD ?? process.cwd(),
})
switch (parsed.kind) {
  case 'help':
    console.log(parsed.text)
    break
  case 'error':
    console.error(parsed.text)
    process.exitCode = EXIT_USAGE
    break
  case 'start':
    await run(parsed.options)
    break
  default:
    parsed satisfies never
}
// Whatever handle is still open belongs to nothing that matters any more.
process.exit()

async function run(options: StartOptions): Promise<void> {
  const progress = createProgress()
  const teardown = new Teardown()
  const stopping = new AbortController()
  let children: Children | undefined
  let stopAskedMs = Number.POSITIVE_INFINITY
  let ready = false

  const askToStop = (reason: string, again: 'kills' | 'changes nothing') => {
    const nowMs = performance.now()
    if (stopping.signal.aborted) {
      if (again === 'changes nothing' || nowMs - stopAskedMs < SAME_SIGNAL_MS) return
      progress.note('Killed.')
      process.exit(EXIT_INTERRUPTED)
    }
    stopAskedMs = nowMs
    progress.note(`\n${reason}, stopping; Ctrl-C to kill.`)
    stopping.abort(new Error('interrupted'))
  }
  process.on('SIGINT', () => askToStop('SIGINT', 'kills'))
  // Of these a second one can come from whoever started us, as it goes away; only a person is in a hurry.
  for (const signal of ['SIGTERM', 'SIGHUP'] as const) process.on(signal, () => askToStop(signal, 'changes nothing'))
  process.on('disconnect', () => askToStop('The process that started this one is gone', 'changes nothing'))
  process.on('exit', () => children?.killAll())
  const crashed = (error: unknown) => {
    console.error(error)
    process.exit(EXIT_FAILURE)
  }
  process.on('uncaughtException', crashed)
  process.on('unhandledRejection', crashed)

  try {
    const launched = await launch(options, {
      progress,
      teardown,
      signal: stopping.signal,
      onChildren: (all) => {
        children = all
      },
    })
    ready = true
    progress.pause()
    process.on('SIGUSR2', () => {
      progress.note('SIGUSR2, the gateway is being restarted.')
      void launched.restartGateway()
    })
    if (options.once === undefined) {
      tell(launched, await launched.admin.createSignInLink(), options)
      await new Promise<void>((resolve) => stopping.signal.addEventListener('abort', () => resolve()))
    } else {
      await answerOnce(launched, { ...options, prompt: options.once, signal: stopping.signal })
    }
  } catch (error) {
    if (stopping.signal.aborted) process.exitCode = EXIT_INTERRUPTED
    else {
      progress.pause()
      console.error(`\npenstock: ${(error as Error).message}`)
      if (!ready && children !== undefined) console.error(`The logs are in ${options.dataDir}/logs.`)
      process.exitCode = EXIT_FAILURE
    }
  }
  stopping.abort()
  const bound = setTimeout(() => {
    console.error('penstock: stopping took too long; the rest is killed.')
    process.exit(EXIT_FAILURE)
  }, TEARDOWN_MS_MAX)
  const problems = await teardown.run()
  clearTimeout(bound)
  for (const problem of problems) console.error(`penstock: while stopping, ${problem}`)
  if (problems.length > 0) process.exitCode ||= EXIT_FAILURE
  progress.pause()
}

/** What a user needs to begin: address, key, a line that works when pasted. */
function tell(launched: Launched, dashboardUrl: string, options: StartOptions): void {
  const { baseUrl, apiKey, orgId, model, dataDir, databaseUrl } = launched
  if (options.json) {
    console.log(
      JSON.stringify({
        event: 'ready',
        baseUrl,
        dashboardUrl,
        apiKey,
        orgId,
        model,
        dataDir,
        databaseUrl,
        pids: launched.pids(),
      }),
    )
    return
  }
  const body = { model, stream: true, messages: [{ role: 'user', content: 'Write one sentence about rivers.' }] }
  const home = homedir()
  const shown = dataDir.startsWith(`${home}/`) ? `~/${relative(home, dataDir)}` : dataDir
  console.log(`
Penstock serves ${model}.

  Base URL  ${baseUrl}/v1
  API key   ${apiKey}
  Dashboard ${dashboardUrl}
            signs one browser in, within ten minutes; another link: npx penstock sign-in${accessArguments(baseUrl, dataDir)}

  curl -N ${baseUrl}/v1/chat/completions -H 'authorization: Bearer ${apiKey}' -H 'content-type: application/json' -d '${JSON.stringify(body)}'

Data, keys and logs are in ${shown}. Ctrl-C stops everything.`)
}
