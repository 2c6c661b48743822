// Loaded into an agent's process before the agent: notices how far hand-overs have come, and at the moment that it was told of kills
// or stops one of the agent's engines, or the agent itself. Owns where each phase begins, from the agent's side.
import { mkdirSync } from 'node:fs'
import { Agent } from '../../backends/agent.ts'
import { EngineConnection } from '../../backends/engine/client.ts'
import { EngineUnit } from '../../backends/engine-unit.ts'
import { PrefillDesk } from '../../backends/handoff/prefill-desk.ts'
import type { Phase, Strike, Struck } from './strike.ts'

let agent: Agent | undefined
let strike: Strike | undefined

function reached(phase: Phase): void {
  if (strike?.phase !== phase || strike.after-- > 0) return
  const { victim, signal, claim } = strike
  strike = undefined
  try {
    mkdirSync(claim)
  } catch {
    return
  }
  const pid = victim === 'agent' ? process.pid : agent?.enginePids()[victim]
  if (pid === undefined) return
  // Told first: a process that is gone says nothing.
  process.send?.({ pid } satisfies Struck, undefined, undefined, () => process.kill(pid, signal))
}

if (process.send !== undefined) {
  process.on('message', (message) => {
    strike = (message as { strike?: Strike }).strike
  })
  // Nobody waits for the agent on this channel.
  process.channel?.unref()

  const start = Agent.prototype.start
  Agent.prototype.start = function (events) {
    agent = this
    return start.call(this, events)
  }

  const reserve = EngineConnection.prototype.reserve
  EngineConnection.prototype.reserve = function (...given) {
    reached('reserve')
    const reservation = reserve.apply(this, given)
    void reservation.answer.then((answer) => answer?.code === 'ok' && reached('granted'))
    void reservation.arrived.then((hasArrived) => hasArrived && reached('committed'))
    const { taken, release } = reservation
    return Object.assign(reservation, {
      taken: () => {
        taken.call(reservation)
        reached('released')
      },
      release: () => {
        release.call(reservation)
        reached('released')
      },
    })
  }

  const push = PrefillDesk.prototype.push
  PrefillDesk.prototype.push = function (...given) {
    // In its middle: blocks go out from the first step on.
    setTimeout(() => reached('pushing'), 5).unref()
    return push.apply(this, given)
  }

  // A tiny model's prompt is computed as fast as it is sent. As of an engine that has measured nothing, it pays to hand it over.
  const computer = EngineUnit.prototype.computer
  EngineUnit.prototype.computer = function () {
    const { model: _, prefillTokensPerSecond: __, ...unmeasured } = computer.call(this)
    return this.role === 'decode' ? unmeasured : computer.call(this)
  }

  const submit = EngineConnection.prototype.submit
  EngineConnection.prototype.submit = function (parameters, handlers) {
    if (!('reservation' in parameters)) return submit.call(this, parameters, handlers)
    let tokens = 0
    return submit.call(this, parameters, {
      ...handlers,
      token: (token) => {
        if (tokens++ === 4) reached('decoding')
        handlers.token(token)
      },
    })
  }
}
